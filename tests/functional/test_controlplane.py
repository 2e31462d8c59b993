"""The control plane of lab and tests: identities, restart, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.controlplane import ControlPlane, KubectlFailed, Side
from lab.cp_api import TokenRefused
from lab.cp_settings import Settings
from tests.eventually import eventually

if TYPE_CHECKING:
    from tests.conftest import Api

Netns = Callable[[str], str]


def whoami(api: Api, kubeconfig: Path) -> str:
    text = api.kubectl("auth", "whoami", "--output=json", f"--kubeconfig={kubeconfig}")
    return str(json.loads(text)["status"]["userInfo"]["username"])


def test_an_account_is_itself_and_not_the_administrator(api: Api) -> None:
    assert whoami(api, api.token_for("tortie-agent")) == "system:serviceaccount:tortie-system:tortie-agent"
    assert whoami(api, api.kubeconfig) == "tortie-lab-admin"


def test_rights_are_those_of_deploy_rbac(api: Api) -> None:
    kubeconfig = f"--kubeconfig={api.token_for('tortie-agent')}"
    assert api.kubectl(kubeconfig, "auth", "can-i", "list", "nodes").strip() == "yes"
    with pytest.raises(KubectlFailed):
        api.kubectl(kubeconfig, "get", "secrets", "--all-namespaces")


def test_a_renewed_token_lands_in_the_file_that_clients_read(api: Api) -> None:
    kubeconfig = api.token_for("tortie-agent")
    token_file = Path(json.loads(kubeconfig.read_text())["users"][0]["user"]["tokenFile"])
    before = token_file.read_text()
    api.refresh_token("tortie-agent")
    assert token_file.read_text() != before
    assert token_file.stat().st_mode & 0o777 == 0o600
    assert whoami(api, kubeconfig).endswith(":tortie-agent")


def test_an_unknown_account_gets_one_clear_sentence(api: Api) -> None:
    with pytest.raises(TokenRefused, match="no token for ServiceAccount tortie-system/nobody"):
        api.token_for("nobody")


def test_a_killed_api_server_comes_back_with_all_it_knew(api: Api) -> None:
    namespace = api.namespace()
    url = api.url
    with api.away(), pytest.raises(KubectlFailed, match="refused"):
        api.kubectl("get", "namespaces")
    assert api.url == url
    assert namespace in api.kubectl("get", "namespaces")


def test_in_a_namespace_it_is_reached_through_the_door_and_taken_over_by_another_process(
    netns: Netns, tmp_path: Path
) -> None:
    name = netns("cp")
    subprocess.run(["ip", "-n", name, "address", "add", "10.77.0.10/24", "dev", "lo"], check=True)
    settings = Settings(netns=name, address="10.77.0.10", service_cidrs=("10.96.0.0/16",))
    control_plane = ControlPlane.create(tmp_path, settings)
    try:
        control_plane.start()
        assert control_plane.url(Side.FABRIC) == "https://10.77.0.10:6443"
        assert "kube-system" in control_plane.kubectl("get", "namespaces")
        from_inside = control_plane.kubeconfig_for_user("system:node:n1", groups=("system:nodes",), side=Side.FABRIC)
        kubectl = [
            str(control_plane.binaries.kubectl),
            f"--kubeconfig={from_inside}",
            "auth",
            "whoami",
            "--output=name",
        ]
        subprocess.run(["nsenter", f"--net=/run/netns/{name}", *kubectl], check=True)
        found = ControlPlane.load(tmp_path)
        assert found.processes() == control_plane.processes()
        found.stop()
        assert set(control_plane.processes().values()) == {None}
    finally:
        control_plane.stop()
    assert not list(tmp_path.glob("*.sock"))
    assert not list(tmp_path.glob("*.pid"))


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from lab.controlplane import ControlPlane\n"
        "plane = ControlPlane.create(Path(sys.argv[1])); plane.start()\n"
        "print(*plane.processes().values(), flush=True); signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: set(ControlPlane.load(tmp_path).processes().values()) == {None}, what="no process left")


def test_a_program_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    control_plane = ControlPlane.create(tmp_path, Settings(audit="Everything"))
    try:
        with pytest.raises(RuntimeError, match="kube-apiserver ended at once"):
            control_plane.start()
    finally:
        control_plane.stop()
