"""The real kernel: rtnetlink over one long-lived socket for each namespace.

Theory: the kernel works off a request inside the send call, so answers are there when it returns and nothing here
waits for others. A batch is one send; errors name the message by its sequence number.

Invariants: the thread is in its own network namespace whenever a method returns (a pod's namespace is entered only to
open a socket, which then stays bound to it). Writes mark what they make (felix.kernel.names). Strangers' routes are
never replaced or removed.

Picked by felix.main; tests use it inside a namespace of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

from felix.kernel import conntrack, decode, guard, messages
from felix.kernel.names import FELIX_PROTO
from felix.kernel.protocols import (
    CreateVeth,
    DropRoute,
    InterfaceAddress,
    IPAddress,
    IPNetwork,
    Link,
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
from felix.kernel.rawnl import F_EXCL, F_REPLACE
from felix.kernel.sockets import NetlinkSocket

BATCH = 500
"""Routes in one message. More gains nothing, and 500 refusals still fit the receive buffer."""

ASK_ONE_BY_ONE = 64

_CLONE_NEWNET = 0x40000000
_LOOPBACK = {"lo": 1}
"""LOOPBACK_IFINDEX, in each namespace."""
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number_ = ctypes.get_errno()
        raise OSError(number_, os.strerror(number_))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def entered(descriptor: int, *, home: int) -> Iterator[None]:
    """Run the block in the namespace behind `descriptor`. A thread that cannot come home must not go on."""
    _setns(descriptor)
    try:
        yield
    finally:
        try:
            _setns(home)
        except OSError:
            os.abort()


class _Namespace:
    """What can be read and done in one namespace: LinkKernel, and running steps."""

    def __init__(self, *, sock: NetlinkSocket, identity: tuple[int, int], descriptor: int) -> None:
        self._sock = sock
        self._descriptor = descriptor
        self.identity = identity
        self._fresh: dict[str, int] = {}
        """Indexes of links made by the last run, for the next one."""
        self._seen_links: dict[bytes, Link] = {}
        self._seen: dict[bytes, Route | None] = {}
        self._seen_names: dict[int, str] = {}

    def list_links(self) -> tuple[Link, ...]:
        # The same bytes mean the same link, and a kilobyte for each of a hundred pods takes long to decode.
        known, bodies = self._seen_links, self._sock.must([messages.dump_links()])
        self._seen_links = {body: known.get(body) or decode.link(body) for body in bodies}
        return tuple(self._seen_links.values())

    def find_link(self, name: str) -> Link | None:
        bodies, failed = self._sock.ask([messages.get_link(name)])
        for error in failed.values():
            if error.errno != errno.ENODEV:
                raise error
        return decode.link(bodies[0]) if bodies else None

    def list_addresses(self) -> frozenset[InterfaceAddress]:
        names = self._names()
        found = (decode.address(body, names=names) for body in self._sock.must([messages.dump_addresses()]))
        return frozenset(entry for entry in found if entry is not None)

    def list_neighbours(self, device: str) -> frozenset[Neighbour]:
        bodies = self._sock.must([messages.dump_neighbours(index=self._index(device))])
        found = (decode.neighbour(body, device=device) for body in bodies)
        return frozenset(entry for entry in found if entry is not None)

    def list_routes(self, *, protos: frozenset[int]) -> frozenset[Route]:
        bodies: list[bytes] = []
        for proto in sorted(protos) or [0]:
            for version in self._versions():
                bodies += self._sock.must([messages.dump_routes(version=version, proto=proto)])
        names = self._names()
        # The same bytes mean the same route as long as the interfaces keep their names: decode only what is new.
        kept = all(names.get(index, name) == name for index, name in self._seen_names.items())
        known = self._seen if kept else {}
        self._seen_names = names
        self._seen = {body: known.get(body) or decode.route(body, names=names) for body in bodies}
        return frozenset(
            route for route in self._seen.values() if route is not None and (not protos or route.proto in protos)
        )

    def run(self, steps: Sequence[Step], *, peer: Netns | None = None) -> None:
        indexes, self._fresh = {**_LOOPBACK, **self._fresh}, {}

        def index_of(name: str) -> int:
            if name not in indexes:
                indexes[name] = self._index(name)
            return indexes[name]

        requests: list[bytes] = []
        may_be_absent: set[int] = set()
        for step in steps:
            match step:
                case CreateVeth():
                    if not isinstance(peer, NetlinkNetns):
                        raise OSError(errno.EINVAL, "a veth needs the namespace of its peer")
                    (answer,) = self._sock.must(
                        [messages.create_veth(step, netns=peer.descriptor), messages.get_link(step.name)]
                    )
                    indexes[step.name] = self._fresh[step.name] = decode.link_name(answer)[0]
                case SetLink():
                    requests.append(messages.set_link(step, index=index_of(step.name), with_ipv6=_has_ipv6))
                case PutAddress(address=address):
                    requests.append(messages.put_address(address, index=index_of(address.device)))
                case PutNeighbour(neighbour=entry):
                    requests.append(messages.put_neighbour(entry, index=index_of(entry.device)))
                case PutRoute(route=route):
                    requests.append(messages.put_route(route, flags=F_REPLACE, index_of=index_of))
                case DropRoute(route=route):
                    may_be_absent.add(len(requests))
                    requests.append(messages.drop_route(route))
        if not requests:
            return
        _, failed = self._sock.ask(requests)
        for position, error in sorted(failed.items()):
            if position not in may_be_absent:
                raise error

    def _index(self, name: str) -> int:
        (body,) = self._sock.must([messages.get_link(name)])
        return decode.link_name(body)[0]

    def _names(self) -> dict[int, str]:
        return {link.index: link.name for link in self.list_links()}

    def _versions(self) -> tuple[int, ...]:
        return (4, 6) if _has_ipv6() else (4,)


class NetlinkNetns(_Namespace):
    """A pod's namespace."""

    def __init__(self, descriptor: int, *, home: int) -> None:
        with entered(descriptor, home=home):
            sock = NetlinkSocket()
        super().__init__(sock=sock, identity=_identity(descriptor), descriptor=descriptor)
        self._home = home

    def run(self, steps: Sequence[Step], *, peer: Netns | None = None) -> None:
        if any(isinstance(step, PutAddress) and step.address.address.version == 6 for step in steps):
            with entered(self._descriptor, home=self._home):
                _allow_ipv6()
        super().run(steps, peer=peer)

    @property
    def descriptor(self) -> int:
        """The caller's descriptor of the namespace."""
        return self._descriptor

    def close(self) -> None:
        self._sock.close()


