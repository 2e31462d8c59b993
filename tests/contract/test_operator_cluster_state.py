"""The operator as a real process against a real API server, with the rights of deploy/rbac and no others.

Each test takes a range of addresses and names of its own; one operator serves them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab.controlplane import KubectlFailed
from tests.contract.operator_cluster import (
    Cluster,
    Operator,
    affinity,
    agent_lease,
    block,
    calico,
    node,
    own_cluster,
)
from tests.eventually import eventually

pytestmark = pytest.mark.cluster_api


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with own_cluster(tmp_path_factory.mktemp("operator")) as made:
        made.apply(node("here"))
        yield made


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> Operator:
    started = cluster.start_operator()
    eventually(started.leads, within_s=30, what="the operator leads")
    eventually(lambda: cluster.get("clusterinformation", "default"), within_s=30, what="defaults")
    return started


def says(cluster: Cluster, kind: str, name: str, status: str, reason: str) -> str:
    """Wait for a condition; returns its message."""

    def now() -> list[str]:
        found = cluster.condition(kind, name)
        assert found[:2] == (status, reason), found
        return [found[2]]

    return str(eventually(now, within_s=30, every_s=0.2, what=f"{kind} {name} is {status} {reason}")[0])


def spec_of(cluster: Cluster, kind: str, name: str) -> dict[str, Any]:
    found = cluster.get(kind, name)
    assert found is not None, f"no {kind} {name}"
    return dict(found["spec"])


def test_a_fresh_cluster_gets_its_defaults(cluster: Cluster, operator: Operator) -> None:
    information = spec_of(cluster, "clusterinformation", "default")
    assert re.fullmatch("[0-9a-f]{32}", information["clusterGUID"])
    assert information["datastoreReady"] is True
    assert "calicoVersion" not in information
    assert spec_of(cluster, "ipamconfiguration", "default")["strictAffinity"] is True
    assert spec_of(cluster, "ippool", "default-ipv4-ippool")["cidr"] == "192.168.0.0/16"
    says(cluster, "ippool", "default-ipv4-ippool", "True", "OK")
    says(cluster, "ipamconfiguration", "default", "True", "OK")


def test_a_second_start_changes_nothing_that_a_user_set(cluster: Cluster, operator: Operator) -> None:
    cluster.control_plane.kubectl(
        "patch", "ipamconfiguration", "default", "--type=merge", "-p", '{"spec":{"maxBlocksPerHost":7}}'
    )
    cluster.delete("ippool", "default-ipv4-ippool")
    cluster.gone("ippool", "default-ipv4-ippool")
    operator.process.terminate()
    assert operator.process.wait(timeout=20) == 0, operator.text()
    again = cluster.start_operator()
    operator.process, operator.port, operator.log = again.process, again.port, again.log
    eventually(operator.leads, within_s=30, what="the operator leads again")
    eventually(lambda: operator.metric("tortie_operator_passes_total") >= 2, within_s=30)
    assert cluster.get("ippool", "default-ipv4-ippool") is None
    assert spec_of(cluster, "ipamconfiguration", "default")["maxBlocksPerHost"] == 7


def test_overlapping_and_disabled_pools_say_so_and_recover(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(calico("IPPool", "wide", cidr="10.10.0.0/16"))
    says(cluster, "ippool", "wide", "True", "OK")
    cluster.apply(calico("IPPool", "narrow", cidr="10.10.4.0/24"))
    assert (
        says(cluster, "ippool", "narrow", "False", "CIDROverlap") == "10.10.4.0/24 overlaps 10.10.0.0/16 of pool wide"
    )
    cluster.control_plane.kubectl("patch", "ippool", "wide", "--type=merge", "-p", '{"spec":{"disabled":true}}')
    says(cluster, "ippool", "wide", "False", "PoolDisabled")
    says(cluster, "ippool", "narrow", "True", "OK")


def test_a_bad_selector_is_told_with_its_field(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(calico("IPPool", "badsel", cidr="10.11.0.0/16", nodeSelector="rack = 'r1'"))
    assert says(cluster, "ippool", "badsel", "False", "InvalidSpec").startswith("spec.nodeSelector: ")


def test_a_pool_in_use_is_not_deleted_and_says_who_uses_it(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(calico("IPPool", "used", cidr="10.12.0.0/16"))
    says(cluster, "ippool", "used", "True", "OK")
    cluster.apply(block("10.12.0.0/26", node_name="here", pods={3: "here/net.a"}), affinity("10.12.0.0/26", "here"))
    cluster.delete("ippool", "used")
    message = says(cluster, "ippool", "used", "False", "Terminating")
    eventually(
        lambda: "1 address in use: shop/web-3 (10.12.0.3)" in cluster.condition("ippool", "used")[2],
        within_s=20,
        what=f"the message names the pod; was {message!r}",
    )
    assert spec_of(cluster, "ipamblock", "10-12-0-0-26")["allocations"][3] == 0
    cluster.apply(block("10.12.0.0/26", node_name="here"))
    for kind, name in (("ipamblock", "10-12-0-0-26"), ("blockaffinity", "here-10-12-0-0-26"), ("ippool", "used")):
        cluster.gone(kind, name)


GONE = (None, None)
OURS = ("host:here", "confirmed")
OTHERS = ("host:twin", None)
HALF_STATES = {
    # third byte: affinity state (None: no affinity), block owner (None: no block), in use, what is left
    0: ("pending", None, {}, GONE),
    1: ("pending", "here", {}, OURS),
    2: ("pending", "twin", {1: "twin/net.b"}, OTHERS),
    3: ("confirmed", None, {}, OURS),
    4: ("pendingDeletion", None, {}, GONE),
    5: ("pendingDeletion", "here", {}, GONE),
    6: ("pendingDeletion", "here", {1: "here/net.c"}, OURS),
    7: (None, "here", {}, GONE),
    8: (None, "here", {1: "here/net.d"}, OURS),
    9: (None, "nobody", {}, GONE),
    10: ("deleted", None, {}, GONE),
    11: ("confirmed", "twin", {1: "twin/net.e"}, OTHERS),
}


@pytest.mark.parametrize("third", HALF_STATES)
def test_every_half_state_heals(cluster: Cluster, operator: Operator, third: int) -> None:
    state, owner, pods, left = HALF_STATES[third]
    cidr = f"10.13.{third}.0/26"
    objects = []
    if state == "deleted":
        objects.append(affinity(cidr, "here", state="pending", deleted=True))
    elif state is not None:
        objects.append(affinity(cidr, "here", state=state))
    if owner is not None:
        objects.append(block(cidr, node_name=None if owner == "nobody" else owner, pods=pods))
    cluster.apply(calico("IPPool", "half", cidr="10.13.0.0/16"), node("twin"))
    says(cluster, "ippool", "half", "True", "OK")
    cluster.apply(*objects)

    def healed() -> bool:
        found = cluster.get("ipamblock", f"10-13-{third}-0-26")
        owner = found["spec"].get("affinity") if found else None
        claim = cluster.get("blockaffinity", f"here-10-13-{third}-0-26")
        assert (owner, claim["spec"]["state"] if claim else None) == left
        return True

    eventually(healed, within_s=30, every_s=0.2)


def test_blocks_of_a_gone_node_are_freed_only_after_the_fence(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(calico("IPPool", "fence", cidr="10.14.0.0/16"), node("gone-soon"))
    cluster.apply(
        block("10.14.0.0/26", node_name="gone-soon", pods={1: "gone-soon/net.f", 2: "here/net.g"}),
        affinity("10.14.0.0/26", "gone-soon"),
        block("10.14.1.0/26", node_name="gone-soon", pods={5: "gone-soon/net.f"}),
        affinity("10.14.1.0/26", "gone-soon"),
        calico("IPAMHandle", "net.f", handleID="net.f", block={"10.14.0.0/26": 1, "10.14.1.0/26": 1}),
    )
    renewals = iter(range(1000))

    def renew() -> None:
        stamp = f"2026-01-01T00:00:00.{next(renewals):06d}Z"
        cluster.apply(agent_lease("gone-soon", holder="uid-1", renewed=stamp))

    renew()
    cluster.delete("node", "gone-soon")
    before = operator.metric("tortie_operator_passes_total")

    def many_passes_under_renewal() -> bool:
        renew()
        return operator.metric("tortie_operator_passes_total") > before + 15

    eventually(many_passes_under_renewal, within_s=60, every_s=0.1)
    assert spec_of(cluster, "ipamblock", "10-14-1-0-26")["allocations"][5] == 0, "freed while its agent renewed"
    for kind, name in (
        ("ipamblock", "10-14-1-0-26"),
        ("blockaffinity", "gone-soon-10-14-1-0-26"),
        ("blockaffinity", "gone-soon-10-14-0-0-26"),
        ("ipamhandle", "net.f"),
    ):
        cluster.gone(kind, name)
    left = spec_of(cluster, "ipamblock", "10-14-0-0-26")
    assert "affinity" not in left
    assert [o for o, index in enumerate(left["allocations"]) if index is not None] == [2], "borrowed by a live node"
    eventually(lambda: cluster.get("lease", "tortie-agent-gone-soon", namespace="tortie-system") is None, within_s=20)


def test_a_decommission_mark_counts_for_the_marked_node_alone(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(calico("IPPool", "marks", cidr="10.15.0.0/16"))
    for number, mark in ((0, "uid-other"), (1, "uid-1")):
        cidr, name = f"10.15.{number}.0/26", f"marked-{number}"
        lease = agent_lease(name, holder="uid-1", renewed="2026-01-01T00:00:00.000000Z")
        lease["metadata"]["annotations"] = {"tortie.dev/decommission": mark}
        lease["spec"]["leaseDurationSeconds"] = 3600
        cluster.apply(lease, block(cidr, node_name=name, pods={1: f"{name}/net.h{number}"}), affinity(cidr, name))
    cluster.gone("ipamblock", "10-15-1-0-26")
    assert spec_of(cluster, "ipamblock", "10-15-0-0-26")["allocations"][1] == 0


def test_conditions_of_other_kinds_name_field_and_missing_things(cluster: Cluster, operator: Operator) -> None:
    password = {"secretKeyRef": {"name": "tor", "key": "password"}}
    cluster.apply(calico("BGPPeer", "tor", peerIP="192.0.2.1", asNumber=64600, password=password))
    assert "no Secret 'tor'" in says(cluster, "bgppeer", "tor", "False", "MissingSecret")
    kubectl = cluster.control_plane.kubectl
    kubectl("-n", "tortie-system", "create", "secret", "generic", "tor", "--from-literal=other=x")
    eventually(lambda: "no key 'password'" in cluster.condition("bgppeer", "tor")[2], within_s=20)
    kubectl("-n", "tortie-system", "patch", "secret", "tor", "-p", '{"stringData":{"password":"swordfish"}}')
    says(cluster, "bgppeer", "tor", "True", "OK")
    assert "swordfish" not in operator.text()
    cluster.apply(calico("BGPPeer", "lost", peerIP="192.0.2.2", asNumber=64600, filters=["nowhere"]))
    assert "'nowhere'" in says(cluster, "bgppeer", "lost", "False", "MissingFilter")
    cluster.apply(calico("BGPPeer", "selects", peerSelector="rack = 'r1'"))
    assert says(cluster, "bgppeer", "selects", "False", "InvalidSpec").startswith("spec.peerSelector: ")
    merge = '{"spec":{"strictAffinity":false,"maxBlocksPerHost":3}}'
    try:
        kubectl("patch", "ipamconfiguration", "default", "--type=merge", "-p", merge)
    except KubectlFailed:
        return  # refused at the door already
    assert "strictAffinity" in says(cluster, "ipamconfiguration", "default", "False", "InvalidSpec")
    kubectl("patch", "ipamconfiguration", "default", "--type=merge", "-p", '{"spec":{"strictAffinity":true}}')
    says(cluster, "ipamconfiguration", "default", "True", "OK")


def test_an_idle_cluster_sees_no_writes(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(calico("IPPool", "quiet", cidr="10.16.0.0/16"))
    says(cluster, "ippool", "quiet", "True", "OK")
    seen: list[dict[str, str]] = [{}]

    def unchanged() -> bool:
        seen.append(cluster.versions())
        return seen[-1] == seen[-2]

    def still_unchanged_after_many_passes() -> bool:
        eventually(unchanged, within_s=30, every_s=1.0)
        writes, passes = (
            operator.metric("tortie_operator_writes_total"),
            operator.metric("tortie_operator_passes_total"),
        )
        eventually(lambda: operator.metric("tortie_operator_passes_total") > passes + 20, within_s=60)
        return unchanged() and operator.metric("tortie_operator_writes_total") == writes

    eventually(still_unchanged_after_many_passes, within_s=90)
    cluster.control_plane.kubectl("patch", "ippool", "quiet", "--type=merge", "-p", '{"spec":{"disabled":true}}')
    says(cluster, "ippool", "quiet", "False", "PoolDisabled")
    assert not unchanged(), "the positive control: a change is seen by the same measure"


def test_no_object_bears_a_mark_of_kopf(cluster: Cluster, operator: Operator) -> None:
    kinds = "ippools,ipamblocks,blockaffinities,ipamhandles,ipamconfigurations,bgppeers,nodes,clusterinformations"
    assert "kopf" not in json.dumps(cluster.list(kinds)).lower()
    assert "403" not in operator.text(), "a right is missing in deploy/rbac"
    assert "Forbidden" not in operator.text()


@pytest.mark.parametrize(
    ("verb", "resource", "where"),
    [
        ("get", "pods", "-A"),
        ("patch", "nodes", "-A"),
        ("update", "ippools", "-A"),
        ("delete", "ippools", "-A"),
        ("update", "ipamconfigurations", "-A"),
        ("get", "secrets", "--namespace=kube-system"),
        ("list", "secrets", "--namespace=tortie-system"),
        ("get", "leases", "--namespace=kube-system"),
        ("create", "pods", "--namespace=tortie-system"),
        ("escalate", "clusterroles", "-A"),
        ("create", "events", "--namespace=default"),
        ("watch", "leases", "--namespace=tortie-system"),
        ("update", "clusterinformations", "-A"),
    ],
)
def test_what_the_operator_does_not_need_is_forbidden(cluster: Cluster, verb: str, resource: str, where: str) -> None:
    mine = cluster.control_plane.kubeconfig_for_account("tortie-operator")
    with pytest.raises(KubectlFailed):
        cluster.control_plane.kubectl("auth", "can-i", verb, resource, where, "-q", f"--kubeconfig={mine}")


@pytest.mark.parametrize(
    ("account", "verb", "resource", "allowed"),
    [
        ("tortie-operator", "update", "ippools/status", True),
        ("tortie-agent", "patch", "pods/status", True),
        ("tortie-agent", "update", "ipamblocks", True),
        ("tortie-agent", "patch", "pods", False),
        ("tortie-agent", "patch", "nodes", False),
        ("tortie-agent", "update", "ippools", False),
        ("tortie-agent", "update", "ippools/status", False),
        ("tortie-agent", "get", "secrets", False),
        ("tortie-agent", "create", "events", False),
        ("tortie-agent", "list", "endpointslices", False),
    ],
)
def test_rights_are_as_the_roles_say(cluster: Cluster, account: str, verb: str, resource: str, allowed: bool) -> None:  # noqa: FBT001
    name, _, sub = resource.partition("/")
    mine = cluster.control_plane.kubeconfig_for_account(account)
    question = ["auth", "can-i", verb, name, f"--kubeconfig={mine}", "-q", "--namespace=default"]
    if sub:
        question.append(f"--subresource={sub}")
    if allowed:
        cluster.control_plane.kubectl(*question)
    else:
        with pytest.raises(KubectlFailed):
            cluster.control_plane.kubectl(*question)
