"""Answers questions about this node: CalicoNodeStatus objects that name it.

Theory: nobody needs a shell on a node or a port of the agent's to know its BGP table. Somebody creates an object that
names the node and what he wants to know; this fills its status once at once, and again every `updatePeriodSeconds`
(0: never again). Written only when it changed or the period is over: an idle cluster writes nothing.

Invariants: never in anybody's way: the kind may not be served, a write may fail; the next change or period tries again.
A table is cut at `ROUTES_MAX` routes a family (an object holds 1.5 MB) and says so in a condition.

Called by `felix.main`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import msgspec

from bgp import wire
from bgp.rib import BestRoute, NeighborView
from crds.errors import ApiError
from crds.meta import Condition
from crds.node_status import (
    CLASS_AGENT,
    CLASS_BGP,
    CLASS_ROUTES,
    BGPDaemonStatus,
    CalicoNodeStatus,
    CalicoNodeStatusStatus,
    NodeAgentStatus,
    NodeBGPStatus,
    NodePeer,
    NodeRoute,
    NodeRoutesStatus,
    RouteSource,
)
from crds.store import Store
from crds.values import NodeName
from felix.agent import Turn
from felix.bgp_link import LinkStatus
from felix.kernel.protocols import IPNetwork, Route, RouteKind
from felix.reflector import Reflector

log = logging.getLogger(__name__)

PERIOD_DEFAULT_S = 10
ROUTES_MAX = 4000
CLOCK_SLACK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an answer is made from: values only."""

    turn: Turn
    link: LinkStatus
    standing: tuple[Route, ...]
    best: Mapping[IPNetwork, BestRoute]
    refused: Mapping[wire.NeighborId, Mapping[str, str]]
    """By neighbour: prefixes heard and not used, and why."""


class NodeStatusReporter:
    """One node's answers."""

    def __init__(
        self, store: Store, *, node: NodeName, seen: Callable[[], Seen | None], now: Callable[[], datetime], rng: Random
    ) -> None:
        self._store = store
        self._node = node
        self._seen = seen
        self._now = now
        self._asked = asyncio.Event()
        self._questions = Reflector(store, CalicoNodeStatus, on_change=self._asked.set, rng=rng)

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._questions.run())
            group.create_task(self._answer_forever())

    async def _answer_forever(self) -> None:
        wait_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            wait_s = await self.answer_all()

    async def answer_all(self) -> float | None:
        """Answer what is due; seconds until the next is, None for never."""
        waits: list[float] = []
        for question in self._questions.view().values():
            if question.spec.node != self._node:
                continue
            due_s = due_in_s(question, now=self._now())
            if due_s is not None and due_s <= 0:
                due_s = await self._answer(question)
            if due_s is not None:
                waits.append(due_s)
        return min(waits, default=None)

    async def _answer(self, question: CalicoNodeStatus) -> float | None:
        seen = self._seen()
        if seen is None:
            return 1.0
        status = answer(seen, classes=question.spec.classes, now=self._now())
        try:
            await self._store.replace_status(msgspec.structs.replace(question, status=status))
        except (ApiError, OSError) as error:  # asked and forgotten, or the API server is away: the watch tells
            log.debug('no answer written name=%s error="%s"', question.name, error)
            return 1.0
        return period_s(question) or None


def period_s(question: CalicoNodeStatus) -> int:
    """0 for once."""
    wanted = question.spec.update_period_seconds
    return PERIOD_DEFAULT_S if wanted is None else wanted


def due_in_s(question: CalicoNodeStatus, *, now: datetime) -> float | None:
    """Seconds until an answer is due, 0 or less for now; None for never again."""
    last = question.status.last_updated if question.status is not None else ""
    if not last:
        return 0.0
    if not period_s(question):
        return None
    return (datetime.fromisoformat(last) - now).total_seconds() + period_s(question) - CLOCK_SLACK_S


def answer(seen: Seen, *, classes: tuple[str, ...], now: datetime) -> CalicoNodeStatusStatus:
    """Pure: the status for these classes."""
    routes, cut = (None, False) if CLASS_ROUTES not in classes else _routes(seen)
    stamp = _stamp(now.timestamp())
    conditions = (
        Condition(
            type="Truncated",
            status="True",
            reason="TooManyRoutes",
            message=f"only the first {ROUTES_MAX} routes of a family are shown",
            last_transition_time=stamp,
        ),
    )
    return CalicoNodeStatusStatus(
        last_updated=stamp,
        agent=_agent(seen.link) if CLASS_AGENT in classes else None,
        bgp=_bgp(seen.link.neighbors) if CLASS_BGP in classes else None,
        routes=routes,
        conditions=conditions if cut else (),
    )


