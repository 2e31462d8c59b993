"""From a topology to the list of kernel objects: a pure plan, printed, tested, and applied by `builder`.

What for: where interface names, addresses and routes of the fabric are decided, once, without touching the kernel.

Theory: each machine is one network namespace. Each cable is a veth pair with one end in each. A segment is a bridge
in its router; the cables of its members end in that bridge. Names tell what one sees: in `n1`, `eth0` is the
cable to the rack; in `tor1`, `to-n1` is the cable to n1 and `br-rack1` the rack's bridge.

Invariants: no interface name over 15 characters (names in a topology have at most 12); the plan depends on nothing
but the topology.

Called by: builder (apply), fabric (cut, heal), tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lab.topology import Host, Node, Router, Topology


@dataclass(frozen=True, slots=True)
class End:
    """One end of a cable: a machine and the name of its interface."""

    machine: str
    interface: str


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair. A cut is made at `a`, which is a router: there the kernel's reaction is of no interest to us."""

    a: End
    b: End


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything `builder` makes: namespaces, cables, and per namespace sysctls and `ip -batch` lines in order."""

    machines: tuple[str, ...]
    cables: tuple[Cable, ...]
    sysctls: dict[str, dict[str, str]]
    lines: dict[str, tuple[str, ...]]

    def cable(self, one: str, other: str) -> Cable:
        """The cable between two machines, in either order; KeyError when there is none."""
        for cable in self.cables:
            if {cable.a.machine, cable.b.machine} == {one, other}:
                return cable
        pairs = ", ".join(sorted(f"{c.a.machine} {c.b.machine}" for c in self.cables))
        raise KeyError(f"no cable between {one} and {other}; there are: {pairs}")


def port(peer: str) -> str:
    """The interface that leads to `peer`."""
    return f"to-{peer}"


def bridge(segment: str) -> str:
    """The bridge of a segment, in its router."""
    return f"br-{segment}"


def bridge_mac(segment: str) -> str:
    """The address of a segment's bridge. A bridge that is given none takes the lowest of its ports', so a cable that
    joins changes the gateway's address, and everybody who knew the old one is cut off until it has asked again."""
    return "02:" + ":".join(f"{byte:02x}" for byte in blake2b(segment.encode(), digest_size=5).digest())


ONLY_CABLE = "eth0"
"""The interface of a machine that has but one."""


def plan(topology: Topology) -> Plan:
    """All kernel objects of a fabric."""
    return Plan(
        machines=topology.names,
        cables=tuple(_cables(topology)),
        sysctls={name: _sysctls(topology, name) for name in topology.names},
        lines={
            **{r.name: tuple(_router_lines(topology, r)) for r in topology.routers},
            **{h.name: tuple(_leaf_lines(topology, h)) for h in topology.hosts},
            **{n.name: tuple(_node_lines(topology, n)) for n in topology.nodes},
        },
    )


def _cables(topology: Topology) -> list[Cable]:
    cables = [Cable(End(a, port(b)), End(b, port(a))) for a, b in (link.ends for link in topology.links)]
    for leaf in topology.leaves:
        if leaf.segment:
            router = topology.segment(leaf.segment).router
            cables.append(Cable(End(router, port(leaf.name)), End(leaf.name, ONLY_CABLE)))
    for node in topology.nodes:
        for uplink in node.uplinks:
            cables.append(Cable(End(uplink.router, port(node.name)), End(node.name, port(uplink.router))))
    return cables


