"""A pod's network, as steps: what is made for an ADD, what is undone for a DEL, what a CHECK looks at.

    host namespace                                      pod namespace
    caliXXXXXXXXXXX  ee:ee:ee:ee:ee:ee, NOARP  <------> eth0  02:…, addresses /32 and /128
      route  10.65.0.7/32 dev caliX proto 80              route 169.254.1.1 dev eth0 scope link
      permanent neighbour 10.65.0.7 -> pod's MAC          route default via 169.254.1.1
                                                          permanent neighbour 169.254.1.1 -> ee:ee:…

Theory: three batches. The pair is created with the pod's half in the pod's namespace from the start; then the pod's
side is set up through a socket in there; then the host's side, its link going up last. Until then nothing flows, so a
policy can be put in place first. No address ever is resolved, by ARP or neighbour discovery, on either side.

Invariants: a link is born in the group BUILDING and leaves it in the last batch, so what a killed agent leaves is
recognised and deleted at the next start. A finished link carries its owner and addresses in its alias: a restarted
agent needs no other memory. A DEL only marks the link dead (down, group DEAD; 0.07 ms); the reaper deletes the dead
together (felix.podnet_reaper). The agent's own namespace is refused, always.

Called by felix.cni_server. Steps are values: tests and `tortiectl plan` print them.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from felix.kernel.names import BUILDING_GROUP, DEAD_GROUP, POD_MAC, POD_PREFIX, PodMark, parse_mark, pod_interface
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
    PodKernel,
    PutAddress,
    PutNeighbour,
    PutRoute,
    Route,
    SetLink,
    Step,
)

GATEWAYS: Mapping[int, IPAddress] = {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::ecee:eeff:feee:eeee")}
"""What a pod sends to. On no interface: the pod's permanent neighbour entry leads to the host side's MAC."""

LIVE_GROUP = 0


class RefusedNamespace(ValueError):
    """The namespace is not a pod's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """One pod interface to be."""

    container_id: str
    ifname: str
    addresses: tuple[IPAddress, ...]
    mtu: int = 1500

    @property
    def interface(self) -> str:
        """Name of the host side."""
        return pod_interface(self.container_id, self.ifname)

    @property
    def pod_mac(self) -> bytes:
        """Locally administered, from the container: the same on a repeated ADD."""
        digest = hashlib.sha1(f"mac\0{self.container_id}\0{self.ifname}".encode(), usedforsecurity=False).digest()
        return b"\x02" + digest[:5]

    def mark(self, netns: tuple[int, int]) -> PodMark:
        """What the alias will say."""
        return PodMark(container_id=self.container_id, ifname=self.ifname, netns=netns, addresses=self.addresses)


def host_route(interface: str, address: IPAddress) -> Route:
    """The route to a pod of this node."""
    return Route(dst=ip_network(address), next_hops=(NextHop(device=interface),))


def create_step(wiring: Wiring) -> Step:
    """First batch, host: the pair."""
    return CreateVeth(
        name=wiring.interface,
        mac=POD_MAC,
        peer=wiring.ifname,
        peer_mac=wiring.pod_mac,
        mtu=wiring.mtu,
        group=BUILDING_GROUP,
    )


def pod_steps(wiring: Wiring) -> tuple[Step, ...]:
    """Second batch, in the pod."""
    eth = wiring.ifname
    steps: list[Step] = [SetLink(name="lo", state=LinkState.UP), SetLink(name=eth, state=LinkState.UP)]
    for address in wiring.addresses:
        gateway = GATEWAYS[address.version]
        everything = ip_network("0.0.0.0/0" if address.version == 4 else "::/0")
        full = InterfaceAddress(device=eth, address=address, prefix_len=address.max_prefixlen)
        steps += [
            PutAddress(address=full),
            PutRoute(route=Route(dst=ip_network(gateway), next_hops=(NextHop(device=eth),))),
            PutRoute(route=Route(dst=everything, next_hops=(NextHop(gateway=gateway, device=eth),))),
            PutNeighbour(neighbour=Neighbour(device=eth, address=gateway, mac=POD_MAC)),
        ]
    return tuple(steps)


