"""What this node tells its neighbours: its own blocks, and little else.

Theory: pure. A block is announced if the allocation side says that it is confirmed and ours, and no pool forbids it;
a block whose pool is gone is still announced, for pods live in it. Addresses that no own block covers (borrowed, or
left over) are announced one by one, within a budget: they are exceptions, and a bug must not flood the fabric. The
node's own address is announced only where it sits on the loopback, for then no router knows it by itself. Next hop
is always this node.

Called by `felix.agent`; the groups go to the speaker in `wire.Wanted`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from bgp import wire
from bgp.plan import Problem
from crds.bgp_kinds import BGPConfiguration
from crds.values import Pool

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

EXCEPTIONS_MAX: Final = 256
_COMMUNITY = re.compile(r"\d{1,5}:\d{1,5}", re.ASCII)
_LARGE = re.compile(r"\d{1,10}:\d{1,10}:\d{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """Equal input gives equal groups in equal order."""

    routes: tuple[wire.RouteGroup, ...] = ()
    problems: tuple[Problem, ...] = ()


def advertise(
    node: str,
    *,
    blocks: Iterable[IPNetwork],
    exceptions: Iterable[IPAddress],
    loopback: Iterable[IPAddress],
    pools: Iterable[Pool],
    configurations: Iterable[BGPConfiguration],
) -> Advertisement:
    """`blocks`: confirmed own ones; `loopback`: those of the node's addresses that sit on its loopback."""
    problems: list[Problem] = []
    silent = [pool.cidr for pool in pools if not pool.bgp_export]
    singles = sorted({_host(address) for address in exceptions}, key=_order)
    if len(singles) > EXCEPTIONS_MAX:
        sentence = (
            f"{len(singles)} addresses lie outside the node's own blocks, at most {EXCEPTIONS_MAX} are announced "
            f"singly; the first left out is {singles[EXCEPTIONS_MAX]}"
        )
        problems.append(Problem(kind="Node", name=node, field="exceptions", sentence=sentence))
    pods = {*blocks, *singles[:EXCEPTIONS_MAX]}
    prefixes = {prefix for prefix in pods if not any(_inside(prefix, cidr) for cidr in silent)}
    prefixes |= {_host(address) for address in loopback}
    marks = list(_marks(node, configurations, problems))
    groups: defaultdict[tuple[wire.Family, tuple[str, ...]], list[str]] = defaultdict(list)
    for prefix in sorted(prefixes, key=_order):
        family = wire.Family.IPV4 if prefix.version == 4 else wire.Family.IPV6
        communities = tuple(sorted({value for cidr, values in marks if _inside(prefix, cidr) for value in values}))
        groups[family, communities].append(str(prefix))
    return Advertisement(
        routes=tuple(
            wire.RouteGroup(
                family=family,
                prefixes=tuple(members),
                communities=tuple(value for value in communities if value.count(":") == 1),
                large_communities=tuple(value for value in communities if value.count(":") == 2),
            )
            for (family, communities), members in sorted(groups.items())
        ),
        problems=tuple(problems),
    )


def _marks(
    node: str, configurations: Iterable[BGPConfiguration], problems: list[Problem]
) -> Iterator[tuple[IPNetwork, tuple[str, ...]]]:
    """Prefixes and the communities that they get; the node's own list replaces the one for all."""
    by_name = {configuration.metadata.name: configuration for configuration in configurations}
    default, own = by_name.get("default"), by_name.get(f"node.{node}")
    chosen = own if own is not None and own.spec.prefix_advertisements else default
    if chosen is None:
        return
    names = {
        community.name: community.value
        for configuration in (default, own)
        if configuration is not None
        for community in configuration.spec.communities
    }
    for number, mark in enumerate(chosen.spec.prefix_advertisements):
        field = f"spec.prefixAdvertisements[{number}]"

        def problem(sentence: str, field: str = field, name: str = chosen.metadata.name) -> None:
            problems.append(Problem(kind="BGPConfiguration", name=name, field=field, sentence=sentence))

        try:
            cidr = ip_network(mark.cidr)
        except ValueError:
            problem(f"cidr must be a network such as 10.0.0.0/16, is {mark.cidr!r}")
            continue
        values = [names.get(text, text) for text in mark.communities]
        for value in values:
            if not _is_community(value):
                problem(f"community must be aa:nn, aa:nn:mm or a name in spec.communities, is {value!r}")
        yield cidr, tuple(value for value in values if _is_community(value))


def _is_community(text: str) -> bool:
    parts = [int(part) for part in text.split(":")] if _COMMUNITY.fullmatch(text) or _LARGE.fullmatch(text) else []
    return bool(parts) and max(parts) < (1 << 16 if len(parts) == 2 else 1 << 32)


def _host(address: IPAddress) -> IPNetwork:
    return ip_network(address)


def _order(prefix: IPNetwork) -> tuple[int, int, int]:
    return (prefix.version, int(prefix.network_address), prefix.prefixlen)


def _inside(prefix: IPNetwork, cidr: IPNetwork) -> bool:
    return prefix.version == cidr.version and prefix.subnet_of(cidr)  # type: ignore[arg-type]
