"""Which path is best (RFC 4271 section 9.1), and which are as good (ECMP).

Theory: pure, and independent of the order in which paths came. MED is compared only among paths of the same
neighbouring AS, so it is settled within each such group first. Paths that are equal up to "eBGP over iBGP" are all
used; of them the one with the lowest router id, then peer address, lends its attributes to what is shown.

Called by `bgp.rib`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from bgp import wire

IPAddress = IPv4Address | IPv6Address
LOCAL_PREFERENCE: Final = 100
PATHS_MAX: Final = 16
_ORIGINS: Final = {"igp": 0, "egp": 1, "incomplete": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One usable path of one neighbour; shared by all prefixes that came with it."""

    neighbor: wire.NeighborId
    next_hop: IPAddress
    attributes: wire.Attributes
    internal: bool
    router_id: str

    def rank(self) -> tuple[int, int, int]:
        """Local preference (meaningful inside an AS alone), path length, origin: lower is better."""
        preference = self.attributes.local_preference if self.internal else None
        return (
            -(LOCAL_PREFERENCE if preference is None else preference),
            self.attributes.as_path_length,
            _ORIGINS[self.attributes.origin],
        )

    @property
    def neighbor_as(self) -> int:
        return self.attributes.as_path[0] if self.attributes.as_path else 0

    def last_resort(self) -> tuple[int, str, str]:
        """Decides between equals, for show only."""
        try:
            number = int(IPv4Address(self.attributes.originator_id or self.router_id))
        except ValueError:
            number = 1 << 32
        return (number, self.neighbor.peer, self.neighbor.local)


def best(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The equal best, first the one that is shown; `paths` must not be empty."""
    if len(paths) == 1:
        return (paths[0],)
    top = min(path.rank() for path in paths)
    left = [path for path in paths if path.rank() == top]
    lowest: dict[int, int] = {}
    for path in left:
        med = path.attributes.med or 0
        lowest[path.neighbor_as] = min(med, lowest.get(path.neighbor_as, med))
    left = [path for path in left if (path.attributes.med or 0) == lowest[path.neighbor_as]]
    if not all(path.internal for path in left):
        left = [path for path in left if not path.internal]
    return tuple(sorted(left, key=Path.last_resort)[:PATHS_MAX])
