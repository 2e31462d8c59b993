"""A fabric as data: what stands where, and which address belongs to whom.

What for: everything else in the lab (kernel objects, router texts, Kubernetes objects, tests) is a function of one
frozen `Topology` value. A new fabric is a new YAML file, not new code.

Theory: an address is written once, on its owner. A *segment* is a bridge inside a router; nodes and hosts hang on it
and the router's address there is their gateway. A node with *uplinks* instead has one point-to-point link to each
router, and its own address on the loopback. IPv4 and IPv6 are everywhere.

Invariants: `load` returns a value that is whole (every name that is used exists, no name or address twice, every
address inside its segment) or raises `BadTopology`, which names the field, the value and what was allowed.

Called by: builder, routers, objects, fabric, main, and the tests.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

DIRECTORY = Path(__file__).parent / "topologies"
"""Topologies that ship with the lab; `--topology dual-tor` looks here."""

NAME = re.compile(r"[a-z][a-z0-9-]{0,10}[a-z0-9]|[a-z]")
"""Names become interface names (`to-NAME`, `br-NAME`; the kernel allows 15 characters) and router symbols."""

_PARSERS: dict[type, Any] = {
    IPv4Address: ip_address,
    IPv6Address: ip_address,
    IPv4Interface: ip_interface,
    IPv6Interface: ip_interface,
    IPv4Network: ip_network,
    IPv6Network: ip_network,
}


class BadTopology(ValueError):
    """A topology that cannot be built. `str()` is one sentence with the field first."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all topology values: frozen, and a misspelt key is an error."""


class Router(_Value, frozen=True):
    """A router of the data centre. `id` is its BGP identifier and its loopback address."""

    name: str
    kind: Literal["bird", "frr"]
    asn: int
    id: IPv4Address


class Link(_Value, frozen=True):
    """A cable between two routers; the first end has the first address of each prefix."""

    ends: tuple[str, str]
    v4: IPv4Network
    v6: IPv6Network


class Segment(_Value, frozen=True):
    """A bridge inside `router`, whose addresses there (`v4`, `v6`) are the segment's gateway."""

    name: str
    router: str
    v4: IPv4Interface
    v6: IPv6Interface


class Host(_Value, frozen=True):
    """A machine that is not a node: the outside client, the control plane."""

    name: str
    segment: str
    v4: IPv4Address
    v6: IPv6Address


class Uplink(_Value, frozen=True):
    """One of a node's point-to-point links; the router has the first address, the node the second."""

    router: str
    v4: IPv4Network
    v6: IPv6Network


class Node(_Value, frozen=True):
    """A Kubernetes node, either on a `segment` or with `uplinks` and its address on the loopback."""

    name: str
    rack: str
    asn: int
    v4: IPv4Address
    v6: IPv6Address
    segment: str = ""
    uplinks: tuple[Uplink, ...] = ()


class PoolSpec(_Value, frozen=True):
    """An IPPool that the lab applies as a user would."""

    name: str
    cidr: str
    block_size: int

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The prefix as a value; `check` has seen to it that there is one."""
        return ip_network(self.cidr)


class Bgp(_Value, frozen=True):
    """Settings of the router side of every session, and of the BGPConfiguration."""

    hold_s: int = 90
    restart_s: int = 120
    """Graceful restart time that the routers offer and keep."""
    graceful_restart: bool = True
    """False is the positive control of the restart tests: then a speaker's death must show as loss."""
    mesh: bool = False
    """Node-to-node mesh. Off, because nodes that peer with their ToR need none."""


class Topology(_Value, frozen=True):
    """A whole fabric. See the module docstring for what is guaranteed after `load`."""

    description: str
    routers: tuple[Router, ...]
    links: tuple[Link, ...]
    segments: tuple[Segment, ...]
    hosts: tuple[Host, ...]
    control_plane: str
    nodes: tuple[Node, ...]
    pools: tuple[PoolSpec, ...]
    bgp: Bgp = Bgp()
    mtu: int = 1500

    def router(self, name: str) -> Router:
        """The router called `name`; KeyError when there is none."""
        return {r.name: r for r in self.routers}[name]

    def segment(self, name: str) -> Segment:
        """The segment called `name`; KeyError when there is none."""
        return {s.name: s for s in self.segments}[name]

    def node(self, name: str) -> Node:
        """The node called `name`; KeyError when there is none."""
        return {n.name: n for n in self.nodes}[name]

    def host(self, name: str) -> Host:
        """The host called `name`; KeyError when there is none."""
        return {h.name: h for h in self.hosts}[name]

    @property
    def leaves(self) -> tuple[Host | Node, ...]:
        """All machines that are not routers."""
        return (*self.hosts, *self.nodes)

    @property
    def names(self) -> tuple[str, ...]:
        """All machines: routers, hosts, nodes. Each has one network namespace."""
        return (*(r.name for r in self.routers), *(h.name for h in self.hosts), *(n.name for n in self.nodes))


def find(name: str) -> Path:
    """The file of a topology given by path or by the name of a shipped one."""
    shipped = DIRECTORY / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        allowed = ", ".join(sorted(p.stem for p in DIRECTORY.glob("*.yaml")))
        raise BadTopology("topology", f"{name!r} is neither a file nor one of {allowed}")
    return path