def host_steps(wiring: Wiring, *, netns: tuple[int, int]) -> tuple[Step, ...]:
    """Third batch, host: it ends with the pod reachable, its link no longer debris. The kernel works off a batch even
    if the sender is killed meanwhile, so nobody finds a live link without its route."""
    name = wiring.interface
    steps: list[Step] = [
        SetLink(name=name, quiet=True, alias=str(wiring.mark(netns))),
        SetLink(name=name, state=LinkState.UP, group=LIVE_GROUP),
    ]
    for address in wiring.addresses:
        entry = Neighbour(device=name, address=address, mac=wiring.pod_mac)
        steps += [PutNeighbour(neighbour=entry), PutRoute(route=host_route(name, address))]
    return tuple(steps)


def death_steps(name: str, addresses: tuple[IPAddress, ...]) -> tuple[Step, ...]:
    """A DEL, host: unreachable at once, deleted by the reaper. Routes go first, one by one: taking them away with the
    link makes the kernel walk the whole table."""
    routes = tuple(DropRoute(route=host_route(name, address)) for address in addresses)
    return (*routes, SetLink(name=name, state=LinkState.DOWN, group=DEAD_GROUP))


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePod:
    """A finished pod interface found in the kernel."""

    interface: str
    mark: PodMark
    link: Link


class PodNet:
    """The only writer of pod interfaces."""

    def __init__(self, kernel: PodKernel) -> None:
        self._kernel = kernel

    def open_netns(self, descriptor: int) -> Netns:
        """The pod's namespace. RefusedNamespace for our own, or for something else."""
        try:
            netns = self._kernel.open_netns(descriptor)
        except OSError as error:
            raise RefusedNamespace(f"CNI_NETNS is not a network namespace ({error.strerror})") from error
        if netns.identity == self._kernel.identity:
            netns.close()
            raise RefusedNamespace("CNI_NETNS is the host's own network namespace")
        return netns

    def build(self, wiring: Wiring, *, netns: Netns) -> None:
        """First and second batch."""
        self.create(wiring, netns=netns)
        self.furnish(wiring, netns=netns)

    def create(self, wiring: Wiring, *, netns: Netns) -> None:
        """First batch; it needs no address yet. Leaves nothing behind when it fails (OSError)."""
        self._kernel.run((create_step(wiring),), peer=netns)

    def furnish(self, wiring: Wiring, *, netns: Netns) -> None:
        """Second batch. Leaves nothing behind when it fails (OSError)."""
        try:
            netns.run(pod_steps(wiring))
        except OSError:
            self.undo(wiring)
            raise

    def raise_up(self, wiring: Wiring, *, netns: Netns) -> None:
        """Third batch. Leaves nothing behind when it fails (OSError)."""
        try:
            self._kernel.run(host_steps(wiring, netns=netns.identity))
        except OSError:
            self.undo(wiring)
            raise

    def undo(self, wiring: Wiring) -> None:
        """Take back an ADD, however far it came; a link that somebody else finished is left alone."""
        link = self._kernel.find_link(wiring.interface)
        if link is None:
            return
        mark = parse_mark(link.alias)
        unfinished = mark is None and link.group == BUILDING_GROUP
        if unfinished or (mark is not None and mark.container_id == wiring.container_id):
            self._bury(wiring.interface, wiring.addresses)

    def live(self) -> tuple[LivePod, ...]:
        """All finished pod interfaces: what a restarted agent adopts, and what GC compares with."""
        found = []
        for link in self._kernel.list_links():
            pod = _live(link)
            if pod is not None:
                found.append(pod)
        return tuple(found)

    def find(self, *, container_id: str, ifname: str) -> LivePod | None:
        """The interface of this attachment, None if there is none or it is somebody else's."""
        link = self._kernel.find_link(pod_interface(container_id, ifname))
        pod = None if link is None else _live(link)
        if pod is None or (pod.mark.container_id, pod.mark.ifname) != (container_id, ifname):
            return None
        return pod

    def delete(self, *, container_id: str, ifname: str) -> PodMark | None:
        """Undo an attachment; its mark, or None if there was none. Idempotent; touches no namespace but our own."""
        pod = self.find(container_id=container_id, ifname=ifname)
        if pod is None:
            return None
        self._bury(pod.interface, pod.mark.addresses)
        return pod.mark

    def _bury(self, name: str, addresses: tuple[IPAddress, ...]) -> None:
        try:
            self._kernel.run(death_steps(name, addresses))
        except OSError as error:
            if error.errno != errno.ENODEV:  # it went with its namespace
                raise

    def check(self, wiring: Wiring, *, netns: Netns) -> tuple[str, ...]:
        """What is not as it should be on either side; () is good."""
        problems = [*self._check_host(wiring, netns=netns), *_check_pod(wiring, netns=netns)]
        return tuple(problems)

    def _check_host(self, wiring: Wiring, *, netns: Netns) -> list[str]:
        name = wiring.interface
        link = self._kernel.find_link(name)
        if link is None:
            return [f"{name} is missing on the host"]
        problems = _check_link(link, mac=POD_MAC, mtu=wiring.mtu)
        mark = parse_mark(link.alias)
        if mark is None or (mark.container_id, mark.ifname) != (wiring.container_id, wiring.ifname):
            return [*problems, f"{name} belongs to another container"]
        if mark.netns != netns.identity:
            problems.append(f"{name} leads to another network namespace than CNI_NETNS")
        if not link.noarp:
            problems.append(f"{name} has ARP on")
        neighbours = self._kernel.list_neighbours(name)
        for address in wiring.addresses:
            if Neighbour(device=name, address=address, mac=wiring.pod_mac) not in neighbours:
                problems.append(f"no permanent neighbour {address} on {name}")
            hops = self._kernel.resolve(address)
            if [hop.device for hop in hops] != [name]:
                problems.append(f"no route to {address} over {name}")
        return problems


