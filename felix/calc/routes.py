"""Which routes this node wants in the kernel's main table.

Theory: a function of what is seen now, nothing else. Three sources, and where two want the same (prefix, metric) the
more local one wins, for nobody outside may divert what lives here:

    pods       10.1.0.5/32 dev cali0123456789a           each address of ours that has an interface
    blocks     blackhole 10.1.0.0/26                     each own block: an unused address must not follow the
                                                         default route to the ToR and loop back
    BGP        10.2.0.0/26 via 192.168.0.1 dev eth0      best paths, equal ones together (ECMP)

Invariants: a BGP route never lies inside an own block, but for the /32 or /128 of an address that the block itself
attributes to another node. (`bgp.import_policy` refuses these first, and the addresses of nodes, services and the API
server; own blocks are refused here again, for the kernel's table is what counts.) A prefix with no next hop that
resolves is left out and told in `unresolved`.

`wanted_routes` is the plain scan. `RouteIndex` gives the same answer and works off only what changed, for a table of
ten thousand routes is not to be made again because one pod came; tests hold the two equal.

Called by `felix.agent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network

from bgp.rib import BestRoute
from felix.kernel.protocols import IPAddress, IPNetwork, NextHop, Route, RouteKind

BLOCK_METRIC = 1024
BGP_METRIC = 1024
"""Calico's normal route priority: routes that a person adds without a metric come first."""

RouteKey = tuple[IPNetwork, int]
"""What the kernel tells routes apart by: destination and metric."""

