"""One neighbour's routes, and what becomes of them when its session comes and goes (RFC 4724, the helper's part).

Theory: a set of paths, some of them stale: heard in a former session, and not yet again in this one. Who promised to
keep forwarding while it restarts has its routes kept so long; who sent or got a NOTIFICATION loses them at once; and
if our own end restarted they stay in any case, for the peer never stopped forwarding.

Called by `bgp.rib`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from bgp import hearing, wire
from bgp.decision import Path
from bgp.plan import Neighbor

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

STALE_S: Final = 120.0
"""How long routes stay where no peer named a time: Calico's and BIRD's restart time."""
END_OF_RIB_WAIT_S: Final = 30.0
"""A peer without graceful restart may send no End-of-RIB: after so long its table counts as whole."""


class AdjIn:
    """Mutable; every method returns the prefixes whose paths changed."""

    def __init__(self, neighbor: Neighbor, *, now_s: float) -> None:
        self.neighbor = neighbor
        self.state = wire.PeerState(id=neighbor.id, state=wire.State.NEVER, since_s=0.0)
        self.paths: dict[IPNetwork, Path] = {}
        self.refused: dict[IPNetwork | str, str] = {}
        self.sent: set[str] = set()
        self.ended: set[wire.Family] = set()
        self.stale: set[IPNetwork] = set()
        self.ignored = 0
        """Announcements above the prefix limit."""
        self._stale_until_s = 0.0
        self._turned_s = now_s

    @property
    def up(self) -> bool:
        return self.state.state is wire.State.UP

    def turn(self, state: wire.PeerState, *, now_s: float) -> set[IPNetwork]:
        """The session's state as the speaker tells it."""
        former, self.state = self.state, state
        if state.state is wire.State.UP:
            self.ended.clear()
            self._turned_s = now_s
            self.ignored = 0
            self._make_stale(self.paths, until_s=now_s + max(state.restart_time_s, STALE_S))
            return set()
        if former.state is not wire.State.UP and self.stale:
            return set()
        self._turned_s = now_s
        return self._lost(state, now_s=now_s)

    def speaker_gone(self, *, now_s: float) -> set[IPNetwork]:
        """Nobody knows how the session is; the peer forwards, as far as we know."""
        if not self.up:
            return set()
        return self.turn(
            wire.PeerState(
                id=self.neighbor.id,
                state=wire.State.DOWN,
                since_s=self.state.since_s,
                reason="the speaker is away",
                cause=wire.Cause.OURS,
                restart_time_s=self.state.restart_time_s,
            ),
            now_s=now_s,
        )

    def _lost(self, state: wire.PeerState, *, now_s: float) -> set[IPNetwork]:
        self.ended.clear()
        self.sent.clear()
        self.refused.clear()
        if state.state is wire.State.NEVER or state.cause is wire.Cause.OURS:
            self._make_stale(self.paths, until_s=now_s + max(state.restart_time_s, STALE_S))
            return set()
        kept = state.cause is wire.Cause.LOST and state.restart_time_s > 0
        families = set(state.restart_families) if kept else set()
        dropped = {prefix for prefix in self.paths if family_of(prefix) not in families}
        changed = self._drop(dropped)
        self._make_stale(self.paths, until_s=now_s + state.restart_time_s)
        return changed

    def hear(self, routes: wire.Routes, *, own_addresses: frozenset[IPAddress]) -> set[IPNetwork]:
        """One UPDATE's worth: withdrawals, then announcements."""
        changed: set[IPNetwork] = set()
        for text in routes.withdrawn:
            prefix = hearing.prefix(text)
            self.refused.pop(prefix, None)
            if not isinstance(prefix, str):
                changed |= self._drop({prefix})
        for group in routes.announced:
            changed |= self._announced(group, own_addresses=own_addresses)
        return changed

    def _announced(self, group: wire.Announced, *, own_addresses: frozenset[IPAddress]) -> set[IPNetwork]:
        changed: set[IPNetwork] = set()
        by_version: defaultdict[int, list[IPNetwork]] = defaultdict(list)
        for text in group.prefixes:
            prefix = hearing.prefix(text)
            if isinstance(prefix, str):
                self._refuse(text, prefix)
            else:
                by_version[prefix.version].append(prefix)
        for version, prefixes in by_version.items():
            path = hearing.path(
                self.neighbor, group, version=version, router_id=self.state.router_id, own_addresses=own_addresses
            )
            if isinstance(path, str):
                for prefix in prefixes:
                    self._refuse(prefix, path)
                changed |= self._drop(prefixes)
                continue
            for prefix in prefixes:
                if prefix not in self.paths and len(self.paths) >= self.neighbor.prefix_limit:
                    self.ignored += 1
                    continue
                self.stale.discard(prefix)
                if self.refused:
                    self.refused.pop(prefix, None)
                if self.paths.get(prefix) != path:
                    self.paths[prefix] = path
                    changed.add(prefix)
        return changed

    def end_of_rib(self, family: wire.Family) -> set[IPNetwork]:
        """All has been said: what is still stale is gone."""
        self.ended.add(family)
        return self._drop({prefix for prefix in self.stale if family_of(prefix) is family})

    def sweep(self) -> set[IPNetwork]:
        """Drop what is stale."""
        return self._drop(set(self.stale))

    def tick(self, now_s: float) -> set[IPNetwork]:
        """Drop what has been stale for too long."""
        return self.sweep() if self.stale and now_s >= self._stale_until_s else set()

    def complete_at_s(self) -> float:
        """When this neighbour stops holding up the first sweep, if nothing happens; 0: it does not."""
        if self.up:
            missing = set(self.neighbor.session.families) - self.ended
            return self._turned_s + END_OF_RIB_WAIT_S if missing else 0.0
        return self._turned_s + max(float(self.state.restart_time_s), STALE_S if self._unpromised() else 0.0)

    def deadline_s(self) -> float | None:
        """When `tick` has something to do."""
        return self._stale_until_s if self.stale else None

    def _unpromised(self) -> bool:
        return self.state.restart_time_s == 0

    def _make_stale(self, prefixes: Iterable[IPNetwork], *, until_s: float) -> None:
        self.stale.update(prefixes)
        self._stale_until_s = until_s

    def _drop(self, prefixes: Iterable[IPNetwork]) -> set[IPNetwork]:
        gone = {prefix for prefix in prefixes if self.paths.pop(prefix, None) is not None}
        self.stale -= gone
        return gone

    def _refuse(self, prefix: IPNetwork | str, why: str) -> None:
        if len(self.refused) < self.neighbor.prefix_limit:
            self.refused[prefix] = why


def family_of(prefix: IPNetwork) -> wire.Family:
    """The address family of a prefix."""
    return wire.Family.IPV4 if prefix.version == 4 else wire.Family.IPV6