def load(path: Path) -> Topology:
    """Read and check a topology file."""
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise BadTopology("file", f"{path} is not text: {error}") from error
    return parse(text)


def parse(text: str) -> Topology:
    """Turn YAML into a checked `Topology`, or raise `BadTopology`."""
    try:
        topology = msgspec.convert(yaml.safe_load(text), Topology, dec_hook=_parse_address)
    except yaml.YAMLError as error:
        raise BadTopology("file", f"is not YAML: {error}") from error
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `")
        problem += "; allowed: bird, frr" if "enum" in problem else ""
        raise BadTopology(where.rstrip("`").removeprefix("$.") or "file", problem) from error
    check(topology)
    return topology


def _parse_address(kind: type, value: object) -> object:
    """msgspec's door for types it does not know; its ValueError text ends up in `BadTopology`."""
    parsed = _PARSERS[kind](str(value))
    if type(parsed) is not kind:
        raise ValueError(f"{value!r} is not an {kind.__name__}")
    return parsed


def check(topology: Topology) -> None:
    """Raise `BadTopology` unless every reference resolves and nothing is owned twice."""
    _check_names(topology)
    _check_references(topology)
    _check_addresses(topology)
    asns = [(f"{r.name}.asn", r.asn) for r in topology.routers] + [(f"{n.name}.asn", n.asn) for n in topology.nodes]
    for field, asn in asns:
        _require(0 < asn < 2**32, field, asn, f"1..{2**32 - 1}")
    for pool in topology.pools:
        try:
            cidr = pool.network
        except ValueError as error:
            raise BadTopology(f"pools.{pool.name}.cidr", str(error)) from error
        low, high = (20, 32) if cidr.version == 4 else (116, 128)
        low = max(low, cidr.prefixlen)
        _require(low <= pool.block_size <= high, f"pools.{pool.name}.block_size", pool.block_size, f"{low}..{high}")
    _require(topology.bgp.hold_s == 0 or topology.bgp.hold_s >= 3, "bgp.hold_s", topology.bgp.hold_s, "0 or 3 and more")
    _require(1 <= topology.bgp.restart_s <= 4095, "bgp.restart_s", topology.bgp.restart_s, "1..4095")


def _check_names(topology: Topology) -> None:
    seen: set[str] = set()
    for name in (*topology.names, *(s.name for s in topology.segments)):
        _require(NAME.fullmatch(name) is not None, "name", name, "at most 12 of a-z, 0-9, '-', a letter first")
    for name in topology.names:
        _require(name not in seen, "name", name, "a name that nothing else has")
        seen.add(name)


def _check_references(topology: Topology) -> None:
    routers = [r.name for r in topology.routers]
    segments = [s.name for s in topology.segments]
    for link in topology.links:
        for end in link.ends:
            _require_in(end, routers, f"links.{'-'.join(link.ends)}.ends")
    for segment in topology.segments:
        _require_in(segment.router, routers, f"segments.{segment.name}.router")
    for host in topology.hosts:
        _require_in(host.segment, segments, f"hosts.{host.name}.segment")
    for node in topology.nodes:
        one = bool(node.segment) != bool(node.uplinks)
        _require(one, f"nodes.{node.name}", node.segment or "nothing", "either a segment or uplinks")
        if node.segment:
            _require_in(node.segment, segments, f"nodes.{node.name}.segment")
        for uplink in node.uplinks:
            _require_in(uplink.router, routers, f"nodes.{node.name}.uplinks.router")
    _require_in(topology.control_plane, [h.name for h in topology.hosts], "control_plane")


def _check_addresses(topology: Topology) -> None:
    owners: dict[object, str] = {}
    for segment in topology.segments:
        owners |= {segment.v4.ip: segment.router, segment.v6.ip: segment.router}
    for machine in topology.leaves:
        for address in (machine.v4, machine.v6):
            field = f"{machine.name}.v{address.version}"
            _require(address not in owners, field, address, f"an address that {owners.get(address)} has not")
            owners[address] = machine.name
        if machine.segment:
            segment = topology.segment(machine.segment)
            _require(machine.v4 in segment.v4.network, f"{machine.name}.v4", machine.v4, f"within {segment.v4.network}")
            _require(machine.v6 in segment.v6.network, f"{machine.name}.v6", machine.v6, f"within {segment.v6.network}")


def _require_in(value: str, allowed: list[str], field: str) -> None:
    _require(value in allowed, field, value, "one of " + ", ".join(allowed))


def _require(holds: bool, field: str, value: object, allowed: str) -> None:  # noqa: FBT001 an assertion's condition
    if not holds:
        raise BadTopology(field, f"is {value}; allowed: {allowed}")


def encode(topology: Topology) -> bytes:
    """As JSON, for the run directory."""
    return msgspec.json.encode(topology, enc_hook=str)


def decode(data: bytes) -> Topology:
    """What `encode` wrote."""
    return msgspec.json.decode(data, type=Topology, dec_hook=_parse_address)
