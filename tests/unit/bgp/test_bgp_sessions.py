"""Which neighbours a node has, from Calico's objects; and what one bad object does (nothing to the others)."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from bgp import wire
from bgp.sessions import PeerKind, SessionPlan, sessions
from crds.bgp_kinds import BGPConfiguration, BGPConfigurationSpec, BGPPassword, BGPPeer, BGPPeerSpec, SecretKeyRef
from crds.core import Node, NodeAddress, NodeStatus, Secret
from crds.meta import ObjectMeta


def node(name: str, *addresses: str, labels: dict[str, str] | None = None, **annotations: str) -> Node:
    notes = {f"projectcalico.org/{key}": value for key, value in annotations.items()}
    return Node(
        metadata=ObjectMeta(name=name, labels=labels or {}, annotations=notes),
        status=NodeStatus(addresses=tuple(NodeAddress(type="InternalIP", address=text) for text in addresses)),
    )


def peer(name: str, **spec: Any) -> BGPPeer:
    return BGPPeer(metadata=ObjectMeta(name=name), spec=BGPPeerSpec(**spec))


def configuration(name: str = "default", **spec: Any) -> BGPConfiguration:
    return BGPConfiguration(metadata=ObjectMeta(name=name), spec=BGPConfigurationSpec(**spec))


NO_MESH = configuration(node_to_node_mesh_enabled=False)
N1 = node("n1", "10.0.0.1", "fd00::1", labels={"rack": "a"})
N2 = node("n2", "10.0.0.2", "fd00::2", labels={"rack": "a"}, ASNumber="65020")
N3 = node("n3", "10.0.0.3", labels={"rack": "b"})
PASSWORD = BGPPassword(secret_key_ref=SecretKeyRef(name="bgp", key="tor"))
SECRETS = {"bgp": Secret(metadata=ObjectMeta(name="bgp"), data={"tor": b"s3cret", "bad": b"\xff", "long": b"x" * 81})}


def plan(*peers: BGPPeer, at: str = "n1", conf: tuple[BGPConfiguration, ...] = (NO_MESH,)) -> SessionPlan:
    return sessions(at, nodes=(N1, N2, N3), configurations=conf, peers=peers, secrets=SECRETS)


def only(found: SessionPlan) -> wire.Session:
    assert not found.problems
    assert len(found.neighbors) == 1
    return found.neighbors[0].session


def test_by_default_every_node_peers_with_every_other_in_each_family() -> None:
    found = plan(conf=())
    assert [(str(n.id), n.session.peer_as, n.kind) for n in found.neighbors] == [
        ("10.0.0.2 from 10.0.0.1", 65020, PeerKind.MESH),
        ("10.0.0.3 from 10.0.0.1", 64512, PeerKind.MESH),
        ("fd00::2 from fd00::1", 65020, PeerKind.MESH),
    ]
    assert {n.session.listen_port for n in found.neighbors} == {179}
    assert [n.internal for n in found.neighbors] == [False, True, False]


def test_a_node_whose_as_number_cannot_be_read_is_told_that_and_nothing_else() -> None:
    odd = node("n1", "10.0.0.1", ASNumber="sixty")
    found = sessions("n1", nodes=(odd, N2), configurations=(), peers=(), secrets={})
    assert [problem.name for problem in found.problems] == ["n1"]
    assert "projectcalico.org/ASNumber" in str(found.problems[0])


def test_a_node_without_an_address_is_told_so() -> None:
    found = sessions("n1", nodes=(node("n1"), N2), configurations=(), peers=(), secrets={})
    assert [problem.sentence for problem in found.problems] == ["its Node object has no address to speak BGP from"]


def test_the_mesh_can_be_turned_off() -> None:
    assert plan() == SessionPlan()


def test_the_mesh_takes_key_restart_time_and_ports_from_the_configuration() -> None:
    conf = configuration(listen_port=1179, node_mesh_password=PASSWORD, node_mesh_max_restart_time="45s")
    own = configuration("node.n1", listen_port=2179, as_number=65010)
    session = plan(conf=(conf, own)).neighbors[0].session
    assert (session.password, session.restart_time_s, session.connect_port, session.listen_port, session.local_as) == (
        "s3cret",
        45,
        1179,
        2179,
        65010,
    )


def test_a_mesh_without_its_secret_has_no_session_and_a_problem() -> None:
    conf = configuration(node_mesh_password=BGPPassword(secret_key_ref=SecretKeyRef(name="gone", key="k")))
    found = plan(conf=(conf,))
    assert found.neighbors == ()
    assert "Secret 'gone' does not exist" in str(found.problems[0])


@pytest.mark.parametrize(
    ("spec", "nodes"),
    [({}, {"n1", "n2", "n3"}), ({"node": "n2"}, {"n2"}), ({"node_selector": "rack == 'a'"}, {"n1", "n2"})],
)
def test_a_peer_counts_for_all_nodes_for_one_or_for_those_selected(spec: dict[str, str], nodes: set[str]) -> None:
    tor = peer("tor", peer_ip="10.0.0.254", as_number=65000, **spec)
    assert {name for name in ("n1", "n2", "n3") if plan(tor, at=name).neighbors} == nodes


def test_all_fields_of_a_peer_reach_the_session() -> None:
    tor = peer(
        "tor",
        peer_ip="10.0.0.254:1790",
        as_number=65000,
        local_as_number=65111,
        password=PASSWORD,
        keepalive_time="3s",
        max_restart_time="1m",
        ttl_security=2,
        filters=("f1", "f2"),
        num_allowed_local_as_numbers=1,
    )
    found = plan(tor)
    assert only(found) == wire.Session(
        id=wire.NeighborId("10.0.0.254", "10.0.0.1"),
        name="tor",
        peer_as=65000,
        local_as=65111,
        router_id="10.0.0.1",
        families=(wire.Family.IPV4,),
        connect_port=1790,
        hold_time_s=9,
        restart_time_s=60,
        password="s3cret",
        ttl_hops=2,
    )
    assert (found.neighbors[0].filters, found.neighbors[0].allowed_own_as) == (("f1", "f2"), 1)
    assert "s3cret" not in repr(found)


def test_without_a_source_address_the_kernel_chooses_and_nobody_listens() -> None:
    session = only(plan(peer("tor", peer_ip="10.9.0.1", as_number=65000, source_address="None")))
    assert (session.id.local, session.listen_port, session.router_id) == ("", 0, "10.0.0.1")


def test_a_peer_in_return_is_implied_unless_forbidden() -> None:
    spec = {"node": "n2", "peer_selector": "rack == 'b'", "local_as_number": 65222}
    session = only(plan(peer("cross", **spec), at="n3"))
    assert (str(session.id), session.peer_as, session.local_as) == ("10.0.0.2 from 10.0.0.3", 65222, 64512)
    forward = only(plan(peer("cross", **spec), at="n2"))
    assert (str(forward.id), forward.peer_as, forward.local_as) == ("10.0.0.3 from 10.0.0.2", 64512, 65222)
    assert plan(peer("cross", **spec, reverse_peering="Manual"), at="n3").neighbors == ()


def test_an_explicit_peer_beats_the_mesh() -> None:
    found = plan(peer("n2", peer_ip="10.0.0.2", keepalive_time="1s"), conf=())
    assert {str(n.id): n.source for n in found.neighbors}["10.0.0.2 from 10.0.0.1"] == "BGPPeer n2"
    assert found.problems == ()


def test_an_ipv6_only_node_still_has_a_router_id() -> None:
    only6 = node("six", "fd00::6")
    found = sessions("six", nodes=(only6, N1), configurations=(), peers=(), secrets={})
    assert only(found).router_id not in {"", "0.0.0.0"}


GOOD = peer("good", peer_ip="10.0.0.254", as_number=65000)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"peer_ip": "10.0.0.300", "as_number": 1}, "BGPPeer bad: spec.peerIP: must be an address such as"),
        ({"peer_ip": "10.0.0.9\nneighbor", "as_number": 1}, "spec.peerIP: must be an address"),
        ({"peer_ip": "10.0.0.9:99999", "as_number": 1}, "port in 1..65535"),
        ({"peer_ip": "0.0.0.0", "as_number": 1}, "that a router can have"),
        ({"peer_ip": "fe80::1", "as_number": 1}, "must name the interface"),
        ({"peer_ip": "10.0.0.9"}, "spec.asNumber: must be given"),
        ({}, "spec.peerIP: must be given"),
        ({"peer_ip": "10.0.0.9", "as_number": 1, "node_selector": "rack =="}, "spec.nodeSelector"),
        ({"peer_ip": "10.0.0.9", "as_number": 1, "keepalive_time": "soon"}, "spec.keepaliveTime: must be a duration"),
        (
            {"peer_ip": "10.0.0.9", "as_number": 1, "max_restart_time": "2h"},
            "spec.maxRestartTime: must lie in 0s..4095s",
        ),
        ({"peer_ip": "10.0.0.9", "as_number": 1, "ttl_security": 999}, "spec.ttlSecurity"),
        ({"peer_ip": "10.0.0.9", "as_number": 1, "source_address": "eth0"}, "UseNodeIP or None, is 'eth0'"),
        ({"peer_ip": "10.0.0.254", "as_number": 65001}, "already a neighbour by BGPPeer a-good"),
        ({"peer_ip": "10.0.0.9", "as_number": 1, "local_workload_selector": "all()"}, "spec.localWorkloadSelector"),
        *(
            (
                {
                    "peer_ip": "10.0.0.9",
                    "as_number": 1,
                    "password": BGPPassword(secret_key_ref=SecretKeyRef(name=name, key=key)),
                },
                sentence,
            )
            for name, key, sentence in (
                ("none", "k", "spec.password.secretKeyRef: Secret 'none' does not exist"),
                ("bgp", "none", "key 'none' of Secret 'bgp' does not exist"),
                ("bgp", "bad", "1..80 bytes of ASCII"),
                ("bgp", "long", "1..80 bytes of ASCII"),
            )
        ),
    ],
)
def test_a_bad_peer_is_one_sentence_and_changes_nothing_else(spec: dict[str, Any], sentence: str) -> None:
    good = peer("a-good", peer_ip="10.0.0.254", as_number=65000)
    found = plan(peer("bad", **spec), good)
    assert [n.source for n in found.neighbors] == ["BGPPeer a-good"]
    assert len(found.problems) == 1
    assert sentence in str(found.problems[0])
    assert "\n" not in str(found.problems[0])


def test_a_secret_that_is_optional_may_be_missing() -> None:
    ref = BGPPassword(secret_key_ref=SecretKeyRef(name="none", key="k", optional=True))
    assert only(plan(peer("tor", peer_ip="10.0.0.254", as_number=65000, password=ref))).password == ""


def test_a_node_with_a_bad_annotation_is_left_out() -> None:
    odd = node("odd", "10.0.0.9", IPv4Address="nonsense")
    found = sessions("n1", nodes=(N1, odd, N3), configurations=(), peers=(), secrets={})
    assert [n.id.peer for n in found.neighbors] == ["10.0.0.3"]
    assert "Node odd" in str(found.problems[0])


def test_a_node_without_an_address_has_a_problem_and_no_session() -> None:
    found = sessions("n9", nodes=(N1,), configurations=(), peers=(GOOD,), secrets={})
    assert (found.neighbors, len(found.problems)) == ((), 1)


def test_the_order_of_objects_does_not_matter() -> None:
    peers = (GOOD, peer("also", peer_ip="10.0.0.254", as_number=1), peer("n2", node="n1", peer_ip="10.0.0.2"))
    assert len({repr(plan(*order, conf=())) for order in permutations(peers)}) == 1
