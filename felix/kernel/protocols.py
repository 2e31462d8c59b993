"""What Tortie asks of a kernel: values and four small protocols, with no netlink in sight.

Theory: all writes are values (Route, Step), so a plan can be printed and compared, and a fake can refuse what a real
kernel would refuse. `felix.kernel.netlink` is the real one, `felix.kernel.fake` the other; the same contract tests run
on both. Only felix.main picks.

Invariants: values are frozen and canonical, i.e. what is listed equals what was put. Everything is IPv4 and IPv6.
Calls block for microseconds (no exec, no waiting for others) and are made from the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from felix.kernel.names import FELIX_PROTO

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

IPV6_DEFAULT_METRIC = 1024
"""IP6_RT_PRIO_USER: the kernel reads an IPv6 metric of 0 as this."""


class RouteKind(Enum):
    """What a route does with a packet."""

    UNICAST = "unicast"
    BLACKHOLE = "blackhole"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """Where a packet goes next. `gateway` None: the destination is on the link itself.

    `onlink`: take the gateway as reachable on `device` although no route says so.
    """

    gateway: IPAddress | None = None
    device: str
    onlink: bool = False

    def __str__(self) -> str:
        via = f"via {self.gateway} " if self.gateway is not None else ""
        return f"{via}dev {self.device}{' onlink' if self.onlink else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route of the main table. Identity in the kernel is (dst, metric).

    Canonical: next hops are sorted and an IPv6 metric of 0 becomes 1024 as in the kernel, so that wanted and listed
    routes compare equal.
    """

    dst: IPNetwork
    kind: RouteKind = RouteKind.UNICAST
    next_hops: tuple[NextHop, ...] = ()
    proto: int = FELIX_PROTO
    metric: int = 0
    source: IPAddress | None = None

    def __post_init__(self) -> None:
        if (self.kind is RouteKind.UNICAST) != bool(self.next_hops):
            raise ValueError(f"{self.dst}: a unicast route has next hops, a blackhole has none")
        if self.metric == 0 and self.dst.version == 6:
            object.__setattr__(self, "metric", IPV6_DEFAULT_METRIC)
        if len(self.next_hops) > 1:
            object.__setattr__(self, "next_hops", tuple(sorted(self.next_hops, key=str)))

    def __str__(self) -> str:
        hops = (
            " ".join(f"nexthop {hop}" for hop in self.next_hops)
            if len(self.next_hops) > 1
            else (str(self.next_hops[0]) if self.next_hops else "")
        )
        source = f" src {self.source}" if self.source is not None else ""
        words = [self.kind.value, str(self.dst), hops, f"proto {self.proto}", f"metric {self.metric}"]
        return " ".join(word for word in words if word) + source


class LinkState(Enum):
    """Administrative state, not carrier."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One interface as the kernel shows it."""

    index: int
    name: str
    kind: str = ""
    """`veth`, `bridge`, … or "" for hardware and loopback."""
    state: LinkState
    carrier: bool = False
    noarp: bool = False
    mac: bytes = b""
    mtu: int = 0
    group: int = 0
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceAddress:
    """An address on an interface."""

    device: str
    address: IPAddress
    prefix_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A neighbour entry; `permanent` is NUD_PERMANENT."""

    device: str
    address: IPAddress
    mac: bytes
    permanent: bool = True


# Steps: what a pod's network is made of. A batch of steps is one message to the kernel.


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVeth:
    """A veth pair: this half here, down, NOARP, in `group`; the peer, down, in the other namespace from the start."""

    name: str
    mac: bytes
    peer: str
    peer_mac: bytes
    mtu: int
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink:
    """Change a link; None leaves as it is. `quiet`: no addresses of its own, strict reverse path, no redirects."""

    name: str
    state: LinkState | None = None
    group: int | None = None
    alias: str | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PutAddress:
    """Add an address, usable at once (no duplicate address detection)."""

    address: InterfaceAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class PutNeighbour:
    """Add or replace a permanent neighbour."""

    neighbour: Neighbour


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRoute:
    """Add or replace a route."""

    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class DropRoute:
    """Remove a route; that it is absent is not an error."""

    route: Route


Step = CreateVeth | SetLink | PutAddress | PutNeighbour | PutRoute | DropRoute


class RouteKernel(Protocol):
    """The main routing table."""

    def list_routes(self, *, protos: frozenset[int]) -> frozenset[Route]:
        """Routes of these protocols, of the main table, both families."""

    def put_routes(self, routes: Iterable[Route]) -> dict[Route, OSError]:
        """Add, or replace what stands at (dst, metric) if that is of the same protocol; returns those that failed. A
        stranger's route is never replaced: EEXIST."""

    def drop_routes(self, routes: Iterable[Route]) -> dict[Route, OSError]:
        """Remove; an absent route fails with ESRCH."""

    def resolve(self, address: IPAddress) -> tuple[NextHop, ...]:
        """How to reach `address`: hops ready to stand in a Route (all of a multipath), () if it cannot be reached or
        is this host. By longest match, routes of FELIX_PROTO with a gateway left out: a next hop that hangs on a route
        learned with it would hold itself up."""


class LinkKernel(Protocol):
    """Interfaces, as seen."""

    def list_links(self) -> tuple[Link, ...]:
        """All interfaces of this namespace."""

    def find_link(self, name: str) -> Link | None:
        """One interface, cheaper than the list."""

    def list_addresses(self) -> frozenset[InterfaceAddress]:
        """All addresses of this namespace."""

    def list_neighbours(self, device: str) -> frozenset[Neighbour]:
        """Neighbour entries on one interface."""


class Netns(LinkKernel, Protocol):
    """Another network namespace, entered by descriptor; close it after use."""

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode) of the namespace's file."""

    def list_routes(self, *, protos: frozenset[int]) -> frozenset[Route]:
        """As RouteKernel's; an empty set of protocols means all."""

    def run(self, steps: Sequence[Step]) -> None:
        """As PodKernel.run."""

    def close(self) -> None:
        """Leave no descriptor behind."""


class PodKernel(LinkKernel, RouteKernel, Protocol):
    """What felix.podnet needs."""

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode) of our own network namespace."""

    def open_netns(self, descriptor: int) -> Netns:
        """A view of the namespace behind this descriptor, which stays the caller's. OSError if it is none."""

    def run(self, steps: Sequence[Step], *, peer: Netns | None = None) -> None:
        """Do the steps in order, in one message. OSError of the first that fails; any of the others may have been
        done. `peer` is where a CreateVeth puts the other half."""

    def delete_group(self, group: int) -> None:
        """Delete all links of the group together; that there is none is not an error. Blocks for about 25 ms, so it may
        be called from another thread."""

    def forget_flows(self, addresses: Iterable[IPAddress]) -> None:
        """Delete the connection tracking entries from or to these addresses. May be called from another thread."""

    def guard_neighbours(self) -> None:
        """Make the host ignore IPv6 neighbour discovery that comes from pod interfaces. Idempotent."""

    def prepare_host(self) -> None:
        """Make the host forward packets. Idempotent."""
