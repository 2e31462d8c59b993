"""What the agent last saw of the kernel: links, addresses, and the way to each BGP next hop.

Theory: nothing here is remembered longer than the kernel says that nothing changed. An event makes the next turn look
again; so that a storm of strangers' events does not eat the processor, the next look waits for twenty times what the
last one cost (5 % of one core at most), `PAUSE_MAX_S` at the utmost.

Invariants: routes are read before links (see `RouteWriter.look_again`), so each route seen has its link seen.

Called by `felix.agent`, from the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from felix.calc.views import MTU_DEFAULT, pod_interfaces, pod_mtu
from felix.kernel.protocols import IPAddress, Link, LinkKernel, NextHop, RouteKernel

Ways = tuple[NextHop, ...]

LOOPBACK = "lo"
PAUSE_MAX_S = 2.0
COST_SHARE = 20.0


class AgentKernel(LinkKernel, RouteKernel, Protocol):
    """What the agent needs of a kernel."""


class KernelView:
    """Links, addresses, next hops."""

    def __init__(self, kernel: AgentKernel) -> None:
        self._kernel = kernel
        self._hops: dict[IPAddress, tuple[NextHop, ...]] = {}
        self.links: tuple[Link, ...] = ()
        self.pods: Mapping[IPAddress, str] = {}
        """Addresses of local pods and the interface behind which each lives."""
        self.addresses: frozenset[IPAddress] = frozenset()
        """This host's own."""
        self.pod_mtu = MTU_DEFAULT
        """What pods may send at once, in bytes."""
        self.on_loopback: frozenset[IPAddress] = frozenset()
        """Those that sit on the loopback interface: no router knows them by itself."""

    def look(self) -> None:
        """Read links and addresses, forget next hops. Raises OSError."""
        self.look_at_links()
        entries = self._kernel.list_addresses()
        self.pod_mtu = pod_mtu(self.links, entries)
        self.addresses = frozenset(entry.address for entry in entries)
        self.on_loopback = frozenset(entry.address for entry in entries if entry.device == LOOPBACK)
        self._hops = {}

    def look_at_links(self) -> None:
        """Read the links alone: pods came or went."""
        self.links = self._kernel.list_links()
        pods = pod_interfaces(self.links)
        if pods != self.pods:
            self.pods = pods

    def hops(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, tuple[NextHop, ...]]:
        """How each is reached, asked of the kernel once after each look."""
        known = self._hops
        self._hops = {
            address: known[address] if address in known else self._kernel.resolve(address) for address in addresses
        }
        return living(self._hops, silent=frozenset(link.name for link in self.links if not link.carrier))


def living(hops: Mapping[IPAddress, tuple[NextHop, ...]], *, silent: frozenset[str]) -> Mapping[IPAddress, Ways]:
    """Without the ways over links that have no carrier, while any other way is left: the kernel goes on using such a
    link of a multipath route (unless `ignore_routes_with_linkdown` is set), long before BGP's hold timer says so.
    Where every way is silent all stay, for a flap of the only link is not worth writing the whole table twice."""
    devices = {hop.device for ways in hops.values() for hop in ways}
    if devices.isdisjoint(silent) or devices <= silent:
        return hops
    return {address: tuple(hop for hop in ways if hop.device not in silent) for address, ways in hops.items()}


def pause_after_look_s(cost_s: float) -> float:
    """How long the next look should wait."""
    return min(PAUSE_MAX_S, cost_s * COST_SHARE)
