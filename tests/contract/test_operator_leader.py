"""Two replicas, one Lease: who leads, who takes over, and that a loser ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.operator_cluster import Cluster, Operator, calico, own_cluster
from tests.eventually import eventually

pytestmark = pytest.mark.cluster_api


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with own_cluster(tmp_path_factory.mktemp("leader")) as made:
        yield made


def holder(cluster: Cluster) -> str:
    lease = cluster.get("lease", "tortie-operator", namespace="tortie-system")
    return str(lease["spec"].get("holderIdentity", "")) if lease else ""


def pid_of(identity: str) -> int:
    return int(identity.split("_")[-2])


def test_another_replica_takes_over_from_a_killed_leader_and_works(cluster: Cluster) -> None:
    first = cluster.start_operator()
    eventually(first.leads, within_s=30, what="the first leads")
    second = cluster.start_operator()
    eventually(lambda: second.health() == "candidate: ok\n", within_s=30, what="the second waits")
    assert pid_of(holder(cluster)) == first.process.pid
    first.process.kill()
    eventually(second.leads, within_s=30, what="the second leads")
    assert pid_of(holder(cluster)) == second.process.pid
    cluster.apply(calico("IPPool", "after", cidr="10.20.0.0/16"))
    eventually(lambda: cluster.condition("ippool", "after")[:2] == ("True", "OK"), within_s=30)


def test_sigterm_gives_the_lease_back(cluster: Cluster) -> None:
    # A long Lease: whoever takes over within seconds did not wait for it to run out.
    first = cluster.start_operator(TORTIE_LEASE_S="60")
    eventually(first.leads, within_s=30)
    second = cluster.start_operator(TORTIE_LEASE_S="60")
    eventually(lambda: second.health() == "candidate: ok\n", within_s=30)
    first.process.terminate()
    assert first.process.wait(timeout=15) == 0, first.text()
    eventually(second.leads, within_s=20, what="the second leads at once")


def test_a_leader_that_loses_the_lease_ends(cluster: Cluster) -> None:
    operator: Operator = cluster.start_operator()
    eventually(operator.leads, within_s=30)
    thief = '{"spec":{"holderIdentity":"somebody_1_else"}}'
    kubectl = cluster.control_plane.kubectl
    kubectl("-n", "tortie-system", "patch", "lease", "tortie-operator", "--type=merge", "-p", thief)
    assert operator.process.wait(timeout=15) == 1, operator.text()
    assert holder(cluster) == "somebody_1_else", "what was taken is not taken back"


def test_a_leader_that_is_cut_off_ends_before_another_may_lead(cluster: Cluster) -> None:
    operator = cluster.start_operator()
    eventually(operator.leads, within_s=30)
    cluster.control_plane.kill_apiserver()
    assert operator.process.wait(timeout=20) == 1, operator.text()


def test_an_operator_may_start_before_its_kinds_exist(tmp_path_factory: pytest.TempPathFactory) -> None:
    with own_cluster(tmp_path_factory.mktemp("bare"), content=("deploy/rbac",)) as cluster:
        operator = cluster.start_operator()
        eventually(operator.leads, within_s=30)
        eventually(lambda: "cannot start yet" in operator.text(), within_s=30)
        cluster.control_plane.apply(cluster.manifests)
        eventually(lambda: cluster.get("clusterinformation", "default"), within_s=60, every_s=0.5, what="defaults")
        cluster.apply(calico("IPPool", "late", cidr="10.21.0.0/16"))
        eventually(lambda: cluster.condition("ippool", "late")[:2] == ("True", "OK"), within_s=60, every_s=0.5)
