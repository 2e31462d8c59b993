"""Parsed, frozen values made from wire objects. Inside Tortie only these travel; strings stay at the border.

Invariant: a value that exists is right. Every `parse_*` raises BadObject that names the field in the API's own
spelling, the value found and what is allowed, in one sentence that can stand as a condition's message. The API server
checks most of it before (`crds.schema_*`); an object stored by an older schema, or read from a file, is checked here.

Callers: ipam (pools), ipam.handlers (conditions), bgp, felix, ctl.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NewType

from crds.errors import BadObject
from crds.pools import ALLOCATABLE, IPPool, IPReservation
from crds.selector import Selector, parse_selector

NodeName = NewType("NodeName", str)
PoolName = NewType("PoolName", str)
HandleID = NewType("HandleID", str)

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

USES = frozenset({"Workload", "Tunnel", "LoadBalancer"})
DEFAULT_USES = frozenset({"Workload", "Tunnel"})
BLOCK_LEN_DEFAULT = {4: 26, 6: 122}
BLOCK_LEN_RANGE = {4: (20, 32), 6: (116, 128)}
LINK_LOCAL: dict[int, IPNetwork] = {4: IPv4Network("169.254.0.0/16"), 6: IPv6Network("fe80::/10")}
NO_ENCAPSULATION = "Tortie does not encapsulate: must be Never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A usable description of an IPPool: a range, cut into blocks of one size, and who may draw from it."""

    name: PoolName
    cidr: IPNetwork
    block_len: int
    """Prefix length of its blocks."""
    node_selector: Selector
    namespace_selector: Selector | None
    """None: every namespace."""
    allowed_uses: frozenset[str]
    automatic: bool
    """False: only for Pods that name this pool."""
    disabled: bool
    bgp_export: bool
    nat_outgoing: bool
    allocatable: bool
    """The operator's condition is not False."""
    deleting: bool

    @property
    def usable(self) -> bool:
        """New addresses may be given out of it."""
        return self.allocatable and not (self.disabled or self.deleting)


def parse_pool(pool: IPPool) -> Pool:
    spec = pool.spec
    cidr = parse_network(spec.cidr, field="spec.cidr")
    if cidr.overlaps(LINK_LOCAL[cidr.version]):
        raise BadObject("spec.cidr", f"must not overlap the link-local range {LINK_LOCAL[cidr.version]}, is {cidr}")
    if spec.ipip_mode not in ("", "Never"):
        raise BadObject("spec.ipipMode", f"{NO_ENCAPSULATION}, is {spec.ipip_mode!r}")
    if spec.vxlan_mode not in ("", "Never"):
        raise BadObject("spec.vxlanMode", f"{NO_ENCAPSULATION}, is {spec.vxlan_mode!r}")
    if spec.assignment_mode not in ("", "Automatic", "Manual"):
        raise BadObject("spec.assignmentMode", f"must be Automatic or Manual, is {spec.assignment_mode!r}")
    allocatable = pool.status.condition(ALLOCATABLE) if pool.status else None
    namespaces = spec.namespace_selector
    return Pool(
        name=PoolName(pool.name),
        cidr=cidr,
        block_len=_block_len(pool, cidr),
        node_selector=parse_selector(spec.node_selector, field="spec.nodeSelector"),
        namespace_selector=parse_selector(namespaces, field="spec.namespaceSelector") if namespaces else None,
        allowed_uses=_allowed_uses(pool),
        automatic=spec.assignment_mode != "Manual",
        disabled=spec.disabled,
        bgp_export=not spec.disable_bgp_export,
        nat_outgoing=spec.nat_outgoing,
        allocatable=allocatable is None or allocatable.status != "False",
        deleting=pool.deleting,
    )


def _block_len(pool: IPPool, cidr: IPNetwork) -> int:
    length = pool.spec.block_size or BLOCK_LEN_DEFAULT[cidr.version]
    low, high = BLOCK_LEN_RANGE[cidr.version]
    if not low <= length <= high:
        raise BadObject("spec.blockSize", f"must lie in {low}..{high} for IPv{cidr.version}, is {length}")
    if cidr.prefixlen > length and not pool.spec.disabled:
        raise BadObject(
            "spec.blockSize", f"must lie in {max(low, cidr.prefixlen)}..{high} so that a block fits {cidr}, is {length}"
        )
    return length


def _allowed_uses(pool: IPPool) -> frozenset[str]:
    uses = frozenset(pool.spec.allowed_uses)
    if unknown := sorted(uses - USES):
        raise BadObject("spec.allowedUses", f"must be of {', '.join(sorted(USES))}, has {', '.join(unknown)}")
    if "LoadBalancer" in uses and len(uses) > 1:
        raise BadObject("spec.allowedUses", "must hold LoadBalancer alone or not at all")
    return uses or DEFAULT_USES


def parse_reservation(reservation: IPReservation) -> tuple[IPNetwork, ...]:
    """The reserved ranges; host bits are cleared, as Calico does."""
    found = []
    for index, text in enumerate(reservation.spec.reserved_cidrs):
        field = f"spec.reservedCIDRs[{index}]"
        try:
            found.append(ip_network(_unscoped(text), strict=False))
        except ValueError:
            raise BadObject(field, f"must be an IP address or CIDR, is {text!r}") from None
    return tuple(found)


def parse_network(text: str, *, field: str) -> IPNetwork:
    """A CIDR with no host bits set."""
    try:
        loose = ip_network(_unscoped(text), strict=False)
    except ValueError:
        raise BadObject(field, f"must be a CIDR such as 10.1.0.0/16 or fd00:1::/48, is {text!r}") from None
    if "/" not in text:
        raise BadObject(field, f"must have a prefix length such as {loose}, is {text!r}")
    try:
        return ip_network(text)
    except ValueError:
        raise BadObject(field, f"must be masked: {loose} instead of {text!r}") from None


def _unscoped(text: str) -> str:
    """Python takes any text, newlines too, as the zone of an IPv6 address; an API field never has one."""
    if "%" in text:
        raise ValueError("a zone")
    return text


_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)")


def parse_duration(text: str, *, field: str) -> float:
    """Go's duration text ("120s", "1m30s") in seconds, never negative."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != position:
            break
        total += float(part[1]) * _UNIT_S[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise BadObject(field, f"must be a duration such as 120s or 1m30s, is {text!r}")
    return total
