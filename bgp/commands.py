"""The lines that ExaBGP is told, from typed values.

Theory: ExaBGP finds a command by looking for words *anywhere* in the line, ends at the word `json`, and kills its
helper over one byte that is not ASCII; so every piece is parsed and written anew, never copied. Many prefixes go in
one line, for each line costs a search through all neighbours; but at most 500, so that keepalives are not starved,
and of one family, for a mixed line is answered `done` and loses both. One neighbour a line: a list of selectors
costs the square of its length.

Called by `bgp.speaker`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from bgp import wire

PREFIXES_A_LINE: Final = 500
SHOW_NEIGHBORS: Final = "show neighbor json"

_COMMUNITY = re.compile(r"\d{1,5}:\d{1,5}", re.ASCII)
_LARGE = re.compile(r"\d{1,10}:\d{1,10}:\d{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """How one prefix is announced: next hop and attributes, checked."""

    family: wire.Family
    next_hop: str = "self"
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    med: int | None = None

    def words(self) -> str:
        """The attributes as ExaBGP reads them."""
        words = [f"next-hop {self.next_hop}"]
        if self.med is not None:
            words.append(f"med {self.med}")
        if self.communities:
            words.append(f"community [ {' '.join(self.communities)} ]")
        if self.large_communities:
            words.append(f"large-community [ {' '.join(self.large_communities)} ]")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Line:
    """A command, and the prefixes it is about."""

    text: str
    prefixes: tuple[str, ...]


def offers(group: wire.RouteGroup) -> dict[str, Offer]:
    """Prefix to offer, canonical. Raises ValueError with a sentence for whatever is not what it should be."""
    offer = Offer(
        family=group.family,
        next_hop="self" if group.next_hop == "self" else str(ip_address(group.next_hop)),
        communities=tuple(sorted(_checked(_COMMUNITY, "community", 16, group.communities))),
        large_communities=tuple(sorted(_checked(_LARGE, "large community", 32, group.large_communities))),
        med=_med(group.med),
    )
    version = 4 if group.family is wire.Family.IPV4 else 6
    found = {}
    for text in group.prefixes:
        prefix = ip_network(text)
        if prefix.version != version:
            raise ValueError(f"{prefix} is not of the family {group.family.value}")
        found[str(prefix)] = offer
    return found


def announce(neighbor: wire.NeighborId, routes: Mapping[str, Offer]) -> Iterator[Line]:
    """Lines that announce, grouped by attributes."""
    groups: defaultdict[Offer, list[str]] = defaultdict(list)
    for prefix, offer in sorted(routes.items()):
        groups[offer].append(prefix)
    for offer, prefixes in groups.items():
        for some in _slices(prefixes):
            text = f"{_selector(neighbor)} announce attributes {offer.words()} nlri {' '.join(some)}"
            yield Line(text, some)


def withdraw(neighbor: wire.NeighborId, routes: Mapping[str, Offer]) -> Iterator[Line]:
    """Lines that withdraw; the attributes do not matter, the next hop must parse."""
    groups: defaultdict[tuple[wire.Family, str], list[str]] = defaultdict(list)
    for prefix, offer in sorted(routes.items()):
        groups[offer.family, offer.next_hop].append(prefix)
    for (_, next_hop), prefixes in groups.items():
        for some in _slices(prefixes):
            text = f"{_selector(neighbor)} withdraw attributes next-hop {next_hop} nlri {' '.join(some)}"
            yield Line(text, some)


def end_of_rib(neighbor: wire.NeighborId, family: wire.Family) -> str:
    """The line that says "that is all"."""
    return f"{_selector(neighbor)} announce eor {family.value}"


def _selector(neighbor: wire.NeighborId) -> str:
    local = f" local-ip {ip_address(neighbor.local)}" if neighbor.local else ""
    return f"neighbor {ip_address(neighbor.peer)}{local}"


def _slices(prefixes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(prefixes), PREFIXES_A_LINE):
        yield tuple(prefixes[start : start + PREFIXES_A_LINE])


def _checked(pattern: re.Pattern[str], what: str, bits: int, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        if not pattern.fullmatch(value) or any(int(part) >> bits for part in value.split(":")):
            raise ValueError(f"{what} {value!r} is not of the form {'aa:nn' if bits == 16 else 'aa:nn:mm'}")
        yield ":".join(str(int(part)) for part in value.split(":"))


def _med(med: int | None) -> int | None:
    if med is not None and not 0 <= med < 1 << 32:
        raise ValueError(f"MED {med} does not fit in 32 bits")
    return med
