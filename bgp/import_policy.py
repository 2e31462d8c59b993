"""Which of the routes heard may be used here: deny by default.

Theory: a router that is wrong or hostile must not be able to divert this node's own blocks, the nodes' and services'
addresses or the API server's. So a prefix is used only where it lies inside an address pool, or where a BGPFilter's
import rule accepts it. Pure: the policy is a value made from what was seen, and says why it refuses.

Invariants: an own block is never diverted, whatever a filter says, but for a single address in it that the IPAMBlock
attributes to another node. A less specific route that covers an own block is harmless: the block's blackhole is longer.

Called by `bgp.rib`; made by `felix.agent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from bgp import wire
from bgp.filters import Action, Filter
from bgp.plan import Neighbor
from bgp.ranges import Ranges

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPolicy:
    """What may be imported."""

    pools: frozenset[IPNetwork] = frozenset()
    own_blocks: frozenset[IPNetwork] = frozenset()
    foreign_in_own: frozenset[IPAddress] = frozenset()
    """Addresses in own blocks that the IPAMBlock attributes to another node: their /32 or /128 is accepted."""
    own_addresses: frozenset[IPAddress] = frozenset()
    """This node's own; and single addresses of local pods outside own blocks. Never diverted."""
    node_addresses: frozenset[IPAddress] = frozenset()
    """Of all nodes and of the API server: a pool that contains them gives no leave to announce them, a filter does."""
    services: frozenset[IPNetwork] = frozenset()
    """As `node_addresses`."""
    filters: Mapping[str, Filter] = field(default_factory=dict)
    """BGPFilters by name; which apply to a neighbour, the neighbour says. One that is missing rejects everything."""


class Judge:
    """A policy made quick to ask."""

    def __init__(self, policy: ImportPolicy) -> None:
        self._policy = policy
        self._pools = Ranges(policy.pools)
        self._own_blocks = Ranges(policy.own_blocks)
        self._own_addresses = Ranges(policy.own_addresses)
        self._reserved = Ranges([*policy.node_addresses, *policy.services])

    def refuses(self, prefix: IPNetwork, attributes: wire.Attributes, neighbor: Neighbor) -> str:
        """The reason, "" where the prefix may be used."""
        diverts = self._diverts(prefix)
        if diverts:
            return diverts
        for name in neighbor.filters:
            chosen = self._policy.filters.get(name)
            if chosen is None:
                return f"BGPFilter {name} does not exist"
            action = chosen.decide(prefix, attributes, peer_type="iBGP" if neighbor.internal else "eBGP")
            if action is not None:
                return "" if action is Action.ACCEPT else f"BGPFilter {name} rejects it"
        return self._outside(prefix)

    def _diverts(self, prefix: IPNetwork) -> str:
        """What no filter can allow."""
        single = prefix.prefixlen == prefix.max_prefixlen
        if self._own_blocks.cover(prefix) and not (single and prefix.network_address in self._policy.foreign_in_own):
            return "inside a block of this node"
        return "an address of this node" if single and self._own_addresses.meet(prefix) else ""

    def _outside(self, prefix: IPNetwork) -> str:
        """What only a filter can allow."""
        if not self._pools.cover(prefix):
            return "in no address pool, and no BGPFilter accepts it"
        return "an address of a node, a service or the API server" if self._reserved.meet(prefix) else ""
