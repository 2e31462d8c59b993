"""`tortiectl ipam show`: how full the pools are, block by block if asked, and who has one address.

Pure: pools, blocks and reservations as the API server gives them in, an `Answer` out. The words and columns are
calicoctl's (`ipam show`, `--show-blocks`, `--ip`), so that scripts and habits carry over. "In use" counts every
ordinal that is not free, those that cool down included, as Calico counts them.

Called by `ctl.main`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from crds.blocks import IPAMBlock
from crds.pools import IPPool, IPReservation
from ctl.show import Answer, Grid

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address

_COLUMNS = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")
_NODE_PREFIX = "host:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Addresses of a pool or block. `reserved` counts those barred by an IPReservation, in use or not; `free` those
    that are neither in use nor reserved."""

    total: int
    in_use: int
    reserved: int
    free: int

    def cells(self) -> tuple[str, ...]:
        """The four last columns, each with its share of the total."""
        return (str(self.total), *(_share(part, total=self.total) for part in (self.in_use, self.reserved, self.free)))


def pools(pools_: Sequence[IPPool], blocks: Sequence[IPAMBlock], reservations: Sequence[IPReservation]) -> Answer:
    """One row a pool."""
    return _answer(pools_, blocks, reservations, with_blocks=None)


def pools_and_blocks(
    pools_: Sequence[IPPool], blocks: Sequence[IPAMBlock], reservations: Sequence[IPReservation]
) -> Answer:
    """One row a pool, and one for each of its blocks below it, with the node that owns the block."""
    return _answer(pools_, blocks, reservations, with_blocks=blocks)


def address(wanted: IPAddress, *, blocks: Iterable[IPAMBlock]) -> Answer:
    """Who has `wanted`: handle, pod, node, since when. `data["inUse"]` says whether anybody has."""
    for block in blocks:
        network = ipaddress.ip_network(block.spec.cidr)
        if wanted not in network:
            continue
        index = block.spec.allocations[int(wanted) - int(network.network_address)]
        if index is None:
            break
        attribute = block.spec.attributes[index]
        facts = dict(attribute.secondary or {})
        data = {
            "ip": str(wanted),
            "inUse": True,
            "block": str(network),
            "handle": attribute.handle_id or "",
            "attributes": facts,
            "releasedAt": attribute.released_at or "",
        }
        if attribute.released_at:
            return Answer(data=data, notes=(f"IP {wanted} was released at {attribute.released_at} and cools down",))
        rows = [("Handle ID", attribute.handle_id or "-"), *((name, str(facts[name])) for name in sorted(facts))]
        rows.append(("block", str(network)))
        return Answer(
            data=data, grids=(Grid(title=f"IP {wanted} is in use", columns=("ATTRIBUTE", "VALUE"), rows=rows),)
        )
    return Answer(data={"ip": str(wanted), "inUse": False}, notes=(f"{wanted} is not assigned",))


def _answer(
    pools_: Sequence[IPPool],
    blocks: Sequence[IPAMBlock],
    reservations: Sequence[IPReservation],
    *,
    with_blocks: Sequence[IPAMBlock] | None,
) -> Answer:
    reserved = [ipaddress.ip_network(cidr) for item in reservations for cidr in item.spec.reserved_cidrs]
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, object]] = []
    for pool in sorted(pools_, key=lambda item: item.metadata.name):
        network = ipaddress.ip_network(pool.spec.cidr)
        inside = [block for block in blocks if _subnet_of(ipaddress.ip_network(block.spec.cidr), network)]
        usage = _usage(network, inside, reserved)
        rows.append(("IP Pool", str(network), *usage.cells()))
        entry = {"pool": pool.metadata.name, "cidr": str(network), **_numbers(usage)}
        if with_blocks is not None:
            entry["blocks"] = list(_block_entries(inside, reserved, rows=rows))
        data.append(entry)
    return Answer(data=data, grids=(Grid(columns=_COLUMNS, wide_columns=("NODE",), rows=rows),))


def _block_entries(
    blocks: Iterable[IPAMBlock], reserved: Sequence[IPNetwork], *, rows: list[tuple[str, ...]]
) -> Iterator[dict[str, object]]:
    for block in sorted(blocks, key=lambda item: int(ipaddress.ip_network(item.spec.cidr).network_address)):
        network = ipaddress.ip_network(block.spec.cidr)
        usage = _usage(network, [block], reserved)
        node = (block.spec.affinity or "").removeprefix(_NODE_PREFIX)
        rows.append(("Block", str(network), *usage.cells(), node or "-"))
        yield {"cidr": str(network), "node": node, **_numbers(usage)}


def _usage(network: IPNetwork, blocks: Iterable[IPAMBlock], reserved: Sequence[IPNetwork]) -> Usage:
    taken = reserved_and_taken = 0
    barred = [part for part in reserved if part.version == network.version and part.overlaps(network)]
    for block in blocks:
        base = ipaddress.ip_network(block.spec.cidr).network_address
        for ordinal, index in enumerate(block.spec.allocations):
            if index is not None:
                taken += 1
                if barred and any(base + ordinal in part for part in barred):
                    reserved_and_taken += 1
    covered = sum(min(part.num_addresses, network.num_addresses) for part in _collapsed(barred))
    free = network.num_addresses - taken - covered + reserved_and_taken
    return Usage(total=network.num_addresses, in_use=taken, reserved=covered, free=free)


def _collapsed(networks: Sequence[IPNetwork]) -> Iterator[IPNetwork]:
    yield from ipaddress.collapse_addresses([n for n in networks if isinstance(n, IPv4Network)])
    yield from ipaddress.collapse_addresses([n for n in networks if isinstance(n, IPv6Network)])


def _subnet_of(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _numbers(usage: Usage) -> dict[str, int]:
    return {"total": usage.total, "inUse": usage.in_use, "reserved": usage.reserved, "free": usage.free}


def _share(part: int, *, total: int) -> str:
    return f"{part} ({part * 100 // total}%)" if total else str(part)