Hops = Mapping[IPAddress, tuple[NextHop, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInputs:
    """All that wanted routes depend on."""

    blocks: frozenset[IPNetwork] = frozenset()
    """Own confirmed blocks."""
    pods: Mapping[IPAddress, str] = field(default_factory=dict)
    """Local addresses and the interface behind which each lives."""
    best: Mapping[IPNetwork, BestRoute] = field(default_factory=dict)
    hops: Hops = field(default_factory=dict)
    """How each BGP next hop is reached now, by the kernel's own table."""
    elsewhere: frozenset[IPAddress] = frozenset()
    """Addresses inside own blocks that live on another node."""
    sources: Mapping[int, IPAddress] = field(default_factory=dict)
    """By IP version: the node's own address, as preferred source of what the node itself sends. A node whose links
    have addresses of their own would else speak to pods from one that nobody can answer to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRoutes:
    """The answer, by key; and what could not become a route."""

    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    unresolved: tuple[IPNetwork, ...] = ()
    refused: tuple[IPNetwork, ...] = ()


def wanted_routes(inputs: RouteInputs) -> WantedRoutes:
    """Everything, from scratch."""
    routes: dict[RouteKey, Route] = {}
    inside = Inside(inputs.blocks)
    unresolved: list[IPNetwork] = []
    refused: list[IPNetwork] = []
    for prefix, best in inputs.best.items():
        if prefix in inside and not _lives_elsewhere(prefix, inputs.elsewhere):
            refused.append(prefix)
        elif (route := bgp_route(best, hops=inputs.hops, sources=inputs.sources)) is None:
            unresolved.append(prefix)
        else:
            routes[prefix, route.metric] = route
    return WantedRoutes(routes=routes | local_routes(inputs), unresolved=tuple(unresolved), refused=tuple(refused))


def local_routes(inputs: RouteInputs) -> dict[RouteKey, Route]:
    """Blackholes of own blocks, and pods over them: on IPv6 a block of one address has the key of its pod."""
    routes: dict[RouteKey, Route] = {}
    for block in inputs.blocks:
        hole = Route(dst=block, kind=RouteKind.BLACKHOLE, metric=BLOCK_METRIC)
        routes[block, hole.metric] = hole
    for address, interface in inputs.pods.items():
        route = _pod_route(address, interface)
        routes[route.dst, route.metric] = route
    return routes


@lru_cache(maxsize=4096)
def _pod_route(address: IPAddress, interface: str) -> Route:
    """Remembered: one pod more or less asks for those of all others again."""
    return Route(dst=ip_network(address), next_hops=(NextHop(device=interface),))


def reached(next_hops: frozenset[IPAddress], *, hops: Hops) -> tuple[NextHop, ...]:
    """The ways to these BGP next hops, those alone that lead anywhere now; each once."""
    found = {hop for address in next_hops for hop in hops.get(address, ())}
    return tuple(sorted(found, key=str)) if len(found) > 1 else tuple(found)


def bgp_route(best: BestRoute, *, hops: Hops, sources: Mapping[int, IPAddress]) -> Route | None:
    """The route of a best path; None if none of its next hops can be reached now."""
    return _route(best, ways=reached(best.next_hops, hops=hops), sources=sources)


def _route(best: BestRoute, *, ways: tuple[NextHop, ...], sources: Mapping[int, IPAddress]) -> Route | None:
    if not ways:
        return None
    return Route(dst=best.prefix, next_hops=ways, metric=BGP_METRIC, source=sources.get(best.prefix.version))


class Inside:
    """Whether a prefix lies inside one of some networks: one dictionary look-up for each prefix length in use."""

    def __init__(self, networks: frozenset[IPNetwork]) -> None:
        self._networks = {(net.version, net.prefixlen, int(net.network_address)) for net in networks}
        self._lengths = {4: self._lengths_of(4), 6: self._lengths_of(6)}

    def __contains__(self, prefix: IPNetwork) -> bool:
        lengths = self._lengths[prefix.version]
        if not lengths:
            return False
        first = int(prefix.network_address)
        return any(
            (prefix.version, length, first >> (prefix.max_prefixlen - length) << (prefix.max_prefixlen - length))
            in self._networks
            for length in lengths
            if length <= prefix.prefixlen
        )

    def _lengths_of(self, version: int) -> tuple[int, ...]:
        return tuple({length for found, length, _ in self._networks if found == version})


def _lives_elsewhere(prefix: IPNetwork, elsewhere: frozenset[IPAddress]) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in elsewhere


class RouteIndex:
    """`wanted_routes`, remembering by identity what was computed for each best path. Pure to its caller: the answer
    depends on the inputs alone, and is the same object while they are equal."""

    def __init__(self) -> None:
        self._inputs: RouteInputs | None = None
        self._answer = WantedRoutes()
        self._bgp: dict[IPNetwork, tuple[BestRoute, Route | None]] = {}

    def wanted(self, inputs: RouteInputs) -> WantedRoutes:
        """As `wanted_routes`."""
        before, self._inputs = self._inputs, inputs
        if before is not None and before == inputs:
            return self._answer
        if before is None or before.hops != inputs.hops or before.sources != inputs.sources:
            self._bgp = {}
        self._answer = self._scan(inputs)
        return self._answer

    def _scan(self, inputs: RouteInputs) -> WantedRoutes:
        inside = Inside(inputs.blocks)
        routes: dict[RouteKey, Route] = {}
        unresolved: list[IPNetwork] = []
        refused: list[IPNetwork] = []
        known, self._bgp = self._bgp, {}
        ways: dict[frozenset[IPAddress], tuple[NextHop, ...]] = {}
        for prefix, best in inputs.best.items():
            if prefix in inside and not _lives_elsewhere(prefix, inputs.elsewhere):
                refused.append(prefix)
                continue
            entry = known.get(prefix)
            if entry is None or entry[0] is not best:
                if best.next_hops not in ways:
                    ways[best.next_hops] = reached(best.next_hops, hops=inputs.hops)
                entry = (best, _route(best, ways=ways[best.next_hops], sources=inputs.sources))
            self._bgp[prefix] = entry
            if entry[1] is None:
                unresolved.append(prefix)
            else:
                routes[prefix, BGP_METRIC] = entry[1]
        routes |= local_routes(inputs)
        return WantedRoutes(routes=routes, unresolved=tuple(unresolved), refused=tuple(refused))
