"""The configuration texts of the fabric's routers: BIRD 2 and FRR, from one topology.

What for: a ToR as a network team would set it up for routed pods, in the two dialects that a reader is likely to meet.

Theory: every link carries one IPv4 and one IPv6 session, eBGP each, with the addresses of that link. Routers exchange
all they know; of a node a router accepts nothing but what lies inside the pod pools and, where the node's own
address sits on its loopback, that host route. The router keeps a node's routes through a restart of its speaker
(graceful restart), spreads traffic over equal paths, and announces what is connected, so that control plane,
client and nodes find each other. There is no BFD.

Invariants: pure; same topology, same bytes (there are goldens). A router never imports a node's address of another
node, so a node cannot divert its neighbours' or the API server's traffic.

Called by: router_processes, tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lab.cabling import bridge, pair, port
from lab.topology import Node, Router, Topology

PREFIX_LIMIT = 1000
"""Prefixes that a router takes from one node on one session: a node owns blocks, not the routing table."""


@dataclass(frozen=True, slots=True)
class Session:
    """One BGP session of a router. `accepted` is what it may import; None means all (a fellow router)."""

    peer: str
    local: IPv4Address | IPv6Address
    remote: IPv4Address | IPv6Address
    remote_asn: int
    accepted: tuple[IPv4Network | IPv6Network, ...] | None

    @property
    def version(self) -> int:
        """4 or 6: the family of the addresses, and the only family of routes it carries."""
        return self.remote.version

    @property
    def symbol(self) -> str:
        """A name that both dialects accept: `n1_v4`."""
        return f"{self.peer.replace('-', '_')}_v{self.version}"


def sessions(topology: Topology, router: Router) -> tuple[Session, ...]:
    """All sessions of a router, fellow routers first."""
    found: list[Session] = []
    for link in topology.links:
        if router.name in link.ends:
            mine = link.ends.index(router.name)
            peer = topology.router(link.ends[1 - mine])
            for network in (link.v4, link.v6):
                ends = pair(network)
                found.append(Session(peer.name, ends[mine], ends[1 - mine], peer.asn, None))
    for node in topology.nodes:
        found += _node_sessions(topology, router, node)
    return tuple(found)


def _node_sessions(topology: Topology, router: Router, node: Node) -> list[Session]:
    accepted = {version: _pools(topology, version) for version in (4, 6)}
    if node.segment:
        segment = topology.segment(node.segment)
        if segment.router != router.name:
            return []
        return [
            Session(node.name, segment.v4.ip, node.v4, node.asn, accepted[4]),
            Session(node.name, segment.v6.ip, node.v6, node.asn, accepted[6]),
        ]
    found = []
    own: dict[int, IPv4Network | IPv6Network] = {4: IPv4Network(node.v4), 6: IPv6Network(node.v6)}
    for uplink in node.uplinks:
        if uplink.router == router.name:
            for network in (uplink.v4, uplink.v6):
                ours, theirs = pair(network)
                allowed = (*accepted[network.version], own[network.version])
                found.append(Session(node.name, ours, theirs, node.asn, allowed))
    return found


def _pools(topology: Topology, version: int) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(pool.network for pool in topology.pools if pool.network.version == version)


def interfaces(topology: Topology, router: Router) -> tuple[str, ...]:
    """The interfaces whose prefixes a router announces."""
    bridges = [bridge(s.name) for s in topology.segments if s.router == router.name]
    cables = [port(b if a == router.name else a) for a, b in (k.ends for k in topology.links) if router.name in (a, b)]
    uplinks = [port(n.name) for n in topology.nodes for u in n.uplinks if u.router == router.name]
    return ("lo", *bridges, *cables, *uplinks)


def bird(topology: Topology, router: Router) -> str:
    """`bird.conf` of a router."""
    bgp = topology.bgp
    restart = f"graceful restart on;\n  graceful restart time {bgp.restart_s};" if bgp.graceful_restart else ""
    names = ", ".join(f'"{name}"' for name in interfaces(topology, router))
    parts = [
        f"# {router.name}: written by tortie-lab from the topology.",
        f"log stderr all;\nrouter id {router.id};\ngraceful restart wait 60;",
        "protocol device { scan time 2; }",
        f"protocol direct connected {{ ipv4; ipv6; interface {names}; }}",
        *(_bird_kernel(version) for version in (4, 6)),
        f"template bgp fabric {{\n  local as {router.asn};\n  hold time {bgp.hold_s};\n  connect delay time 1;\n"
        f"  connect retry time 2;\n  error wait time 1, 5;\n  {restart or 'graceful restart off;'}\n}}",
        *(_bird_session(session) for session in sessions(topology, router)),
    ]
    return "\n\n".join(parts) + "\n"


def _bird_kernel(version: int) -> str:
    return (
        f"protocol kernel kernel{version} {{\n  merge paths on;\n  graceful restart on;\n"
        f"  ipv{version} {{ import none; export where source = RTS_BGP; }};\n}}"
    )


def _bird_session(session: Session) -> str:
    channel = f"ipv{session.version}"
    if session.accepted is None:
        imports = "import all;"
    else:
        wanted = ", ".join(f"{net}{'+' if net.prefixlen < net.max_prefixlen else ''}" for net in session.accepted)
        rule = f"if net ~ [ {wanted} ] then accept; reject;" if wanted else "reject;"
        imports = f"import filter {{ {rule} }};\n    import limit {PREFIX_LIMIT} action block;"
    return (
        f'protocol bgp {session.symbol} from fabric {{\n  description "{session.peer}";\n'
        f"  local {session.local};\n  neighbor {session.remote} as {session.remote_asn};\n"
        f"  {channel} {{\n    {imports}\n    export all;\n  }};\n}}"
    )


def frr(topology: Topology, router: Router) -> str:
    """`frr.conf` of a router, for zebra and bgpd together."""
    bgp = topology.bgp
    all_sessions = sessions(topology, router)
    lines = [
        f"! {router.name}: written by tortie-lab from the topology.",
        "frr defaults datacenter",
        f"hostname {router.name}",
        "log stdout informational",
        *(line for session in all_sessions for line in _frr_prefix_list(session)),
        f"router bgp {router.asn}",
        f" bgp router-id {router.id}",
        " no bgp ebgp-requires-policy",
        " no bgp default ipv4-unicast",
        " bgp bestpath as-path multipath-relax",
        *_frr_restart(topology),
        *(line for session in all_sessions for line in _frr_neighbor(session, bgp.hold_s)),
        *(line for version in (4, 6) for line in _frr_family(version, all_sessions)),
        "line vty",
    ]
    return "\n".join(lines) + "\n"


def _frr_restart(topology: Topology) -> list[str]:
    if not topology.bgp.graceful_restart:
        return [" bgp graceful-restart-disable"]
    time = topology.bgp.restart_s
    return [
        " bgp graceful-restart",
        f" bgp graceful-restart restart-time {time}",
        f" bgp graceful-restart stalepath-time {time}",
        " bgp graceful-restart preserve-fw-state",
    ]


def _frr_prefix_list(session: Session) -> list[str]:
    if session.accepted is None:
        return []
    family = "ip" if session.version == 4 else "ipv6"
    lines = []
    for net in session.accepted:
        longer = f" le {net.max_prefixlen}" if net.prefixlen < net.max_prefixlen else ""
        lines.append(f"{family} prefix-list {session.symbol} permit {net}{longer}")
    return lines or [f"{family} prefix-list {session.symbol} deny any"]


def _frr_neighbor(session: Session, hold_s: int) -> list[str]:
    neighbor = f" neighbor {session.remote}"
    return [
        f"{neighbor} remote-as {session.remote_asn}",
        f"{neighbor} description {session.peer}",
        f"{neighbor} update-source {session.local}",
        f"{neighbor} timers {hold_s // 3} {hold_s}",
        f"{neighbor} timers connect 2",
    ]


def _frr_family(version: int, all_sessions: tuple[Session, ...]) -> list[str]:
    lines = [f" address-family ipv{version} unicast", "  redistribute connected", "  maximum-paths 8"]
    for session in all_sessions:
        if session.version == version:
            lines.append(f"  neighbor {session.remote} activate")
            if session.accepted is not None:
                lines.append(f"  neighbor {session.remote} prefix-list {session.symbol} in")
                lines.append(f"  neighbor {session.remote} maximum-prefix {PREFIX_LIMIT}")
    return [*lines, " exit-address-family"]