def _sysctls(topology: Topology, machine: str) -> dict[str, str]:
    """Settings made before any interface exists, so that new interfaces take `default` on."""
    values = {
        "ipv6/conf/default/accept_dad": "0",  # else each address is unusable for a second
        "ipv6/conf/default/accept_ra": "0",
        "ipv4/conf/all/rp_filter": "0",  # ECMP makes asymmetric paths normal
        "ipv4/conf/default/rp_filter": "0",
    }
    if machine not in {h.name for h in topology.hosts}:
        values |= {
            "ipv4/ip_forward": "1",
            "ipv6/conf/all/forwarding": "1",
            "ipv4/fib_multipath_hash_policy": "1",
            "ipv6/fib_multipath_hash_policy": "1",
            # A cut must not cost an interface its IPv6 addresses, or `heal` would not heal.
            "ipv6/conf/all/keep_addr_on_down": "1",
            "ipv6/conf/default/keep_addr_on_down": "1",
            # A next hop without carrier is no next hop: what makes a static default over two links outlive one.
            "ipv4/conf/all/ignore_routes_with_linkdown": "1",
            "ipv4/conf/default/ignore_routes_with_linkdown": "1",
            "ipv6/conf/all/ignore_routes_with_linkdown": "1",
            "ipv6/conf/default/ignore_routes_with_linkdown": "1",
        }
    return values


def pair(network: IPv4Network | IPv6Network) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """The two addresses of a point-to-point prefix (/31, /127; of a wider one the first two usable)."""
    first = network[0] if network.num_addresses == 2 else network[1]
    return first, first + 1


def _up(interface: str, mtu: int) -> str:
    return f"link set {interface} mtu {mtu} up"


def _router_lines(topology: Topology, router: Router) -> list[str]:
    lines = ["link set lo up", f"address add {router.id}/32 dev lo"]
    for segment in topology.segments:
        if segment.router == router.name:
            name = bridge(segment.name)
            members = [leaf.name for leaf in topology.leaves if leaf.segment == segment.name]
            lines.append(f"link add {name} address {bridge_mac(segment.name)} type bridge stp_state 0 mcast_snooping 0")
            lines += [f"link set {port(m)} master {name}" for m in members]
            lines += [_up(port(m), topology.mtu) for m in members]
            lines += [f"address add {segment.v4} dev {name}", f"address add {segment.v6} dev {name} nodad"]
            lines.append(_up(name, topology.mtu))
    for link in topology.links:
        if router.name in link.ends:
            mine = link.ends.index(router.name)
            peer = port(link.ends[1 - mine])
            lines += [*_addresses(peer, link.v4, link.v6, mine), _up(peer, topology.mtu)]
    for node in topology.nodes:
        for uplink in node.uplinks:
            if uplink.router == router.name:
                lines += [*_addresses(port(node.name), uplink.v4, uplink.v6, 0), _up(port(node.name), topology.mtu)]
    return lines


def _addresses(interface: str, v4: IPv4Network, v6: IPv6Network, end: int) -> list[str]:
    return [
        f"address add {pair(v4)[end]}/{v4.prefixlen} dev {interface}",
        f"address add {pair(v6)[end]}/{v6.prefixlen} dev {interface} nodad",
    ]


def _leaf_lines(topology: Topology, leaf: Host | Node) -> list[str]:
    segment = topology.segment(leaf.segment)
    return [
        "link set lo up",
        f"address add {leaf.v4}/{segment.v4.network.prefixlen} dev {ONLY_CABLE}",
        f"address add {leaf.v6}/{segment.v6.network.prefixlen} dev {ONLY_CABLE} nodad",
        _up(ONLY_CABLE, topology.mtu),
        f"route add default via {segment.v4.ip}",
        f"route add default via {segment.v6.ip}",
    ]


def _node_lines(topology: Topology, node: Node) -> list[str]:
    if node.segment:
        return _leaf_lines(topology, node)
    lines = ["link set lo up", f"address add {node.v4}/32 dev lo", f"address add {node.v6}/128 dev lo nodad"]
    for uplink in node.uplinks:
        lines += [*_addresses(port(uplink.router), uplink.v4, uplink.v6, 1), _up(port(uplink.router), topology.mtu)]
    hops = [(port(u.router), pair(u.v4)[0], pair(u.v6)[0]) for u in node.uplinks]
    lines.append("route add default " + " ".join(f"nexthop via {v4} dev {name}" for name, v4, _ in hops))
    lines.append("route add ::/0 " + " ".join(f"nexthop via {v6} dev {name}" for name, _, v6 in hops))
    return lines
