"""Leader election by a Lease: at most one operator works, and whoever loses the Lease ends.

Each candidate reads the Lease and watches, on its own monotonic clock, since when (holder, renewTime, transitions) has
been the same. Only a record that stood still for the whole lease duration may be taken, by compare-and-swap on
resourceVersion; the stamp in `renewTime` is never compared with any clock, so clocks that jump or differ do no harm.
The holder gives up `renew_deadline_s` after its last successful renewal, counted from before that request was sent,
which is sooner than anybody else may take over. Every other write of the operator is a compare-and-swap too: two
leaders could waste requests, not corrupt anything.

Called by operator_main. A holder that goes in peace empties `holderIdentity`, and the next candidate need not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from crds.core import Lease, LeaseSpec
from crds.errors import AlreadyExists, Conflict, NotFound
from crds.meta import ObjectMeta
from crds.store import Store

log = logging.getLogger(__name__)

NAMESPACE = "tortie-system"
LEASE_NAME = "tortie-operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderTimes:
    """Durations of the election, in seconds; renew_s < deadline_s < lease_s must hold."""

    lease_s: float = 15.0
    """Others may take the Lease this long after they last saw it change."""
    deadline_s: float = 10.0
    """The holder ends this long after its last successful renewal."""
    retry_s: float = 2.0
    """How often the holder renews and the others look."""


class Role(Enum):
    """What the last look at the Lease says."""

    LEADER = "leader"
    CANDIDATE = "candidate"


class Election:
    """One candidate. `step` is called every `retry_s`; it makes one attempt and says who leads."""

    def __init__(
        self,
        *,
        store: Store,
        identity: str,
        times: LeaderTimes,
        monotonic_s: Callable[[], float],
        wall_stamp: Callable[[], str],
    ) -> None:
        self._store = store
        self._identity = identity
        self._times = times
        self._monotonic_s = monotonic_s
        self._wall_stamp = wall_stamp
        self._observed: tuple[str, str | None, int | None] | None = None
        self._observed_at_s = 0.0
        self._renewed_at_s: float | None = None
        self.is_released = False
        """Given back on purpose: from then on it is not ours, and not overdue either."""

    def is_overdue(self) -> bool:
        """Was the Lease held, and was the last renewal too long ago to be sure that it still is?"""
        return self._renewed_at_s is not None and self._monotonic_s() - self._renewed_at_s > self._times.deadline_s

    async def step(self) -> Role:
        """Look at the Lease, take or renew it if that is allowed. Raises ApiError or OSError when the API is away."""
        asked_at_s = self._monotonic_s()
        try:
            lease = await self._store.get(Lease, LEASE_NAME, namespace=NAMESPACE)
        except NotFound:
            return await self._create(asked_at_s)
        self._observe(lease, asked_at_s)
        holder = lease.spec.holder_identity
        if holder and holder != self._identity and not self._is_expired(asked_at_s):
            return Role.CANDIDATE
        if holder != self._identity and self._renewed_at_s is not None:
            return Role.CANDIDATE  # it was ours and somebody took it: never take it back, the caller ends
        return await self._take(lease, asked_at_s)

    async def release(self) -> None:
        """Empty the holder, if it is still us; somebody else's Lease is left alone."""
        self.is_released = True
        if self._renewed_at_s is None:
            return
        try:
            lease = await self._store.get(Lease, LEASE_NAME, namespace=NAMESPACE)
            if lease.spec.holder_identity == self._identity:
                spec = msgspec.structs.replace(lease.spec, holder_identity="", renew_time=self._wall_stamp())
                await self._store.replace(msgspec.structs.replace(lease, spec=spec))
        except (NotFound, Conflict):
            log.info("lease changed hands before it was released name=%s", LEASE_NAME)

    def _observe(self, lease: Lease, now_s: float) -> None:
        record = (lease.spec.holder_identity, lease.spec.renew_time, lease.spec.lease_transitions)
        if record != self._observed:
            self._observed, self._observed_at_s = record, now_s

    def _is_expired(self, now_s: float) -> bool:
        return now_s - self._observed_at_s >= self._times.lease_s

    async def _create(self, asked_at_s: float) -> Role:
        if self._renewed_at_s is not None:
            return Role.CANDIDATE  # deleted under us: others may hold it by now
        stamp = self._wall_stamp()
        spec = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=round(self._times.lease_s),
            acquire_time=stamp,
            renew_time=stamp,
            lease_transitions=0,
        )
        try:
            await self._store.create(Lease(metadata=ObjectMeta(name=LEASE_NAME, namespace=NAMESPACE), spec=spec))
        except AlreadyExists:
            return Role.CANDIDATE
        self._renewed_at_s = asked_at_s
        return Role.LEADER

    async def _take(self, lease: Lease, asked_at_s: float) -> Role:
        stamp = self._wall_stamp()
        spec = msgspec.structs.replace(lease.spec, renew_time=stamp, lease_duration_seconds=round(self._times.lease_s))
        if lease.spec.holder_identity != self._identity:
            transitions = (lease.spec.lease_transitions or 0) + 1
            spec = msgspec.structs.replace(
                spec, holder_identity=self._identity, acquire_time=stamp, lease_transitions=transitions
            )
        try:
            await self._store.replace(msgspec.structs.replace(lease, spec=spec))
        except Conflict:
            # Somebody wrote in between; the next step reads who. is_overdue() still guards the time we believe.
            return Role.LEADER if self._renewed_at_s is not None else Role.CANDIDATE
        self._renewed_at_s = asked_at_s
        return Role.LEADER
