"""What the neighbours told us, and the best of it.

Theory: pure; `now_s` is an argument (any monotonic clock). The table is a function of the messages since the last
`TableBegin`, never of the order in which neighbours spoke. Keeping the routes of a peer that restarts (RFC 4724, the
helper's part) is ours to do, for ExaBGP keeps nothing.

Called by `felix.bgp_link`, which feeds it, and `felix.agent`, which asks for `best()` and `synced()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType

from bgp import decision, wire
from bgp.adj_in import AdjIn
from bgp.import_policy import ImportPolicy, Judge
from bgp.plan import Neighbor, Problem

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class BestRoute:
    """A prefix and where to send it. Several next hops are equal paths (ECMP); link-local ones carry their interface
    as scope id (`fe80::1%eth0`)."""

    prefix: IPNetwork
    next_hops: frozenset[IPAddress]
    neighbors: frozenset[wire.NeighborId]
    as_path: tuple[int, ...]
    stale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborView:
    """A neighbour as `tortiectl node status` shows it."""

    neighbor: Neighbor
    state: wire.State
    since_s: float
    """Wall clock."""
    reason: str
    received: int
    """Prefixes heard and not withdrawn."""
    refused: int
    """Those of them that can never be used: loops, unusable next hops."""
    sent: int
    """Prefixes really sent on this session."""
    end_of_rib: bool
    stale: bool


class Rib:
    """Adj-RIB-In of each neighbour, and the best of all."""

    def __init__(self) -> None:
        self._adj: dict[wire.NeighborId, AdjIn] = {}
        self._own: frozenset[IPAddress] = frozenset()
        self._former: dict[wire.NeighborId, wire.PeerState] | None = None
        self._whole = False
        self._told_neighbors = False
        self._synced = False
        self._policy: ImportPolicy | None = None
        self._judge = Judge(ImportPolicy())
        self._best: dict[IPNetwork, BestRoute] = {}
        self._dirty: set[IPNetwork] = set()

    def configure(self, neighbors: Iterable[Neighbor], *, own_addresses: frozenset[IPAddress], now_s: float) -> bool:
        """The neighbours that are wanted; what others say, or said, does not count. Whether `best` may have changed.

        Messages of a neighbour that is not wanted yet are lost: configure first, then connect (or ask for a resync).
        """
        wanted = {neighbor.id: neighbor for neighbor in neighbors}
        self._own = own_addresses
        self._told_neighbors = True
        changed = False
        for key in self._adj.keys() - wanted.keys():
            self._dirty.update(self._adj.pop(key).paths)
            changed = True
        for key, neighbor in wanted.items():
            known = self._adj.get(key)
            if known is None:
                self._adj[key] = AdjIn(neighbor, now_s=now_s)
                changed = True
            elif known.neighbor != neighbor:
                known.neighbor = neighbor
                self._dirty.update(known.paths)
                changed = True
        return changed

    def apply(self, message: wire.ToAgent, *, now_s: float) -> bool:
        """Take in one message; whether the answer of `best` or `synced` may have changed."""
        match message:
            case wire.TableBegin():
                self._former = {key: adj.state for key, adj in self._adj.items()}
                return False
            case wire.TableEnd():
                return self._table_ends()
            case wire.PeerState() | wire.Routes() | wire.EndOfRib() | wire.Sent():
                adj = self._adj.get(message.id)
                return adj is not None and self._of_neighbor(adj, message, now_s=now_s)
            case _:
                return False

    def _of_neighbor(self, adj: AdjIn, message: wire.ToAgent, *, now_s: float) -> bool:
        match message:
            case wire.PeerState():
                self._dirty |= {*adj.turn(message, now_s=now_s), *adj.stale}
                return True
            case wire.Routes():
                changed = adj.hear(message, own_addresses=self._own)
            case wire.EndOfRib(family=family):
                changed = adj.end_of_rib(family)
                self._dirty |= changed
                return True
            case wire.Sent(announced=names, withdrawn=gone, reset=reset):
                adj.sent = set() if reset else adj.sent.difference(gone)
                adj.sent.update(names)
                return False
            case _:
                return False
        self._dirty |= changed
        return bool(changed)

    def _table_ends(self) -> bool:
        """A session that is the same as before the table began has said all it has: the table is whole, also without
        an End-of-RIB, so what it did not repeat was withdrawn meanwhile."""
        former, self._former = self._former or {}, None
        for key, adj in self._adj.items():
            before = former.get(key)
            if adj.up and before is not None and before.since_s == adj.state.since_s and before.state is wire.State.UP:
                self._dirty |= adj.sweep()
        self._whole = True
        return True

    def speaker_gone(self, *, now_s: float) -> bool:
        """The connection ended. Whether `best` may have changed."""
        self._former = None
        for adj in self._adj.values():
            self._dirty |= {*adj.speaker_gone(now_s=now_s), *adj.stale}
        return True

    def tick(self, now_s: float) -> bool:
        """Drop what has been stale too long; whether anything changed."""
        gone: set[IPNetwork] = set()
        for adj in self._adj.values():
            gone |= adj.tick(now_s)
        self._dirty |= gone
        before = self._synced
        return bool(gone) or self.synced(now_s) != before

    def next_deadline_s(self) -> float | None:
        """When `tick` has something to do."""
        times = [time for adj in self._adj.values() if (time := adj.deadline_s()) is not None]
        if self._whole and not self._synced:
            times += [time for adj in self._adj.values() if (time := adj.complete_at_s())]
        return min(times, default=None)

    def best(self, policy: ImportPolicy) -> Mapping[IPNetwork, BestRoute]:
        """What may go into the kernel. Only prefixes that changed are looked at again, unless the policy did."""
        if policy != self._policy:
            self._policy, self._judge = policy, Judge(policy)
            self._best.clear()
            self._dirty = {prefix for adj in self._adj.values() for prefix in adj.paths}
        for prefix in self._dirty:
            route = self._decide(prefix)
            if route is None:
                self._best.pop(prefix, None)
            else:
                self._best[prefix] = route
        self._dirty.clear()
        return MappingProxyType(dict(self._best))

    def _decide(self, prefix: IPNetwork) -> BestRoute | None:
        paths = [
            path
            for adj in self._adj.values()
            if (path := adj.paths.get(prefix)) is not None
            and not self._judge.refuses(prefix, path.attributes, adj.neighbor)
        ]
        if not paths:
            return None
        chosen = decision.best(paths)
        return BestRoute(
            prefix=prefix,
            next_hops=frozenset(path.next_hop for path in chosen),
            neighbors=frozenset(path.neighbor for path in chosen),
            as_path=chosen[0].attributes.as_path,
            stale=all(prefix in self._adj[path.neighbor].stale for path in chosen),
        )

    def synced(self, now_s: float) -> bool:
        """Whether each neighbour has said all it has, or has been absent for so long that it no longer counts: only
        then may routes that are not in `best()` be removed from the kernel. Once true it stays so, for from then on
        routes of absent neighbours are kept here."""
        if not self._synced and self._whole and self._told_neighbors:
            self._synced = all(now_s >= adj.complete_at_s() for adj in self._adj.values())
        return self._synced

    def lacks(self) -> bool:
        """Whether a neighbour that was over its limit is well below it again: what was ignored must be heard anew."""
        return any(adj.ignored and len(adj.paths) <= adj.neighbor.prefix_limit // 2 for adj in self._adj.values())

    def neighbors(self) -> tuple[NeighborView, ...]:
        """All wanted neighbours."""
        return tuple(
            NeighborView(
                neighbor=adj.neighbor,
                state=adj.state.state,
                since_s=adj.state.since_s,
                reason=adj.state.reason,
                received=len(adj.paths),
                refused=len(adj.refused),
                sent=len(adj.sent),
                end_of_rib=adj.up and adj.ended >= set(adj.neighbor.session.families),
                stale=bool(adj.stale),
            )
            for _, adj in sorted(self._adj.items())
        )

    def refused(self) -> Mapping[wire.NeighborId, Mapping[str, str]]:
        """Announcements that can never be used, and those that the policy last given to `best` denies; and why."""
        found: dict[wire.NeighborId, dict[str, str]] = {}
        for key, adj in self._adj.items():
            found[key] = {str(prefix): why for prefix, why in adj.refused.items()}
            for prefix, path in adj.paths.items():
                if why := self._judge.refuses(prefix, path.attributes, adj.neighbor):
                    found[key][str(prefix)] = why
        return found

    def problems(self) -> tuple[Problem, ...]:
        """Neighbours that announce too much."""
        return tuple(
            Problem(
                kind="BGP neighbour",
                name=str(key),
                field="prefixes",
                sentence=f"announces more than the limit of {adj.neighbor.prefix_limit} prefixes; the first ones are "
                f"kept, {adj.ignored} later announcements are ignored",
            )
            for key, adj in sorted(self._adj.items())
            if adj.ignored
        )