def _agent(link: LinkStatus) -> NodeAgentStatus:
    ready = link.connected and link.configured
    router_id = next((view.neighbor.session.router_id for view in link.neighbors), "")
    daemon = BGPDaemonStatus(state="Ready" if ready else "NotReady", router_id=router_id, version=link.speaker)
    return NodeAgentStatus(bird_v4=daemon, bird_v6=daemon)


def _bgp(neighbors: tuple[NeighborView, ...]) -> NodeBGPStatus:
    peers = {4: [_peer(view) for view in neighbors if _version(view) == 4], 6: []}
    peers[6] = [_peer(view) for view in neighbors if _version(view) == 6]
    up = {version: sum(1 for peer in found if peer.state == "Established") for version, found in peers.items()}
    return NodeBGPStatus(
        number_established_v4=up[4],
        number_established_v6=up[6],
        number_not_established_v4=len(peers[4]) - up[4],
        number_not_established_v6=len(peers[6]) - up[6],
        peers_v4=tuple(peers[4]),
        peers_v6=tuple(peers[6]),
    )


def _peer(view: NeighborView) -> NodePeer:
    reason = view.reason
    if view.state is wire.State.UP and not view.end_of_rib:
        reason = reason or "has not sent End-of-RIB yet"
    return NodePeer(
        peer_ip=view.neighbor.id.peer,
        type=view.neighbor.kind.value,
        # ExaBGP tells up and down, not the steps between: what is not up is dialling.
        state="Established" if view.state is wire.State.UP else "Active",
        since=_stamp(view.since_s) if view.since_s else "",
        as_number=view.neighbor.session.peer_as,
        prefixes_received=view.received,
        prefixes_sent=view.sent,
        reason=reason,
    )


def _routes(seen: Seen) -> tuple[NodeRoutesStatus, bool]:
    found = {4: list(_family(seen, 4)), 6: list(_family(seen, 6))}
    cut = any(len(routes) > ROUTES_MAX for routes in found.values())
    return NodeRoutesStatus(routes_v4=tuple(found[4][:ROUTES_MAX]), routes_v6=tuple(found[6][:ROUTES_MAX])), cut


def _family(seen: Seen, version: int) -> Iterator[NodeRoute]:
    standing = sorted((route for route in seen.standing if route.dst.version == version), key=_order)
    for route in standing:
        yield from _installed(seen, route)
    for prefix in seen.turn.routes.unresolved:
        if prefix.version == version:
            yield from _unused(seen.best.get(prefix), prefix=prefix, reason="no next hop can be reached")
    for prefix in seen.turn.routes.refused:
        if prefix.version == version:
            yield from _unused(seen.best.get(prefix), prefix=prefix, reason="inside a block of this node")
    for neighbor, refused in seen.refused.items():
        for text, reason in refused.items():
            if (":" in text) == (version == 6):
                source = RouteSource(source_type="BGPPeer", peer_ip=neighbor.peer)
                yield NodeRoute(type="RIB", destination=text, learned_from=source, reason=reason)


def _installed(seen: Seen, route: Route) -> Iterator[NodeRoute]:
    text = str(route.dst)
    if route.kind is RouteKind.BLACKHOLE:
        yield NodeRoute(type="FIB", destination=text, gateway="N/A", learned_from=RouteSource(source_type="Static"))
        return
    best = seen.best.get(route.dst)
    for hop in route.next_hops:
        source = RouteSource(source_type="Direct") if hop.gateway is None else _source(seen, best)
        yield NodeRoute(
            type="FIB",
            destination=text,
            gateway=str(hop.gateway) if hop.gateway is not None else "N/A",
            interface=hop.device,
            learned_from=source,
            as_path=best.as_path if best is not None and hop.gateway is not None else (),
        )


def _unused(best: BestRoute | None, *, prefix: IPNetwork, reason: str) -> Iterator[NodeRoute]:
    for gateway in sorted(best.next_hops, key=str) if best is not None else ():
        yield NodeRoute(
            type="RIB",
            destination=str(prefix),
            gateway=str(gateway),
            learned_from=_peer_source(best),
            as_path=best.as_path if best is not None else (),
            reason=reason,
        )


def _source(seen: Seen, best: BestRoute | None) -> RouteSource:
    source = _peer_source(best)
    kinds = {view.neighbor.id: view.neighbor.kind.value for view in seen.link.neighbors}
    mesh = best is not None and any(kinds.get(neighbor) == "NodeMesh" for neighbor in best.neighbors)
    return msgspec.structs.replace(source, source_type="NodeMesh") if mesh else source


def _peer_source(best: BestRoute | None) -> RouteSource:
    peer = min(neighbor.peer for neighbor in best.neighbors) if best is not None and best.neighbors else ""
    return RouteSource(source_type="BGPPeer", peer_ip=peer)


def _version(view: NeighborView) -> int:
    return 6 if ":" in view.neighbor.id.peer else 4


def _order(route: Route) -> tuple[int, int, int]:
    return int(route.dst.network_address), route.dst.prefixlen, route.metric


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
