"""A real API server accepts what is right and refuses what is not, with one sentence that names the field.

Each case is one object, sent as a dry run; a case of a change is two. The sentence is compared whole where it is ours
(CEL) and by its field where it is the API server's own (types, enums, limits).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crds.errors import Invalid
from crds.kube_store import KubeStore

Spec = dict[str, Any]
NO_ENCAP = "Tortie does not encapsulate: spec.{} must be Never"
BLOCK: Spec = {
    "cidr": "10.0.0.0/30",
    "allocations": [None, 0, None, None],
    "unallocated": [0, 2, 3],
    "attributes": [{"handle_id": "h", "secondary": {"pod": "p"}}],
    "strictAffinity": False,
}
AFFINITY: Spec = {"cidr": "10.0.0.0/26", "node": "n1", "state": "pending", "deleted": False}
RULE: Spec = {"action": "Accept"}


@pytest.fixture(scope="module")
def _shared() -> dict[str, KubeStore]:
    return {}


@pytest.fixture
def store(api: Any, _shared: dict[str, KubeStore]) -> Iterator[KubeStore]:
    if "store" not in _shared:
        _shared["store"] = KubeStore(kubeconfig=api.kubeconfig)
    return _shared["store"]


def path(plural: str, name: str = "") -> str:
    return f"/apis/projectcalico.org/v3/{plural}{'/' if name else ''}{name}"


def dry_run(store: KubeStore, plural: str, kind: str, spec: Spec, name: str = "default") -> Spec:
    body = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
    answer = store.request("POST", path(plural) + "?dryRun=All&fieldValidation=Strict", body=body)
    return dict(answer["spec"])


KINDS = {
    "IPPool": "ippools",
    "IPReservation": "ipreservations",
    "IPAMConfiguration": "ipamconfigurations",
    "IPAMBlock": "ipamblocks",
    "BlockAffinity": "blockaffinities",
    "IPAMHandle": "ipamhandles",
    "BGPConfiguration": "bgpconfigurations",
    "BGPPeer": "bgppeers",
    "BGPFilter": "bgpfilters",
    "ClusterInformation": "clusterinformations",
    "CalicoNodeStatus": "caliconodestatuses",
}

ACCEPTED: list[tuple[str, Spec]] = [
    ("IPPool", {"cidr": "10.0.0.0/16"}),
    ("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 32, "ipipMode": "Never", "vxlanMode": "Never"}),
    ("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 0}),
    ("IPPool", {"cidr": "fd00:1::/64", "blockSize": 116, "natOutgoing": True}),
    ("IPPool", {"cidr": "10.0.0.0/30", "disabled": True}),
    ("IPPool", {"cidr": "10.0.0.0/30", "blockSize": 32}),
    ("IPPool", {"cidr": "10.0.0.0/24", "nodeSelector": "rack == '1'", "namespaceSelector": "has(team)"}),
    ("IPPool", {"cidr": "10.0.0.0/24", "allowedUses": ["LoadBalancer"], "assignmentMode": "Manual"}),
    ("IPPool", {"cidr": "10.0.0.0/24", "allowedUses": ["Workload", "Tunnel"]}),
    ("IPReservation", {"reservedCIDRs": ["10.0.0.1/32", "fd00::/120"]}),
    ("IPReservation", {}),
    ("IPAMConfiguration", {"strictAffinity": True, "autoAllocateBlocks": True, "maxBlocksPerHost": 4}),
    ("IPAMConfiguration", {}),
    ("IPAMBlock", BLOCK),
    ("IPAMBlock", BLOCK | {"affinity": "host:node-1.example", "affinityClaimTime": "2026-08-01T00:00:00Z"}),
    ("IPAMBlock", BLOCK | {"affinity": "virtual:load-balancer", "sequenceNumberForAllocation": {"1": 7}}),
    ("BlockAffinity", AFFINITY),
    ("BlockAffinity", AFFINITY | {"state": "", "type": "host"}),
    ("IPAMHandle", {"handleID": "tortie.ABC", "block": {"10.0.0.0/26": 1}}),
    ("BGPConfiguration", {"asNumber": 4294967295, "nodeToNodeMeshEnabled": False, "listenPort": 1790}),
    ("BGPConfiguration", {"nodeMeshMaxRestartTime": "2m30s", "nodeMeshPassword": {"secretKeyRef": {"key": "k"}}}),
    (
        "BGPConfiguration",
        {
            "communities": [{"name": "a", "value": "65535:65535"}, {"name": "b", "value": "1:2:4294967295"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a", "b"]}],
        },
    ),
    ("BGPConfiguration", {"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "logSeverityScreen": "debug"}),
    ("BGPConfiguration", {"localWorkloadPeeringIPV4": "192.0.2.1", "localWorkloadPeeringIPV6": "2001:db8::1"}),
    ("BGPPeer", {"peerIP": "192.0.2.1", "asNumber": 65001}),
    ("BGPPeer", {"peerIP": "192.0.2.1:1790", "asNumber": 65001, "node": "n1"}),
    ("BGPPeer", {"peerIP": "2001:db8::1", "asNumber": 65001, "nodeSelector": "rack == '1'"}),
    ("BGPPeer", {"peerIP": "[2001:db8::1]:1790", "asNumber": 65001, "reachableBy": "2001:db8::2"}),
    ("BGPPeer", {"peerSelector": "has(rr)", "maxRestartTime": "120s", "keepaliveTime": "10s"}),
    ("BGPPeer", {"localWorkloadSelector": "all()", "asNumber": 65001, "sourceAddress": "None"}),
    ("BGPPeer", {"peerIP": "192.0.2.1", "asNumber": 1, "ttlSecurity": 255, "nextHopMode": "Keep"}),
    ("BGPFilter", {}),
    ("BGPFilter", {"importV4": [RULE | {"cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 24}}]}),
    ("BGPFilter", {"exportV6": [RULE | {"cidr": "fd00::/8", "matchOperator": "NotEqual", "peerType": "eBGP"}]}),
    ("BGPFilter", {"exportV4": [RULE | {"operations": [{"setPriority": {"value": 7}}]}]}),
    ("BGPFilter", {"importV4": [{"action": "Reject", "communities": {"values": ["65000:1"]}, "asPathPrefix": [1]}]}),
    ("ClusterInformation", {"clusterGUID": "abc", "datastoreReady": True}),
    ("CalicoNodeStatus", {"node": "n1", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 0}),
]

REFUSED: list[tuple[str, Spec, str]] = [
    ("IPPool", {}, "spec.cidr: Required value"),
    ("IPPool", {"cidr": "10.0.0.0"}, "spec.cidr must be a CIDR such as 10.1.0.0/16 or fd00:1::/48"),
    ("IPPool", {"cidr": "ten"}, "spec.cidr must be a CIDR such as 10.1.0.0/16 or fd00:1::/48"),
    ("IPPool", {"cidr": "10.0.0.1/16"}, "spec.cidr must be masked: no bit set beyond its prefix length"),
    ("IPPool", {"cidr": "fd00::1/64"}, "spec.cidr must be masked: no bit set beyond its prefix length"),
    ("IPPool", {"cidr": "169.254.7.0/24"}, "must not overlap the link-local range 169.254.0.0/16"),
    ("IPPool", {"cidr": "168.0.0.0/7"}, "must not overlap the link-local range 169.254.0.0/16"),
    ("IPPool", {"cidr": "fe80::/64"}, "must not overlap the link-local range fe80::/10"),
    ("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 19}, "spec.blockSize must lie in 20..32 for IPv4"),
    ("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 33}, "spec.blockSize must lie in 20..32 for IPv4"),
    ("IPPool", {"cidr": "fd00::/64", "blockSize": 64}, "spec.blockSize must lie in 116..128 for IPv6"),
    ("IPPool", {"cidr": "10.0.0.0/16", "blockSize": "26"}, "spec.blockSize"),
    ("IPPool", {"cidr": "10.0.0.0/28"}, "must fit into the pool"),
    ("IPPool", {"cidr": "10.0.0.0/28", "blockSize": 27}, "must fit into the pool"),
    ("IPPool", {"cidr": "10.0.0.0/16", "ipipMode": "Always"}, NO_ENCAP.format("ipipMode")),
    ("IPPool", {"cidr": "10.0.0.0/16", "ipipMode": "CrossSubnet"}, NO_ENCAP.format("ipipMode")),
    ("IPPool", {"cidr": "10.0.0.0/16", "vxlanMode": "Always"}, NO_ENCAP.format("vxlanMode")),
    ("IPPool", {"cidr": "10.0.0.0/16", "nodeSelector": "global()"}, "spec.nodeSelector must not use global()"),
    ("IPPool", {"cidr": "10.0.0.0/16", "nodeSelector": "x" * 1025}, "spec.nodeSelector: Too long"),
    ("IPPool", {"cidr": "10.0.0.0/16", "allowedUses": ["Pods"]}, "spec.allowedUses[0]"),
    (
        "IPPool",
        {"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer", "Workload"]},
        "spec.allowedUses must hold LoadBalancer alone or not at all",
    ),
    (
        "IPPool",
        {"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"], "disableBGPExport": True},
        "spec.disableBGPExport must be false when spec.allowedUses has LoadBalancer",
    ),
    (
        "IPPool",
        {"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"], "nodeSelector": "has(a)"},
        "spec.nodeSelector must be all() when spec.allowedUses has LoadBalancer",
    ),
    (
        "IPPool",
        {"cidr": "10.0.0.0/16", "allowedUses": ["Tunnel"], "namespaceSelector": "has(a)"},
        "spec.namespaceSelector must be empty when spec.allowedUses has Tunnel",
    ),
    ("IPPool", {"cidr": "10.0.0.0/16", "assignmentMode": "Never"}, "spec.assignmentMode"),
    ("IPReservation", {"reservedCIDRs": ["10.0.0.1"]}, "each of spec.reservedCIDRs must be a CIDR"),
    ("IPAMConfiguration", {"autoAllocateBlocks": False}, "spec.autoAllocateBlocks must be true unless"),
    (
        "IPAMConfiguration",
        {"maxBlocksPerHost": 1},
        "spec.maxBlocksPerHost must be 0 unless spec.strictAffinity is true",
    ),
    ("IPAMConfiguration", {"ipCooldownSeconds": 1201}, "spec.ipCooldownSeconds"),
    ("IPAMBlock", {"cidr": "10.0.0.0/30"}, "spec.allocations: Required value"),
    ("IPAMBlock", BLOCK | {"affinity": "node:n1"}, "spec.affinity"),
    ("IPAMBlock", BLOCK | {"unallocated": [None]}, "spec.unallocated[0]"),
    ("BlockAffinity", AFFINITY | {"state": "claimed"}, "spec.state"),
    ("BlockAffinity", {"cidr": "10.0.0.0/26", "state": "pending"}, "spec.node: Required value"),
    ("IPAMHandle", {"handleID": "a"}, "spec.block: Required value"),
    ("BGPConfiguration", {"asNumber": 0}, "spec.asNumber"),
    ("BGPConfiguration", {"asNumber": 4294967296}, "spec.asNumber"),
    ("BGPConfiguration", {"listenPort": 65536}, "spec.listenPort"),
    (
        "BGPConfiguration",
        {"nodeToNodeMeshEnabled": False, "nodeMeshPassword": {"secretKeyRef": {"key": "k"}}},
        "spec.nodeMeshPassword must not be set while spec.nodeToNodeMeshEnabled is false",
    ),
    (
        "BGPConfiguration",
        {"nodeToNodeMeshEnabled": False, "nodeMeshMaxRestartTime": "1s"},
        "spec.nodeMeshMaxRestartTime must not be set while spec.nodeToNodeMeshEnabled is false",
    ),
    (
        "BGPConfiguration",
        {"communities": [{"name": "a", "value": "1:1"}]},
        "spec.communities must go with at least one of spec.prefixAdvertisements",
    ),
    (
        "BGPConfiguration",
        {"communities": [{"name": "a", "value": "65536:1"}], "prefixAdvertisements": [{"cidr": "10.0.0.0/8"}]},
        "each of spec.communities must be aa:nn with parts to 65535",
    ),
    ("BGPConfiguration", {"serviceExternalIPs": [{"cidr": "x"}]}, "spec.serviceExternalIPs.cidr must be a CIDR"),
    (
        "BGPConfiguration",
        {"localWorkloadPeeringIPV4": "2001:db8::1"},
        "spec.localWorkloadPeeringIPV4 must be an IPv4 address",
    ),
    ("BGPConfiguration", {"logSeverityScreen": "loud"}, "spec.logSeverityScreen"),
    ("BGPPeer", {"peerIP": "192.0.2.300"}, "spec.peerIP must be an IP address, 192.0.2.1:1790 or [2001:db8::1]:1790"),
    ("BGPPeer", {"peerIP": "192.0.2.1:0"}, "spec.peerIP must be an IP address"),
    ("BGPPeer", {"peerIP": "192.0.2.1:65536"}, "spec.peerIP must be an IP address"),
    ("BGPPeer", {"peerIP": "[192.0.2.1]:179"}, "spec.peerIP must be an IP address"),
    ("BGPPeer", {"peerIP": "tor1.example"}, "spec.peerIP must be an IP address"),
    ("BGPPeer", {"node": "n1", "nodeSelector": "all()"}, "spec.node and spec.nodeSelector must not both be set"),
    ("BGPPeer", {"peerIP": "192.0.2.1", "peerSelector": "all()"}, "spec.peerIP and spec.peerSelector must not both"),
    (
        "BGPPeer",
        {"peerIP": "192.0.2.1", "localWorkloadSelector": "all()", "asNumber": 1},
        "spec.peerIP and spec.localWorkloadSelector must not both be set",
    ),
    ("BGPPeer", {"peerSelector": "all()", "asNumber": 1}, "spec.asNumber must not be set with spec.peerSelector"),
    ("BGPPeer", {"localWorkloadSelector": "all()"}, "spec.asNumber must be set with spec.localWorkloadSelector"),
    (
        "BGPPeer",
        {"peerIP": "192.0.2.1", "keepOriginalNextHop": True, "nextHopMode": "Self"},
        "spec.keepOriginalNextHop and spec.nextHopMode must not both be set",
    ),
    ("BGPPeer", {"reachableBy": "192.0.2.1"}, "spec.reachableBy must go with spec.peerIP"),
    (
        "BGPPeer",
        {"peerIP": "2001:db8::1", "reachableBy": "192.0.2.1"},
        "spec.reachableBy must be of the same family as spec.peerIP",
    ),
    ("BGPPeer", {"maxRestartTime": "soon"}, "spec.maxRestartTime"),
    ("BGPPeer", {"ttlSecurity": 256}, "spec.ttlSecurity"),
    ("BGPPeer", {"password": {"secretKeyRef": {"name": "s"}}}, "spec.password.secretKeyRef.key: Required value"),
    ("BGPFilter", {"importV4": [{}]}, "spec.importV4[0].action: Required value"),
    ("BGPFilter", {"importV4": [RULE | {"cidr": "10.0.0.0/8"}]}, "cidr and matchOperator must be set together"),
    ("BGPFilter", {"importV4": [RULE | {"matchOperator": "In"}]}, "cidr and matchOperator must be set together"),
    ("BGPFilter", {"importV4": [RULE | {"prefixLength": {"min": 8}}]}, "prefixLength must go with cidr"),
    (
        "BGPFilter",
        {"importV6": [RULE | {"cidr": "10.0.0.0/8", "matchOperator": "In"}]},
        "cidr must be an IPv6 CIDR",
    ),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Reject", "operations": [{"setPriority": {"value": 7}}]}]},
        "operations must go with action Accept",
    ),
    (
        "BGPFilter",
        {"exportV4": [RULE | {"operations": [{"setPriority": {"value": 7}, "addCommunity": {"value": "1:1"}}]}]},
        "each of operations must have exactly one of",
    ),
    ("BGPFilter", {"exportV4": [RULE | {"interface": "x" * 16}]}, "spec.exportV4[0].interface"),
    ("ClusterInformation", {"datastoreReady": "yes"}, "spec.datastoreReady"),
    ("CalicoNodeStatus", {"classes": ["All"]}, "spec.classes[0]"),
]

CHANGES: list[tuple[str, Spec, Spec, str]] = [
    ("IPPool", {"cidr": "10.9.0.0/16"}, {"cidr": "10.8.0.0/16"}, "spec.cidr cannot be changed"),
    (
        "IPPool",
        {"cidr": "10.9.0.0/16", "blockSize": 28},
        {"cidr": "10.9.0.0/16", "blockSize": 27},
        "spec.blockSize cannot be changed",
    ),
    ("IPPool", {"cidr": "10.9.0.0/16"}, {"cidr": "10.9.0.0/16", "blockSize": 27}, "spec.blockSize cannot be changed"),
    ("IPPool", {"cidr": "10.9.0.0/16"}, {"cidr": "10.9.0.0/16", "blockSize": 26, "disabled": True}, ""),
    (
        "IPPool",
        {"cidr": "10.9.0.0/16", "allowedUses": ["LoadBalancer"]},
        {"cidr": "10.9.0.0/16", "allowedUses": ["Workload"]},
        "spec.allowedUses of a LoadBalancer pool must keep LoadBalancer",
    ),
]


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED, ids=lambda value: value if isinstance(value, str) else None)
def test_the_api_server_accepts_a_right_object(store: KubeStore, kind: str, spec: Spec) -> None:
    stored = dry_run(store, KINDS[kind], kind, spec)
    assert {key: stored[key] for key in spec} == spec


@pytest.mark.parametrize(
    ("kind", "spec", "sentence"), REFUSED, ids=lambda value: value if isinstance(value, str) else None
)
def test_the_api_server_refuses_a_wrong_object_and_says_why(
    store: KubeStore, kind: str, spec: Spec, sentence: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        dry_run(store, KINDS[kind], kind, spec)
    assert sentence in refusal.value.message


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[0]}-{change[3]}")
def test_some_fields_never_change(api: Any, store: KubeStore, change: tuple[str, Spec, Spec, str]) -> None:
    kind, before, after, sentence = change
    name = api.unique("change")
    body = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": before}
    stored = store.request("POST", path(KINDS[kind]), body=body)
    try:
        changed = stored | {"spec": after}
        where = path(KINDS[kind], name) + "?dryRun=All"
        if not sentence:
            assert store.request("PUT", where, body=changed)["spec"]["disabled"] is True
            return
        with pytest.raises(Invalid) as refusal:
            store.request("PUT", where, body=changed)
        assert sentence in refusal.value.message
    finally:
        store.request("DELETE", path(KINDS[kind], name))


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("IPAMConfiguration", "other", "metadata.name of an IPAMConfiguration must be default"),
        ("ClusterInformation", "other", "must be default"),
        ("BGPConfiguration", "other", "metadata.name of a BGPConfiguration must be default, or node.<name>"),
    ],
)
def test_a_kind_of_which_there_is_one_has_one_name(store: KubeStore, kind: str, name: str, sentence: str) -> None:
    with pytest.raises(Invalid) as refusal:
        dry_run(store, KINDS[kind], kind, {}, name)
    assert sentence in refusal.value.message


def test_a_bgp_configuration_may_be_for_one_node(store: KubeStore) -> None:
    dry_run(store, "bgpconfigurations", "BGPConfiguration", {"asNumber": 65001}, "node.n1")


def test_every_kind_has_an_accepted_and_a_refused_case() -> None:
    assert {kind for kind, _ in ACCEPTED} == {kind for kind, *_ in REFUSED} == set(KINDS)
