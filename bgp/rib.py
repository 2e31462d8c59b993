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

from bgp import wire
from bgp.import_policy import ImportPolicy
from bgp.sessions import Neighbor, Problem

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
    """Adj-RIB-In of each neighbour."""

    def __init__(self) -> None:
        raise NotImplementedError

    def configure(self, neighbors: Iterable[Neighbor], *, own_addresses: frozenset[IPAddress], now_s: float) -> None:
        """The neighbours that are wanted; what others say, or said, does not count."""
        raise NotImplementedError

    def apply(self, message: wire.ToAgent, *, now_s: float) -> bool:
        """Take in one message; whether the answer of `best` or `synced` may have changed."""
        raise NotImplementedError

    def tick(self, now_s: float) -> bool:
        """Drop what has been stale too long; whether anything changed."""
        raise NotImplementedError

    def next_deadline_s(self, now_s: float) -> float | None:
        """When `tick` has something to do, or `synced` changes by time alone."""
        raise NotImplementedError

    def best(self, policy: ImportPolicy) -> Mapping[IPNetwork, BestRoute]:
        """What may go into the kernel."""
        raise NotImplementedError

    def synced(self, now_s: float) -> bool:
        """Whether each neighbour has said all it has, or has been absent for so long that it no longer counts: only
        then may routes that are not in `best()` be removed from the kernel."""
        raise NotImplementedError

    def neighbors(self) -> tuple[NeighborView, ...]:
        """All wanted neighbours."""
        raise NotImplementedError

    def problems(self) -> tuple[Problem, ...]:
        """Neighbours that announce too much."""
        raise NotImplementedError
