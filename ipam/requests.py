"""What is asked of a node's IPAM and what it answers: plain values, no behaviour.

The three answers are ordinary outcomes, so they are values to match on, not exceptions:

    match await node_ipam.assign(request):
        case Assigned(addresses=addresses): ...
        case Exhausted(why=why): ...      # asking again at once will not help: tell the user
        case TryLater(why=why): ...       # CNI code 11: the runtime asks again

Called by the CNI server (felix.cni_server); made by nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from crds.values import HandleID

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignRequest:
    """One pod's wish for addresses, one for each family in `families`.

    `pools_v4`, `pools_v6`: names or CIDRs of pools (Calico annotations ipv4pools, ipv6pools); when given, selectors and
    assignmentMode of the pools are ignored, as Calico does. `addresses`: fixed ones (Calico annotation ipAddrs), at
    most one a family; a family with a fixed address takes no other.
    """

    handle: HandleID
    namespace: str
    pod: str
    families: tuple[int, ...] = (4,)
    pools_v4: tuple[str, ...] = ()
    pools_v6: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def pools(self, family: int) -> tuple[str, ...]:
        """The pools asked for in this family; () = any that selects this node and namespace."""
        return self.pools_v4 if family == 4 else self.pools_v6


@dataclass(frozen=True, slots=True)
class Assigned:
    """The addresses are this handle's, durably: IPv4 before IPv6."""

    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No address can be had from these pools; `why` is one clear sentence for the user."""

    pools: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class TryLater:
    """Nothing is wrong with the request, but it cannot be answered safely now; `why` is one clear sentence."""

    why: str


AssignAnswer = Assigned | Exhausted | TryLater
