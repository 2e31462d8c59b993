"""Sets of addresses as sorted intervals of numbers, so that a question costs a binary search and not a scan.

Called by `bgp.import_policy`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Ranges:
    """Networks and addresses of both families; overlapping and adjacent ones melt together."""

    def __init__(self, members: Iterable[IPNetwork | IPAddress]) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._ends: dict[int, list[int]] = {4: [], 6: []}
        for version, first, last in sorted(map(_interval, members)):
            starts, ends = self._starts[version], self._ends[version]
            if ends and first <= ends[-1] + 1:
                ends[-1] = max(ends[-1], last)
            else:
                starts.append(first)
                ends.append(last)

    def cover(self, network: IPNetwork) -> bool:
        """Whether every address of `network` is a member."""
        version, first, last = _interval(network)
        at = bisect_right(self._starts[version], first) - 1
        return at >= 0 and last <= self._ends[version][at]

    def meet(self, network: IPNetwork) -> bool:
        """Whether any address of `network` is a member."""
        version, first, last = _interval(network)
        at = bisect_right(self._starts[version], last) - 1
        return at >= 0 and first <= self._ends[version][at]


def _interval(member: IPNetwork | IPAddress) -> tuple[int, int, int]:
    if isinstance(member, IPv4Address | IPv6Address):
        return member.version, int(member), int(member)
    return member.version, int(member.network_address), int(member.broadcast_address)
