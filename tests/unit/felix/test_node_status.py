"""Answers about a node: what an agent knows, in CalicoNodeStatus' words, written when due and not otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from random import Random

from bgp import wire
from bgp.plan import Neighbor, PeerKind, SessionPlan
from bgp.rib import BestRoute, NeighborView
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta
from crds.node_status import CalicoNodeStatus, CalicoNodeStatusSpec
from crds.values import NodeName
from felix.agent import Turn
from felix.bgp_link import LinkStatus
from felix.calc.routes import WantedRoutes
from felix.kernel.protocols import NextHop, Route, RouteKind
from felix.node_status import ROUTES_MAX, NodeStatusReporter, Seen, answer, due_in_s
from felix.snapshot import Snapshot
from tests.eventually import eventually_async

NOW = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)
TOR = wire.NeighborId("192.0.2.1", "192.0.2.10")
FAR = Route(
    dst=ip_network("10.0.1.0/26"), next_hops=(NextHop(gateway=IPv4Address("192.0.2.1"), device="eth0"),), metric=1024
)
POD = Route(dst=ip_network("10.0.0.5/32"), next_hops=(NextHop(device="cali5"),))
HOLE = Route(dst=ip_network("10.0.0.0/26"), kind=RouteKind.BLACKHOLE, metric=1024)
SESSION = wire.Session(
    id=TOR, name="tor", peer_as=65001, local_as=65010, router_id="192.0.2.10", families=(wire.Family.IPV4,)
)
VIEW = NeighborView(
    neighbor=Neighbor(session=SESSION, kind=PeerKind.GLOBAL, source="BGPPeer tor"),
    state=wire.State.UP,
    since_s=(NOW - timedelta(minutes=1)).timestamp(),
    reason="",
    received=3,
    refused=1,
    sent=1,
    end_of_rib=True,
    stale=False,
)
LINK = LinkStatus(
    connected=True,
    speaker="tortie-speaker 0.1.0",
    configured=True,
    problem="",
    starts=1,
    synced=True,
    neighbors=(VIEW,),
    problems=(),
)


def best(prefix: str) -> BestRoute:
    return BestRoute(
        prefix=ip_network(prefix),
        next_hops=frozenset({ip_address("192.0.2.1")}),
        neighbors=frozenset({TOR}),
        as_path=(65001, 65020),
        stale=False,
    )


def seen(*standing: Route, unresolved: tuple[str, ...] = ()) -> Seen:
    return Seen(
        turn=Turn(
            snapshot=Snapshot(),
            plan=SessionPlan(),
            routes=WantedRoutes(unresolved=tuple(ip_network(prefix) for prefix in unresolved)),
            pods={},
            blocks=frozenset(),
            problems=(),
            failures=0,
            kept=0,
        ),
        link=LINK,
        standing=standing,
        best={ip_network(prefix): best(prefix) for prefix in ("10.0.1.0/26", *unresolved)},
        refused={TOR: {"203.0.113.0/24": "in no address pool, and no BGPFilter accepts it"}},
    )


def question(*classes: str, period_s: int | None = 0, node: str = "a", name: str = "q") -> CalicoNodeStatus:
    spec = CalicoNodeStatusSpec(node=node, classes=classes, update_period_seconds=period_s)
    return CalicoNodeStatus(metadata=ObjectMeta(name=name), spec=spec)


def test_sessions_are_told_as_a_router_would() -> None:
    bgp = answer(seen(), classes=("BGP",), now=NOW).bgp
    assert bgp is not None
    (peer,) = bgp.peers_v4
    assert (peer.peer_ip, peer.type, peer.state, peer.since, peer.as_number) == (
        "192.0.2.1",
        "GlobalPeer",
        "Established",
        "2026-08-01T11:59:00Z",
        65001,
    )
    assert (bgp.number_established_v4, bgp.number_not_established_v4) == (1, 0)


def test_routes_say_where_they_stand_and_why_not() -> None:
    status = answer(seen(FAR, POD, HOLE, unresolved=("10.0.2.0/26",)), classes=("Routes",), now=NOW)
    assert status.routes is not None
    assert status.bgp is None
    told = [
        (route.type, route.destination, route.gateway, route.learned_from.source_type, route.reason)
        for route in status.routes.routes_v4
    ]
    assert told == [
        ("FIB", "10.0.0.0/26", "N/A", "Static", ""),
        ("FIB", "10.0.0.5/32", "N/A", "Direct", ""),
        ("FIB", "10.0.1.0/26", "192.0.2.1", "BGPPeer", ""),
        ("RIB", "10.0.2.0/26", "192.0.2.1", "BGPPeer", "no next hop can be reached"),
        ("RIB", "203.0.113.0/24", "", "BGPPeer", "in no address pool, and no BGPFilter accepts it"),
    ]


def test_a_speaker_that_is_away_is_not_ready() -> None:
    away = replace(seen(), link=replace(LINK, connected=False))
    agent = answer(away, classes=("Agent",), now=NOW).agent
    assert agent is not None
    assert agent.bird_v4 is not None
    assert agent.bird_v4.state == "NotReady"


def test_a_table_that_no_object_can_hold_is_cut_and_says_so() -> None:
    many = [
        Route(dst=ip_network((0x0A000000 + 64 * number, 26)), kind=RouteKind.BLACKHOLE, metric=1024)
        for number in range(ROUTES_MAX + 1)
    ]
    status = answer(seen(*many), classes=("Routes",), now=NOW)
    assert status.routes is not None
    assert len(status.routes.routes_v4) == ROUTES_MAX
    assert [condition.type for condition in status.conditions] == ["Truncated"]


def test_an_answer_is_due_once_or_every_period() -> None:
    status = answer(seen(), classes=(), now=NOW)
    once = CalicoNodeStatus(metadata=ObjectMeta(name="q"), spec=question().spec, status=status)
    often = CalicoNodeStatus(metadata=ObjectMeta(name="q"), spec=question(period_s=10).spec, status=status)
    assert due_in_s(question(), now=NOW) == 0
    assert due_in_s(once, now=NOW + timedelta(hours=1)) is None
    later = due_in_s(often, now=NOW + timedelta(seconds=4))
    assert later is not None
    assert 5 < later < 7
    assert (due_in_s(often, now=NOW + timedelta(seconds=10)) or 0) <= 0


async def test_a_question_about_this_node_is_answered_once_and_others_are_left_to_others() -> None:
    store = FakeStore(question("BGP", name="mine"), question("BGP", node="b", name="other"))
    reporter = NodeStatusReporter(store, node=NodeName("a"), seen=lambda: seen(FAR), now=lambda: NOW, rng=Random(1))
    task = asyncio.create_task(reporter.run())
    await eventually_async(lambda: [call.key for call in store.calls if call.verb == "replace_status"] == ["mine"])
    store.put(question("BGP", name="late"))
    await eventually_async(lambda: len([call for call in store.calls if call.verb == "replace_status"]) == 2)
    task.cancel()
    assert (await store.get(CalicoNodeStatus, "other")).status is None
    written = (await store.get(CalicoNodeStatus, "late")).status
    assert written is not None
    assert written.last_updated == "2026-08-01T12:00:00Z"
