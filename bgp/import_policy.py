"""Which of the routes heard may be used here: deny by default.

Theory: a router that is wrong or hostile must not be able to divert this node's own blocks, its nodes' and services'
addresses or the API server's. So a prefix is used only where it lies inside an address pool, or where a BGPFilter's import
rule says Accept by name of its CIDR. Pure: the policy is a value made from what was seen, and says why it refuses.

Called by `bgp.rib`; made by `felix.agent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from bgp.filters import Filter

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPolicy:
    """What may be imported."""

    pools: frozenset[IPNetwork] = frozenset()
    own_blocks: frozenset[IPNetwork] = frozenset()
    """Never diverted, but for `foreign_in_own`."""
    foreign_in_own: frozenset[IPAddress] = frozenset()
    """Addresses in own blocks that the IPAMBlock attributes to another node (borrowed): their /32 or /128 is accepted."""
    node_addresses: frozenset[IPAddress] = frozenset()
    """Of all nodes, and of the API server: never by a pool's leave; an exact /32 or /128 of them only by a BGPFilter."""
    services: frozenset[IPNetwork] = frozenset()
    filters: Mapping[str, Filter] = field(default_factory=dict)
    """BGPFilters by name; which apply to a neighbour, the neighbour says."""
