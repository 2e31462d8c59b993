"""From verdicts on pools to writes: the condition and the finalizer.

The finalizer goes on as soon as a pool is allocatable, and comes off a pool being deleted when nothing is left in its
range (operator_affinity releases its empty blocks meanwhile). It comes off a pool that is neither in use nor
allocatable too, so that nothing hinders its deletion. The condition of a pool being deleted says who still uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crds.pools import ALLOCATABLE, POOL_FINALIZER, IPPool
from ipam.operator_actions import Action, ReplaceStatus, SetFinalizers
from ipam.operator_conditions import Statement, with_condition
from ipam.pool_conditions import PoolVerdict


def plan_pools(
    pools: Mapping[str, IPPool], verdicts: Mapping[str, PoolVerdict], *, wall_stamp: str
) -> Iterator[Action]:
    """At most one write for each pool: the mark first, so that no pool is allocatable and can vanish at once."""
    for name, pool in pools.items():
        verdict = verdicts[name]
        marked = POOL_FINALIZER in pool.metadata.finalizers
        others = tuple(mark for mark in pool.metadata.finalizers if mark != POOL_FINALIZER)
        if verdict.wants_finalizer and not marked and not pool.deleting:
            yield SetFinalizers(pool, (*others, POOL_FINALIZER), "its deletion must wait for its addresses")
        elif marked and not verdict.wants_finalizer:
            yield SetFinalizers(pool, others, "no block is left in it")
        else:
            statement = Statement(
                type=ALLOCATABLE, holds=verdict.allocatable, reason=verdict.reason, message=verdict.message
            )
            told = with_condition(pool, statement, wall_stamp=wall_stamp)
            if told is not None:
                yield ReplaceStatus(told, f"{verdict.reason}: {verdict.message}")
