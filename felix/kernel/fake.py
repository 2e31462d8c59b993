"""A kernel in memory that refuses what a real one refuses; ships with Tortie and passes the same contract tests.

It refuses a route over an unknown or downed device, a gateway that nothing reaches, a neighbour or an address on an
absent link, a second link of the same name, dropping an absent route. So each test of a writer also tests its order.

Each FakeKernel is one network namespace; `new_netns()` makes another, with a descriptor as handle.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from felix.kernel.names import FELIX_PROTO
from felix.kernel.protocols import (
    CreateVeth,
    DropRoute,
    InterfaceAddress,
    IPAddress,
    Link,
    LinkState,
    Neighbour,
    Netns,
    NextHop,
    PutAddress,
    PutNeighbour,
    PutRoute,
    Route,
    RouteKind,
    SetLink,
    Step,
)

_inodes = count(1000)


def _refuse(number: int, what: object) -> OSError:
    return OSError(number, f"{os.strerror(number)}: {what}")


class FakeKernel:
    """One namespace: PodKernel, Netns and RouteKernel in one."""

    def __init__(self) -> None:
        self.identity = (4, next(_inodes))
        self.links: dict[str, Link] = {
            "lo": Link(index=1, name="lo", state=LinkState.DOWN, mtu=65536, mac=bytes(6)),
        }
        self.routes: dict[tuple[object, int], Route] = {}
        self.addresses: set[InterfaceAddress] = set()
        self.neighbours: dict[tuple[str, IPAddress], Neighbour] = {}
        self.flows: set[IPAddress] = set()
        """Addresses that have tracked connections."""
        self.peers: dict[str, tuple[FakeKernel, str]] = {}
        self.namespaces: dict[int, FakeKernel] = {}
        self.guarded = False
        self.forwarding = False
        self.fail_at: Callable[[Step], OSError | None] = lambda _step: None
        """Fault injection: called before each step."""
        self._indexes = count(2)

    # worlds

    def add_link(self, name: str, *, state: LinkState = LinkState.UP, mtu: int = 1500, alias: str = "") -> None:
        """A link that is there for other reasons, such as an uplink."""
        self.links[name] = Link(index=next(self._indexes), name=name, state=state, carrier=True, mtu=mtu, alias=alias)

    def add_address(self, device: str, interface: str) -> None:
        """`192.0.2.1/24` on a link: the connected route comes with it, of protocol 2 (kernel)."""
        from ipaddress import ip_interface

        parsed = ip_interface(interface)
        self._put_address(InterfaceAddress(device=device, address=parsed.ip, prefix_len=parsed.network.prefixlen))
        self._put(Route(dst=parsed.network, next_hops=(NextHop(device=device),), proto=2))

    def new_netns(self, descriptor: int) -> FakeKernel:
        """Another namespace, found by `open_netns(descriptor)`."""
        self.namespaces[descriptor] = FakeKernel()
        return self.namespaces[descriptor]

    # LinkKernel

    def list_links(self) -> tuple[Link, ...]:
        return tuple(self.links.values())

    def find_link(self, name: str) -> Link | None:
        return self.links.get(name)

    def list_addresses(self) -> frozenset[InterfaceAddress]:
        return frozenset(self.addresses)

    def list_neighbours(self, device: str) -> frozenset[Neighbour]:
        return frozenset(entry for (name, _), entry in self.neighbours.items() if name == device)

    # RouteKernel

    def list_routes(self, *, protos: frozenset[int]) -> frozenset[Route]:
        return frozenset(route for route in self.routes.values() if not protos or route.proto in protos)

    def put_routes(self, routes: Iterable[Route]) -> dict[Route, OSError]:
        failed: dict[Route, OSError] = {}
        for route in routes:
            try:
                self._put(route)
            except OSError as error:
                failed[route] = error
        return failed

    def drop_routes(self, routes: Iterable[Route]) -> dict[Route, OSError]:
        failed: dict[Route, OSError] = {}
        for route in routes:
            standing = self.routes.get((route.dst, route.metric))
            if standing is None or standing.proto != route.proto:
                failed[route] = _refuse(errno.ESRCH, route)
            else:
                del self.routes[route.dst, route.metric]
        return failed

    def resolve(self, address: IPAddress) -> tuple[NextHop, ...]:
        if any(address == own.address for own in self.addresses):
            return ()
        best: Route | None = None
        for route in self.routes.values():
            learned = route.proto == FELIX_PROTO and any(hop.gateway is not None for hop in route.next_hops)
            if learned or (route.proto == FELIX_PROTO and route.kind is RouteKind.BLACKHOLE):
                continue
            if route.dst.version != address.version or address not in route.dst:
                continue
            if best is None or (-route.dst.prefixlen, route.metric) < (-best.dst.prefixlen, best.metric):
                best = route
        if best is None or best.kind is RouteKind.BLACKHOLE:
            return ()
        return tuple(hop if hop.gateway is not None else replace(hop, gateway=address) for hop in best.next_hops)

    def _put(self, route: Route) -> None:
        for hop in route.next_hops:
            link = self._link(hop.device)
            if link.state is not LinkState.UP:
                raise _refuse(errno.ENETDOWN, route)
            if hop.gateway is not None and not hop.onlink and not self._on_link(hop.gateway, hop.device):
                raise _refuse(errno.ENETUNREACH if route.dst.version == 4 else errno.EHOSTUNREACH, route)
        standing = self.routes.get((route.dst, route.metric))
        if standing is not None and standing.proto != route.proto:
            raise _refuse(errno.EEXIST, standing)
        self.routes[route.dst, route.metric] = route

    def _on_link(self, gateway: IPAddress, device: str) -> bool:
        if gateway.version == 6 and gateway.is_link_local:
            return True
        return any(
            gateway.version == route.dst.version
            and gateway in route.dst
            and hop.device == device
            and hop.gateway is None
            for route in self.routes.values()
            for hop in route.next_hops
        )

    def _link(self, name: str) -> Link:
        try:
            return self.links[name]
        except KeyError:
            raise _refuse(errno.ENODEV, name) from None

    # PodKernel

    def open_netns(self, descriptor: int) -> Netns:
        try:
            return self.namespaces[descriptor]
        except KeyError:
            raise _refuse(errno.EINVAL, f"descriptor {descriptor} is no network namespace") from None

    def close(self) -> None:
        """Nothing to close."""

    def run(self, steps: Sequence[Step], *, peer: Netns | None = None) -> None:
        for step in steps:
            error = self.fail_at(step)
            if error is not None:
                raise error
            self._do(step, peer)

    def _do(self, step: Step, peer: Netns | None) -> None:
        match step:
            case CreateVeth():
                self._create_veth(step, peer)
            case SetLink():
                self._set_link(step)
            case PutAddress(address=address):
                self._put_address(address)
            case PutNeighbour(neighbour=entry):
                self._link(entry.device)
                self.neighbours[entry.device, entry.address] = entry
            case PutRoute(route=route):
                self._put(route)
            case DropRoute(route=route):
                self.routes.pop((route.dst, route.metric), None)

    def _put_address(self, address: InterfaceAddress) -> None:
        self._link(address.device)
        self.addresses.add(address)

    def _create_veth(self, step: CreateVeth, peer: Netns | None) -> None:
        if not isinstance(peer, FakeKernel):
            raise _refuse(errno.EINVAL, "a veth needs the namespace of its peer")
        if step.name in self.links or step.peer in peer.links:
            raise _refuse(errno.EEXIST, step.name)
        here = Link(
            index=next(self._indexes),
            name=step.name,
            kind="veth",
            state=LinkState.DOWN,
            noarp=True,
            mac=step.mac,
            mtu=step.mtu,
            group=step.group,
        )
        there = Link(
            index=next(peer._indexes),
            name=step.peer,
            kind="veth",
            state=LinkState.DOWN,
            mac=step.peer_mac,
            mtu=step.mtu,
        )
        self.links[step.name], peer.links[step.peer] = here, there
        self.peers[step.name] = (peer, step.peer)

    def _set_link(self, step: SetLink) -> None:
        link = self._link(step.name)
        link = replace(
            link,
            state=step.state or link.state,
            group=link.group if step.group is None else step.group,
            alias=link.alias if step.alias is None else step.alias,
        )
        self.links[step.name] = link
        if step.state is LinkState.DOWN:
            self._forget_device(step.name)

    def _forget_device(self, name: str) -> None:
        """What the kernel does when a link goes down."""
        self.routes = {
            key: route for key, route in self.routes.items() if not any(hop.device == name for hop in route.next_hops)
        }
        self.neighbours = {key: entry for key, entry in self.neighbours.items() if key[0] != name}

    def delete_group(self, group: int) -> None:
        for name in [link.name for link in self.links.values() if link.group == group and group != 0]:
            self.delete_link(name)

    def delete_link(self, name: str) -> None:
        """Also takes the other half, as the kernel does."""
        self.links.pop(name, None)
        self._forget_device(name)
        self.addresses = {entry for entry in self.addresses if entry.device != name}
        if name in self.peers:
            other, other_name = self.peers.pop(name)
            other.delete_link(other_name)

    def forget_flows(self, addresses: Iterable[IPAddress]) -> None:
        self.flows -= set(addresses)

    def guard_neighbours(self) -> None:
        self.guarded = True

    def prepare_host(self) -> None:
        self.forwarding = True