def _live(link: Link) -> LivePod | None:
    mark = parse_mark(link.alias)
    if mark is None or not link.name.startswith(POD_PREFIX) or link.group in (BUILDING_GROUP, DEAD_GROUP):
        return None
    return LivePod(interface=link.name, mark=mark, link=link)


def _check_link(link: Link, *, mac: bytes, mtu: int) -> list[str]:
    problems = []
    if link.state is not LinkState.UP:
        problems.append(f"{link.name} is down")
    if link.mac != mac:
        problems.append(f"{link.name} has the address {link.mac.hex(':')}, not {mac.hex(':')}")
    if link.mtu != mtu:
        problems.append(f"{link.name} has MTU {link.mtu}, not {mtu}")
    return problems


def _check_pod(wiring: Wiring, *, netns: Netns) -> list[str]:
    eth = wiring.ifname
    link = netns.find_link(eth)
    if link is None:
        return [f"{eth} is missing in the pod"]
    problems = _check_link(link, mac=wiring.pod_mac, mtu=wiring.mtu)
    addresses, routes = netns.list_addresses(), netns.list_routes(protos=frozenset())
    neighbours = netns.list_neighbours(eth)
    for step in pod_steps(wiring):
        match step:
            case PutAddress(address=address) if address not in addresses:
                problems.append(f"{address.address}/{address.prefix_len} is missing on {eth} in the pod")
            case PutRoute(route=route) if route not in routes:
                problems.append(f"route {route.dst} is missing in the pod")
            case PutNeighbour(neighbour=entry) if entry not in neighbours:
                problems.append(f"permanent neighbour {entry.address} is missing in the pod")
            case _:
                pass
    return problems
