"""`kopf run -m ipam.handlers`: the operator without leader election, as a person debugs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.contract.operator_cluster import QUICK, REPOSITORY, calico, own_cluster
from tests.eventually import eventually

pytestmark = pytest.mark.cluster_api


def test_kopf_runs_the_module_by_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    with own_cluster(tmp_path_factory.mktemp("plain")) as cluster:
        kubeconfig = cluster.control_plane.kubeconfig_for_account("tortie-operator")
        command = [sys.executable, "-m", "kopf", "run", "-m", "ipam.handlers", "--standalone", "--all-namespaces"]
        with (cluster.state / "kopf.log").open("wb") as out:
            environment = {**os.environ, **QUICK, "KUBECONFIG": str(kubeconfig)}
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=REPOSITORY, env=environment)
        try:
            cluster.apply(calico("IPPool", "plain", cidr="10.30.0.0/16"))
            eventually(lambda: cluster.condition("ippool", "plain")[:2] == ("True", "OK"), within_s=30, every_s=0.3)
            process.terminate()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            process.wait()