@functools.cache
def _has_ipv6() -> bool:
    """A kernel can be booted without it."""
    return Path("/proc/sys/net/ipv6").exists()


def _allow_ipv6() -> None:
    """Runtimes often switch IPv6 off in a new namespace; a pod with an IPv6 address needs it. Who has none loses
    nothing: without an address or a route no packet leaves."""
    for scope in ("all", "default"):
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6", os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.read(descriptor, 2)[:1] == b"1":
                    os.pwrite(descriptor, b"0", 0)
            finally:
                os.close(descriptor)


class NetlinkKernel(_Namespace):
    """Our own namespace: PodKernel and RouteKernel."""

    def __init__(self) -> None:
        descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        super().__init__(sock=NetlinkSocket(), identity=_identity(descriptor), descriptor=descriptor)

    @property
    def port(self) -> int:
        """Netlink port of our socket: what the kernel says about writes of this port is no news to us."""
        return self._sock.port

    def close(self) -> None:
        self._sock.close()
        os.close(self._descriptor)

    def open_netns(self, descriptor: int) -> NetlinkNetns:
        return NetlinkNetns(descriptor, home=self._descriptor)

    # routes

    def put_routes(self, routes: Iterable[Route]) -> dict[Route, OSError]:
        index_of = self._cached_index()
        failed = self._each(routes, lambda route: messages.put_route(route, flags=F_EXCL, index_of=index_of))
        standing = [route for route, error in failed.items() if error.errno == errno.EEXIST]
        if not standing:
            return failed
        ours = self._ours_among(standing)
        replaceable = [route for route in standing if (route.dst, route.metric, route.proto) in ours]
        for route in replaceable:
            del failed[route]
        failed.update(
            self._each(replaceable, lambda route: messages.put_route(route, flags=F_REPLACE, index_of=index_of))
        )
        return failed

    def _ours_among(self, standing: Sequence[Route]) -> set[tuple[IPNetwork, int, int]]:
        """Destination, metric and protocol of what stands where these shall go. A few host routes (pods that came since
        the last look) are asked for one by one, or the whole table would be read for each pod."""
        if len(standing) <= ASK_ONE_BY_ONE and all(
            route.dst.prefixlen == route.dst.max_prefixlen for route in standing
        ):
            found = set()
            for route in standing:
                bodies, _ = self._sock.ask([messages.match_route(route.dst.network_address)])
                if bodies and decode.route_length(bodies[0]) == route.dst.prefixlen:
                    found.add((route.dst, decode.route_metric(bodies[0]), decode.route_proto(bodies[0])))
            if all((route.dst, route.metric, route.proto) in found for route in standing):
                return found
        protos = frozenset(route.proto for route in standing)
        return {(route.dst, route.metric, route.proto) for route in self.list_routes(protos=protos)}

    def drop_routes(self, routes: Iterable[Route]) -> dict[Route, OSError]:
        return self._each(routes, messages.drop_route)

    def resolve(self, address: IPAddress) -> tuple[NextHop, ...]:
        if isinstance(address, IPv6Address) and address.is_link_local:
            if not address.scope_id:
                return ()
            bare = IPv6Address(address.packed)
            return (NextHop(gateway=bare, device=address.scope_id),)
        bodies, failed = self._sock.ask([messages.match_route(address)])
        if failed and failed[0].errno == errno.ENETUNREACH:
            return ()
        if bodies:
            learned = decode.route_proto(bodies[0]) == FELIX_PROTO
            route = decode.route(bodies[0], names=self._names())
            if route is not None and not (learned and any(hop.gateway is not None for hop in route.next_hops)):
                return _towards(address, route)
            if not learned:
                return ()  # this host's own address, or something that Tortie does not express
        return self._resolve_by_scan(address)

    def _resolve_by_scan(self, address: IPAddress) -> tuple[NextHop, ...]:
        """Longest match over the main table without what BGP put there."""
        names = self._names()
        best: Route | None = None
        for body in self._sock.must([messages.dump_routes(version=address.version, proto=0)]):
            if decode.route_proto(body) == FELIX_PROTO:
                continue
            route = decode.route(body, names=names)
            if route is None or address not in route.dst:
                continue
            if best is None or (-route.dst.prefixlen, route.metric) < (-best.dst.prefixlen, best.metric):
                best = route
        return () if best is None or best.kind is RouteKind.BLACKHOLE else _towards(address, best)

    def _cached_index(self) -> Callable[[str], int]:
        indexes: dict[str, int] = {}

        def index_of(name: str) -> int:
            if name not in indexes:
                indexes[name] = self._index(name)
            return indexes[name]

        return index_of

    def _each(self, routes: Iterable[Route], pack: Callable[[Route], bytes]) -> dict[Route, OSError]:
        """One message for each route, in batches; what fails does not hold up the rest."""
        failed: dict[Route, OSError] = {}
        packed: list[tuple[Route, bytes]] = []
        for route in routes:
            try:
                packed.append((route, pack(route)))
            except OSError as error:  # no such interface
                failed[route] = error
        for start in range(0, len(packed), BATCH):
            part = packed[start : start + BATCH]
            _, errors = self._sock.ask([request for _, request in part])
            failed.update({part[position][0]: error for position, error in errors.items()})
        return failed

    # the rest

    def delete_group(self, group: int) -> None:
        sock = NetlinkSocket()  # of its own: the reaper calls from a thread
        try:
            _, failed = sock.ask([messages.delete_group(group)])
        finally:
            sock.close()
        for error in failed.values():
            if error.errno != errno.ENODEV:
                raise error

    def forget_flows(self, addresses: Iterable[IPAddress]) -> None:
        conntrack.forget(addresses)

    def guard_neighbours(self) -> None:
        guard.install()

    def prepare_host(self) -> None:
        """IPv4 and IPv6 forwarding. A host that forwards ignores router advertisements unless accept_ra is 2, so an
        uplink that lives by them is told to go on."""
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
        if not _has_ipv6():
            return
        forwarding = Path("/proc/sys/net/ipv6/conf/all/forwarding")
        if forwarding.read_text(encoding="ascii").strip() == "1":
            return
        for setting in Path("/proc/sys/net/ipv6/conf").glob("*/accept_ra"):
            if setting.read_text(encoding="ascii").strip() == "1":
                setting.write_text("2", encoding="ascii")
        forwarding.write_text("1", encoding="ascii")


def _towards(address: IPAddress, route: Route) -> tuple[NextHop, ...]:
    """The hops of `route`, with `address` itself as the gateway where it is on the link."""
    return tuple(hop if hop.gateway is not None else replace(hop, gateway=address) for hop in route.next_hops)
