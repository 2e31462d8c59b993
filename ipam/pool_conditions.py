"""Which IPPools addresses may be taken from, and what each pool's condition says: a pure function of all pools.

The theory is one queue. Pools are lined up as Calico lines them up: those that are allocatable now, then those being
deleted, the disabled (and invalid) ones, the new ones; within a class the older first, then by name. Among the new
ones those that once were in use (they bear the finalizer) go first, so a pool that is enabled again keeps its place.
Each pool in turn takes its range, unless somebody before it took part of it: then it is CIDROverlap. So a pool that
works is never pushed aside by a newcomer, and when it goes the next in the queue gets the range. A pool being deleted
keeps its range until the end. A disabled or invalid pool keeps it only as long as blocks of it exist.

Each block belongs to the pool that took the range it lies in. A pool is marked with Calico's finalizer while it is
allocatable or has blocks; an overlapping one is not marked, so a mistaken pool can be deleted at once.

Called by operator_reconcile with what the watches show; pool_release acts on the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from crds.errors import BadObject
from crds.pools import ALLOCATABLE, POOL_FINALIZER, IPPool
from crds.values import parse_pool
from ipam.operator_blocks import BlockFacts, BlockIndex, describe_users
from ipam.requests import IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolVerdict:
    """What is to be said about one pool.

    `blocks` are those that belong to it. `wants_finalizer`: deleting it must wait for us.
    """

    name: str
    cidr: IPNetwork | None
    allocatable: bool
    reason: str
    message: str
    wants_finalizer: bool
    blocks: tuple[BlockFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class _Holder:
    name: str
    cidr: IPNetwork
    note: str


def judge_pools(pools: Iterable[IPPool], index: BlockIndex) -> dict[str, PoolVerdict]:
    """A verdict for every pool, by name. Independent of the order of `pools`."""
    holders: list[_Holder] = []
    claimed: set[str] = set()
    verdicts: dict[str, PoolVerdict] = {}
    for pool in sorted(pools, key=_rank):
        verdict, holder = _judge(pool, holders, index, claimed)
        verdicts[verdict.name] = verdict
        if holder is not None:
            holders.append(holder)
            claimed.update(block.name for block in verdict.blocks)
    return {name: _naming_others(verdict, holders) for name, verdict in verdicts.items()}


def _naming_others(verdict: PoolVerdict, holders: Sequence[_Holder]) -> PoolVerdict:
    """Named is the first by name of all pools in the way: the first met would change with the queue."""
    if verdict.reason != "CIDROverlap" or verdict.cidr is None:
        return verdict
    other = min((holder for holder in holders if _overlap(holder.cidr, verdict.cidr)), key=lambda holder: holder.name)
    return replace(verdict, message=f"{verdict.cidr} overlaps {other.cidr} of pool {other.name}{other.note}")


def _overlap(a: IPNetwork, b: IPNetwork) -> bool:
    return a.version == b.version and a.overlaps(b)


def is_allocatable_now(pool: IPPool) -> bool:
    """Does the stored condition say that addresses are taken from it?"""
    conditions = pool.status.conditions if pool.status else ()
    return any(condition.type == ALLOCATABLE and condition.status == "True" for condition in conditions)


def _rank(pool: IPPool) -> tuple[int, str, str]:
    if pool.metadata.deletion_timestamp:
        group = 1
    elif pool.spec.disabled or _problem(pool) is not None:
        group = 2
    elif is_allocatable_now(pool):
        group = 0
    else:
        group = 3 if POOL_FINALIZER in pool.metadata.finalizers else 4
    return (group, pool.metadata.creation_timestamp, pool.metadata.name)


def _judge(
    pool: IPPool, holders: Sequence[_Holder], index: BlockIndex, claimed: set[str]
) -> tuple[PoolVerdict, _Holder | None]:
    name = pool.metadata.name
    problem, cidr = _problem(pool), _network(pool.spec.cidr)
    if cidr is None:
        refused = PoolVerdict(
            name=name, cidr=None, allocatable=False, reason="InvalidSpec", message=str(problem), wants_finalizer=False
        )
        return refused, None
    other = next((holder for holder in holders if _overlap(holder.cidr, cidr)), None)
    blocks = () if other else tuple(block for block in index.inside(cidr) if block.name not in claimed)
    reason, message, note = _sentence(pool, problem, other, blocks)
    allocatable = reason == "OK"
    holds = not other and (allocatable or reason == "Terminating" or bool(blocks))
    verdict = PoolVerdict(
        name=name,
        cidr=cidr,
        allocatable=allocatable,
        reason=reason,
        message=message,
        wants_finalizer=allocatable or bool(blocks),
        blocks=blocks,
    )
    return verdict, _Holder(name, cidr, note) if holds else None


def _sentence(
    pool: IPPool, problem: BadObject | None, other: _Holder | None, blocks: tuple[BlockFacts, ...]
) -> tuple[str, str, str]:
    """Reason, message, and what the message of a pool that overlaps this one adds about it."""
    if pool.metadata.deletion_timestamp:
        return "Terminating", _terminating(blocks), ", which is being deleted"
    if problem is not None:
        return "InvalidSpec", str(problem), ", which is invalid but has blocks in use"
    if pool.spec.disabled:
        return "PoolDisabled", "spec.disabled is true", ", which is disabled but has blocks in use"
    if other is not None:
        return "CIDROverlap", "", ""  # named when all who hold a range are known
    return "OK", "addresses are given out from this pool", ""


def _terminating(blocks: tuple[BlockFacts, ...]) -> str:
    users = [user for block in blocks for user in block.users]
    if users:
        return f"deletion waits for {describe_users(users)}"
    if blocks:
        some = ", ".join(f"{block.cidr} of {block.node or 'nobody'}" for block in blocks[:3])
        more = f" and {len(blocks) - 3} more" if len(blocks) > 3 else ""
        return f"no address is in use; deletion waits for the release of {some}{more}"
    return "nothing is left in it; being deleted"


def _problem(pool: IPPool) -> BadObject | None:
    try:
        parse_pool(pool)
    except BadObject as error:
        return error
    return None


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text)
    except ValueError:
        return None
