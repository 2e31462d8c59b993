"""Which address a pod gets, and from which block: a pure decision over what is known now.

Theory. Pools qualify first (Calico's rules), then blocks: an own block with a free, unreserved address is used; else
a free block of a qualifying pool is to be claimed; else the pools are exhausted, and the answer says in one sentence
why. Nothing here reads a clock or the API, so each rule can be tested as a table.

Candidate blocks. Nodes that claim at the same time must rarely reach for the same block. Each (node, pool) pair walks
the pool's blocks from a start and with an odd stride that both come from a hash of its names: the number of blocks is
a power of two, so an odd stride visits each exactly once, and two nodes whose walks meet part again at the next step.

Called by ipam.node; tortiectl may call it to explain an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network

from crds.values import NodeName, Pool
from ipam.blocks import Block
from ipam.requests import AssignRequest, Exhausted, IPAddress, IPNetwork

DEFAULT_MAX_BLOCKS = 20
"""Blocks of one family that a node may own when maxBlocksPerHost is 0 or not set (Calico's figure)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """IPAMConfiguration, parsed. `strict`: nobody takes addresses from another node's block."""

    strict: bool = True
    auto_allocate: bool = True
    max_blocks: int = DEFAULT_MAX_BLOCKS
    cooldown_s: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a choice depends on. `owned`: this node's usable blocks; `is_taken`: somebody holds that block."""

    node: NodeName
    node_labels: Mapping[str, str]
    pools: tuple[Pool, ...]
    reservations: tuple[IPNetwork, ...]
    settings: Settings
    owned: Collection[Block]
    is_taken: Callable[[IPNetwork], bool]


@dataclass(frozen=True, slots=True)
class UseBlock:
    """Take this ordinal of this own block."""

    block: Block
    ordinal: int


@dataclass(frozen=True, slots=True)
class ClaimBlock:
    """Claim this block, then choose again."""

    cidr: IPNetwork
    pool: Pool


Choice = UseBlock | ClaimBlock | Exhausted


def choose(request: AssignRequest, *, family: int, site: Site) -> Choice:
    """The block to use or claim for one address of `family`."""
    for address in request.addresses:
        if address.version == family:
            return _choose_fixed(address, site=site)
    pools = qualifying_pools(request, family=family, site=site)
    if isinstance(pools, Exhausted):
        return pools
    for pool in pools:
        for block in _owned_in(pool, site.owned):
            ordinal = block.next_free(reserved=reserved_ordinals(block.cidr, site.reservations))
            if ordinal is not None:
                return UseBlock(block, ordinal)
    return choose_claim(pools, family=family, site=site)


def choose_claim(pools: tuple[Pool, ...], *, family: int, site: Site) -> ClaimBlock | Exhausted:
    """The next block to claim from these pools, whether or not own blocks still have room."""
    names = tuple(pool.name for pool in pools)
    if not site.settings.auto_allocate:
        why = f"no block of node {site.node} there has room, and autoAllocateBlocks is false"
        return Exhausted(names, f"{_pools_text(names)} have no free address here: {why}")
    count = sum(1 for block in site.owned if block.cidr.version == family)
    if count >= site.settings.max_blocks:
        why = f"owns {count} IPv{family} blocks, as many as maxBlocksPerHost allows"
        return Exhausted(names, f"node {site.node} {why}, and none of {_pools_text(names)} has room")
    for pool in pools:
        for cidr in candidates(pool, node=site.node):
            if site.is_taken(cidr) or _wholly_reserved(cidr, site.reservations):
                continue
            return ClaimBlock(cidr, pool)
    return Exhausted(names, f"{_pools_text(names)} have no free address: every block is taken by a node and full")


def qualifying_pools(request: AssignRequest, *, family: int, site: Site) -> tuple[Pool, ...] | Exhausted:
    """The pools that may serve this request, in Calico's order (by name)."""
    usable = sorted((pool for pool in site.pools if is_usable(pool, family=family)), key=lambda pool: pool.name)
    wanted = request.pools(family)
    if wanted:
        chosen = tuple(pool for pool in usable if pool.name in wanted or str(pool.cidr) in wanted)
        known = {text for pool in chosen for text in (pool.name, str(pool.cidr))}
        if missing := [text for text in wanted if text not in known]:
            return Exhausted(
                wanted, f"IPPool {', '.join(missing)} does not exist, is disabled or is not for IPv{family} pods"
            )
        return chosen
    found = tuple(
        pool
        for pool in usable
        if pool.automatic
        and pool.node_selector.matches(site.node_labels)
        and (pool.namespace_selector is None or pool.namespace_selector.matches(request.namespace_labels))
    )
    if not found:
        return Exhausted(
            (), f"no enabled IPv{family} IPPool selects node {site.node} and namespace {request.namespace}"
        )
    return found


def is_usable(pool: Pool, *, family: int) -> bool:
    """A pool that may give pods addresses of this family."""
    return (
        pool.cidr.version == family
        and not pool.disabled
        and not pool.deleting
        and pool.allocatable
        and (not pool.allowed_uses or "Workload" in pool.allowed_uses)
    )


def _choose_fixed(address: IPAddress, *, site: Site) -> Choice:
    """A fixed address: selectors, assignmentMode and reservations do not count (Calico's AssignIP)."""
    pool = next((p for p in site.pools if is_usable(p, family=address.version) and address in p.cidr), None)
    if pool is None:
        return Exhausted((), f"no enabled IPPool contains the requested address {address}")
    for block in site.owned:
        if address in block.cidr:
            ordinal = block.ordinal(address)
            if ordinal in block.entries:
                return Exhausted((pool.name,), f"the requested address {address} is in use")
            return UseBlock(block, ordinal)
    cidr = block_at(pool, (int(address) - int(pool.cidr.network_address)) >> (pool.cidr.max_prefixlen - pool.block_len))
    if site.is_taken(cidr):
        return Exhausted(
            (pool.name,), f"the requested address {address} lies in block {cidr}, which is not node {site.node}'s"
        )
    return ClaimBlock(cidr, pool)


# -- candidates


def candidates(pool: Pool, *, node: NodeName) -> Iterator[IPNetwork]:
    """Every block of a pool once, in this node's own order; lazy, for an IPv6 pool has more than can be listed."""
    count = 1 << (pool.block_len - pool.cidr.prefixlen)
    digest = blake2b(f"{node}|{pool.cidr}".encode(), digest_size=32).digest()
    start = int.from_bytes(digest[:16]) % count
    stride = (int.from_bytes(digest[16:]) | 1) % count or 1
    for step in range(count):
        yield block_at(pool, (start + step * stride) % count)


def block_at(pool: Pool, index: int) -> IPNetwork:
    """The index-th block of a pool."""
    base = int(pool.cidr.network_address) + (index << (pool.cidr.max_prefixlen - pool.block_len))
    return IPv4Network((base, pool.block_len)) if pool.cidr.version == 4 else IPv6Network((base, pool.block_len))


def _owned_in(pool: Pool, owned: Collection[Block]) -> Iterator[Block]:
    """Own blocks inside a pool, the oldest claim first, so that surplus ones drain."""
    low, high = int(pool.cidr.network_address), int(pool.cidr.broadcast_address)
    for block in owned:
        if block.cidr.version == pool.cidr.version and low <= int(block.cidr.network_address) <= high:
            yield block


@lru_cache(maxsize=1024)
def reserved_ordinals(cidr: IPNetwork, reservations: tuple[IPNetwork, ...]) -> frozenset[int]:
    """Ordinals of a block that IPReservations keep from automatic choice."""
    first, last = int(cidr.network_address), int(cidr.broadcast_address)
    return frozenset(
        address - first
        for net in reservations
        if net.version == cidr.version
        for address in range(max(first, int(net.network_address)), min(last, int(net.broadcast_address)) + 1)
    )


def _wholly_reserved(cidr: IPNetwork, reservations: tuple[IPNetwork, ...]) -> bool:
    return bool(reservations) and len(reserved_ordinals(cidr, reservations)) == cidr.num_addresses


def _pools_text(names: tuple[str, ...]) -> str:
    return f"IPPools {', '.join(names)}"
