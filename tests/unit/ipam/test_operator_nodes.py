"""When a node counts as gone, and what the objects of other kinds are told."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from bgp.filters import parse_filter
from crds.bgp_kinds import (
    BGPConfiguration,
    BGPConfigurationSpec,
    BGPFilter,
    BGPFilterSpec,
    BGPPassword,
    BGPPeer,
    BGPPeerSpec,
    FilterOperation,
    FilterRule,
    PrefixAdvertisement,
    SecretKeyRef,
    SetPriority,
)
from crds.core import NODE_AS_NUMBER, Lease, LeaseSpec, Node, NodeAddress, NodeStatus
from crds.meta import ObjectMeta, Resource
from crds.pools import IPAMConfiguration, IPAMConfigurationSpec, IPPool, IPReservation, IPReservationSpec
from ipam.operator_blocks import BlockIndex
from ipam.operator_defaults import Found, plan_defaults
from ipam.operator_fence import DECOMMISSION, Judge, JudgeTimes, NodeState
from ipam.operator_patience import Patience
from ipam.operator_status import Judged, References, bgp_addresses, judge
from ipam.operator_world import WATCHED, View

TIMES = JudgeTimes()


class Observer:
    """One operator that looks at node n1 at given times."""

    def __init__(self) -> None:
        self.patience = Patience()

    def look(self, now_s: float, *, uid: str = "", lease: Lease | None = None) -> NodeState:
        nodes = {"n1": Node(metadata=ObjectMeta(name="n1", uid=uid))} if uid else {}
        objects: dict[type[Resource], dict[str, Any]] = {kind: {} for kind in WATCHED}
        objects[Node] = nodes
        leases = {lease.metadata.name: lease} if lease else {}
        self.patience.begin(now_s=now_s)
        view = View(index=BlockIndex([]), objects=objects, leases=leases)
        state = Judge(view, patience=self.patience, times=TIMES).node("n1")
        self.patience.end()
        return state


def lease(holder: str, stamp: str, *, mark: str = "", t_s: int | None = 3600) -> Lease:
    meta = ObjectMeta(name="tortie-agent-n1", annotations={DECOMMISSION: mark} if mark else {})
    return Lease(metadata=meta, spec=LeaseSpec(holder_identity=holder, renew_time=stamp, lease_duration_seconds=t_s))


def test_a_deleted_node_is_gone_only_after_its_lease_stood_still_for_t_and_a_grace() -> None:
    observer, after_s = Observer(), TIMES.fence_s + TIMES.grace_s
    assert observer.look(0.0, lease=lease("u1", "a")) is NodeState.SILENT
    assert observer.look(1000.0, lease=lease("u1", "b")) is NodeState.SILENT
    assert observer.look(1000.0 + after_s - 1, lease=lease("u1", "b")) is NodeState.SILENT
    assert observer.look(1000.0 + after_s, lease=lease("u1", "b")) is NodeState.GONE


def test_the_agents_own_t_counts() -> None:
    observer = Observer()
    observer.look(0.0, lease=lease("u1", "a", t_s=7200))
    assert observer.look(TIMES.fence_s + TIMES.grace_s, lease=lease("u1", "a", t_s=7200)) is NodeState.SILENT


def test_a_node_that_comes_back_starts_the_wait_anew() -> None:
    observer, after_s = Observer(), TIMES.fence_s + TIMES.grace_s
    observer.look(0.0, lease=lease("u1", "a"))
    observer.look(after_s - 1, uid="u1", lease=lease("u1", "a"))
    assert observer.look(after_s + 1, lease=lease("u1", "a")) is NodeState.SILENT


def test_a_node_of_the_same_name_is_fenced_like_a_gone_one_until_its_own_agent_renews() -> None:
    observer, after_s = Observer(), TIMES.fence_s + TIMES.grace_s
    assert observer.look(0.0, uid="u2", lease=lease("u1", "a")) is NodeState.SILENT
    assert observer.look(after_s, uid="u2", lease=lease("u1", "a")) is NodeState.GONE
    assert observer.look(after_s + 1, uid="u2", lease=lease("u2", "b")) is NodeState.CONNECTED


def test_an_agent_is_connected_only_when_it_was_seen_to_renew() -> None:
    observer = Observer()
    assert observer.look(0.0, uid="u1", lease=lease("u1", "a")) is NodeState.SILENT
    assert observer.look(10.0, uid="u1", lease=lease("u1", "b")) is NodeState.CONNECTED
    assert observer.look(10.0 + TIMES.silent_s, uid="u1", lease=lease("u1", "b")) is NodeState.SILENT
    assert Observer().look(0.0, uid="u1") is NodeState.AGENTLESS


def test_a_decommission_mark_counts_while_the_lease_stands_still() -> None:
    observer = Observer()
    for now_s in range(0, 600, 10):
        renewing = lease("u1", str(now_s), mark="u1")
        assert observer.look(float(now_s), uid="u1", lease=renewing) is not NodeState.GONE
    still = lease("u1", "590", mark="u1")
    observer.look(600.0, uid="u1", lease=still)
    assert observer.look(600.0 + TIMES.decommission_s, uid="u1", lease=still) is NodeState.GONE
    other = Observer()
    other.look(0.0, lease=lease("u1", "a", mark="u9"))
    assert other.look(TIMES.decommission_s + 1, lease=lease("u1", "a", mark="u9")) is NodeState.SILENT


def peer(**spec: object) -> BGPPeer:
    return BGPPeer(metadata=ObjectMeta(name="p"), spec=BGPPeerSpec(**spec))  # type: ignore[arg-type]


def config(name: str = "default", **spec: object) -> BGPConfiguration:
    return BGPConfiguration(metadata=ObjectMeta(name=name), spec=BGPConfigurationSpec(**spec))  # type: ignore[arg-type]


def ipam(**spec: object) -> IPAMConfiguration:
    return IPAMConfiguration(metadata=ObjectMeta(name="default"), spec=IPAMConfigurationSpec(**spec))  # type: ignore[arg-type]


def rule(**fields: object) -> BGPFilter:
    made = FilterRule(**fields)  # type: ignore[arg-type]
    return BGPFilter(metadata=ObjectMeta(name="f"), spec=BGPFilterSpec(import_v4=(made,)))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (peer(peer_ip="192.0.2.300", as_number=1), "spec.peerIP: "),
        (peer(peer_ip="192.0.2.1"), "spec.asNumber: must be given"),
        (peer(peer_ip="0.0.0.0", as_number=1), "spec.peerIP: must be an address that a router can have"),
        (peer(), "spec.peerIP: must be given, or else"),
        (peer(peer_ip="192.0.2.1", as_number=1, node="a", node_selector="all()"), "spec.nodeSelector: "),
        (peer(peer_ip="192.0.2.1", as_number=1, node_selector="x y"), "spec.nodeSelector: "),
        (peer(peer_ip="192.0.2.1", as_number=1, keepalive_time="soon"), "spec.keepaliveTime: "),
        (peer(peer_ip="192.0.2.1", as_number=1, reachable_by="fd00::1"), "spec.reachableBy: "),
        (config("other"), "metadata.name: "),
        (config(as_number=0), "spec.asNumber: must lie in 1..4294967295, is 0"),
        (config(prefix_advertisements=(PrefixAdvertisement(cidr="10.0.0.0/8", communities=("nope",)),)), "spec.prefix"),
        (ipam(max_blocks_per_host=3), "spec.maxBlocksPerHost: is 3; above 0 it needs strictAffinity: true"),
        (ipam(auto_allocate_blocks=False), "spec.autoAllocateBlocks: "),
        (rule(action="Drop"), "spec.importV4[0].action: must be Accept or Reject, is 'Drop'"),
        (rule(action="Accept", cidr="fd00::/8", match_operator="In"), "spec.importV4[0].cidr: must be an IPv4 range"),
        (IPReservation(spec=IPReservationSpec(reserved_cidrs=("10.0.0.0/33",))), "spec.reservedCIDRs[0]: "),
    ],
)
def test_a_bad_object_is_told_which_field(bad: Judged, field: str) -> None:
    said = judge(bad, References())
    assert (said.holds, said.reason) == (False, "InvalidSpec")
    assert said.message.startswith(field)


@pytest.mark.parametrize(
    "good",
    [
        peer(peer_ip="[fd00::1]:1790", as_number=4200000000, node_selector="rack == 'r1'"),
        peer(peer_selector="role == 'rr'"),
        config("node.n1", as_number=64512),
        ipam(strict_affinity=True, max_blocks_per_host=3),
        rule(action="Accept", cidr="10.0.0.0/8", match_operator="In"),
    ],
)
def test_a_good_object_is_accepted(good: Judged) -> None:
    assert judge(good, References()).holds


OPERATION = FilterOperation(set_priority=SetPriority(value=1))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"import_v4": (FilterRule(action="Accept", interface="eth0"),)},
            "spec.importV4[0].interface: cannot be followed yet, so the rule accepts nothing",
        ),
        (
            {"import_v6": (FilterRule(action="Accept"), FilterRule(action="Reject", priority=7))},
            "spec.importV6[1].priority: cannot be followed yet, so the rule rejects whatever its cidr matches",
        ),
        (
            {"import_v4": (FilterRule(action="Accept", operations=(OPERATION,)),)},
            "spec.importV4[0].operations: cannot be followed yet; the routes are accepted as they come",
        ),
        (
            {"export_v4": (FilterRule(action="Reject"),)},
            "spec.exportV4: cannot be followed yet, so routes are announced as if it were empty",
        ),
    ],
)
def test_a_filter_is_not_called_in_use_where_the_agent_does_not_follow_it(spec: dict[str, Any], sentence: str) -> None:
    made = BGPFilter(metadata=ObjectMeta(name="f"), spec=BGPFilterSpec(**spec))
    said = judge(made, References())
    assert (said.holds, said.reason, said.message) == (False, "NotSupported", sentence)
    assert [str(problem) for problem in parse_filter(made)[1]] == [f"BGPFilter f: {sentence}"], (
        "the agent says the same"
    )


def test_a_secret_that_may_not_be_read_is_not_called_missing() -> None:
    with_password = peer(
        peer_ip="192.0.2.1", as_number=1, password=BGPPassword(secret_key_ref=SecretKeyRef(name="tor", key="k"))
    )
    assert judge(with_password, References()).holds
    assert judge(with_password, References(secrets={"tor": None})).reason == "MissingSecret"
    assert judge(with_password, References(secrets={"tor": ("k",)})).holds


def test_a_peer_that_is_a_node_needs_no_as_number_of_its_own() -> None:
    addresses = NodeStatus(addresses=(NodeAddress(type="InternalIP", address="192.0.2.1"),))
    node = Node(metadata=ObjectMeta(name="n1"), status=addresses)
    odd = Node(metadata=ObjectMeta(name="n2", annotations={NODE_AS_NUMBER: "many"}), status=addresses)
    at_node = peer(peer_ip="192.0.2.1:1790")
    assert judge(at_node, References(node_addresses=bgp_addresses([node]))).holds
    for others in ([], [odd]):
        said = judge(at_node, References(node_addresses=bgp_addresses(others)))
        assert said.message == "spec.asNumber: must be given, for 192.0.2.1 is no node of this cluster"


def made(found: Found, **environment: str) -> dict[str, object]:
    return {a.obj.kind: a.obj for a in plan_defaults(found, environment=environment, guid="g")}


def fresh(**foreign: str) -> Found:
    ranges = {name: ip_network(text) for name, text in foreign.items()}
    return Found(pools=(), has_configuration=False, has_information=False, foreign=ranges)


def cidr(found: Found, **environment: str) -> str:
    pool = made(found, **environment).get("IPPool")
    return pool.spec.cidr if isinstance(pool, IPPool) else ""


def test_the_default_pool_steps_aside_for_nodes_and_services() -> None:
    assert cidr(fresh()) == "192.168.0.0/16"
    assert cidr(fresh(node="192.168.1.10/32")) == "10.244.0.0/16"


def test_a_range_that_was_asked_for_is_made_as_asked() -> None:
    assert cidr(fresh(), TORTIE_IPV4POOL_CIDR="10.7.0.0/16", CALICO_IPV4POOL_CIDR="10.8.0.0/16") == "10.7.0.0/16"
    assert cidr(fresh(), CALICO_IPV4POOL_CIDR="10.8.0.0/16") == "10.8.0.0/16"
    assert cidr(fresh(node="10.7.0.1/32"), TORTIE_IPV4POOL_CIDR="10.7.0.0/16") == "10.7.0.0/16"


@pytest.mark.parametrize("environment", [{"NO_DEFAULT_POOLS": "true"}, {"TORTIE_IPV4POOL_CIDR": "10.7.0.1/16"}])
def test_no_pool_is_made_when_none_is_wanted_or_the_wish_cannot_be_read(environment: dict[str, str]) -> None:
    found = made(fresh(), **environment)
    assert set(found) == {"IPAMConfiguration", "ClusterInformation"}


def test_only_the_first_start_makes_a_pool() -> None:
    later = Found(pools=(), has_configuration=True, has_information=True, foreign={})
    assert made(later) == {}
