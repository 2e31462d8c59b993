"""The operator's one loop: look at everything, plan everything, write what differs, sleep until something may change.

Events only say "look again" (`poke`); what to do follows from the view alone, so a missed, doubled or late event, a
restart and a change of leader are all the same case. Passes are bundled: after one, the loop rests for a moment that
grows with the cost of a pass, so a storm of events cannot keep the processor busy.

Full lists come at the start and every few minutes, Leases more often. A pass that wrote something is followed by
another, because the next step of a state machine is planned from what the last one made. Nothing is written twice: the
server's answers go into the view at once. When there is nothing to do the loop writes nothing at all.

Called by ipam.handlers, which feeds the World from kopf's events and ends the process when `run` raises.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPeer
from crds.blocks import IPAMHandle
from crds.core import Node, Secret
from crds.errors import ApiError, Forbidden, NotFound
from crds.pools import IPAMConfiguration, IPPool, IPReservation
from crds.store import Store
from ipam.operator_actions import Action, Create, Delete, Outcome, ReplaceStatus, apply
from ipam.operator_affinity import AffinityPlanner, HealTimes
from ipam.operator_conditions import with_condition
from ipam.operator_defaults import DEFAULT, find, plan_defaults
from ipam.operator_fence import Judge, JudgeTimes, plan_leases
from ipam.operator_leaks import LeakPlanner, is_still_missed, is_still_orphan
from ipam.operator_patience import Patience
from ipam.operator_status import Judged, References, bgp_addresses, judge, secret_names
from ipam.operator_world import NAMESPACE, View, World
from ipam.pool_conditions import judge_pools
from ipam.pool_plan import plan_pools

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the loop looks, in seconds."""

    rest_s: float = 0.2
    """Least time between two passes; five times the cost of the last pass if that is more."""
    look_s: float = 15.0
    """Most time between two passes, and how often the agents' Leases are listed."""
    relist_s: float = 300.0
    """Between full lists."""
    retry_s: float = 5.0
    """After a write or a list that failed."""
    secrets_s: float = 30.0
    """How long what was found of a Secret is believed: Secrets are read by name, not watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All times of the operator, and its environment."""

    pace: Pace = field(default_factory=Pace)
    heal: HealTimes = field(default_factory=HealTimes)
    judge: JudgeTimes = field(default_factory=JudgeTimes)
    environment: Mapping[str, str] = field(default_factory=dict)


class Deaf(RuntimeError):
    """A watch no longer tells what the lists show: only a new process helps."""


def wall_stamp() -> str:
    """Now, as metav1.Time has it. For people to read; nothing compares it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reconciler:
    """One loop over one world."""

    def __init__(
        self,
        *,
        world: World,
        store: Store,
        settings: Settings,
        monotonic_s: Callable[[], float],
        stamp: Callable[[], str],
    ) -> None:
        self._world = world
        self._store = store
        self._settings = settings
        self._monotonic_s = monotonic_s
        self._stamp = stamp
        self._patience = Patience()
        self._poked = asyncio.Event()
        self._secrets: dict[str, tuple[float, tuple[str, ...] | None]] = {}
        self._relist_at_s = 0.0
        self._leases_at_s = 0.0
        self.passes = 0
        self.writes = 0
        self.last_pass_s: float | None = None
        """Monotonic second at which the last complete pass ended: for the health endpoint."""

    def poke(self) -> None:
        """Something may have changed."""
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled. Raises Deaf."""
        await self._start()
        while True:
            began_s = self._monotonic_s()
            wait_s = await self._look()
            cost_s = self._monotonic_s() - began_s
            await asyncio.sleep(max(self._settings.pace.rest_s, 5 * cost_s))
            await self._wait(wait_s)

    async def _start(self) -> None:
        while True:
            try:
                await self._world.relist(self._store, now_s=self._monotonic_s())
                await self._make_defaults()
            except (ApiError, OSError) as error:
                # Also while our kinds are not there yet: the operator may start before its CRDs.
                log.warning("cannot start yet, trying again error=%r", str(error))
                await asyncio.sleep(self._settings.pace.retry_s)
            else:
                self._relist_at_s = self._monotonic_s() + self._settings.pace.relist_s
                return

    async def _make_defaults(self) -> None:
        view = self._world.view()
        found = await find(
            self._store,
            pools=tuple(view.of(IPPool).values()),
            nodes=tuple(view.of(Node).values()),
            configured=DEFAULT in view.of(IPAMConfiguration),
        )
        await self._carry_out(plan_defaults(found, environment=self._settings.environment, guid=uuid.uuid4().hex))

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, self._settings.pace.look_s)):
                await self._poked.wait()
        except TimeoutError:
            return

    async def _look(self) -> float:
        """One pass; seconds until the next one is due if nothing happens."""
        self._poked.clear()
        pace, now_s = self._settings.pace, self._monotonic_s()
        try:
            await self._refresh(now_s)
        except (ApiError, OSError) as error:
            log.warning("cannot list, trying again error=%r", str(error))
            return pace.retry_s
        self._patience.begin(now_s=now_s)
        actions = list(self.plan(self._world.view()))
        ripens_s = self._patience.end()
        outcome = await self._carry_out(actions)
        self.passes += 1
        self.last_pass_s = self._monotonic_s()
        if outcome.stored or outcome.deleted or outcome.moved:
            return 0.0
        return pace.retry_s if outcome.failed else ripens_s

    async def _refresh(self, now_s: float) -> None:
        pace = self._settings.pace
        if now_s >= self._relist_at_s:
            await self._world.relist(self._store, now_s=now_s)
            self._relist_at_s = now_s + pace.relist_s
        if deaf := self._world.hearing.deaf(now_s=now_s):
            raise Deaf(f"no watch event told of objects that a list shows: {', '.join(deaf)}")
        if now_s >= self._leases_at_s:
            await self._world.list_leases(self._store)
            self._leases_at_s = now_s + pace.look_s
        await self._read_secrets(now_s)

    async def _read_secrets(self, now_s: float) -> None:
        wanted = secret_names(_judged(self._world.view()))
        known = {name: entry for name, entry in self._secrets.items() if name in wanted}
        for name in sorted(wanted):
            if name in known and now_s - known[name][0] < self._settings.pace.secrets_s:
                continue
            try:
                secret = await self._store.get(Secret, name, namespace=NAMESPACE)
                known[name] = (now_s, tuple(secret.data))
            except NotFound:
                known[name] = (now_s, None)
            except Forbidden:
                known.pop(name, None)
        self._secrets = known

    def plan(self, view: View) -> Iterator[Action]:
        """Everything that is to be changed, as of this view."""
        stamp = self._stamp()
        judge_node = Judge(view, patience=self._patience, times=self._settings.judge)
        pools = view.of(IPPool)
        verdicts = judge_pools(pools.values(), view.index)
        yield from plan_pools(pools, verdicts, wall_stamp=stamp)
        yield from AffinityPlanner(
            view=view,
            verdicts=verdicts,
            judge=judge_node,
            patience=self._patience,
            times=self._settings.heal,
            wall_stamp=stamp,
        ).plan()
        yield from LeakPlanner(
            view=view, judge=judge_node, patience=self._patience, settle_s=self._settings.heal.settle_s
        ).plan()
        yield from plan_leases(view, judge_node)
        yield from self._plan_status(view, stamp)

    def _plan_status(self, view: View, stamp: str) -> Iterator[Action]:
        secrets = {name: keys for name, (_, keys) in self._secrets.items()}
        references = References(
            filters=frozenset(view.of(BGPFilter)),
            secrets=secrets,
            node_addresses=bgp_addresses(view.of(Node).values()) if view.of(BGPPeer) else (),
        )
        for obj in _judged(view):
            statement = judge(obj, references)
            told = with_condition(obj, statement, wall_stamp=stamp)
            if told is not None:
                yield ReplaceStatus(told, f"{statement.reason}: {statement.message}")

    async def _carry_out(self, actions: Iterator[Action] | list[Action]) -> Outcome:
        safe = [action for action in actions if await self._is_still_right(action)]
        outcome = await apply(self._store, safe)
        for obj in outcome.stored:
            self._world.written(obj)
        for obj in outcome.deleted:
            self._world.removed(obj)
        for action in outcome.moved:
            await self._reread(action)
        self.writes += len(outcome.stored) + len(outcome.deleted)
        return outcome

    async def _is_still_right(self, action: Action) -> bool:
        if isinstance(action, Delete) and isinstance(action.obj, IPAMHandle):
            return await is_still_orphan(self._store, action.obj)
        if isinstance(action, Create) and isinstance(action.obj, IPAMHandle):
            return await is_still_missed(self._store, action.obj)
        return True

    async def _reread(self, action: Action) -> None:
        """The view was behind: see what is there now, for the event may take a while."""
        kind: type[Any] = type(action.obj)
        meta = action.obj.metadata
        try:
            self._world.written(await self._store.get(kind, meta.name, namespace=meta.namespace))
        except NotFound:
            self._world.removed(action.obj)
        except (ApiError, OSError) as error:
            log.warning("cannot read kind=%s name=%s error=%r", kind.kind, meta.name, str(error))


def _judged(view: View) -> list[Judged]:
    kinds: tuple[type[Judged], ...] = (IPReservation, IPAMConfiguration, BGPConfiguration, BGPPeer, BGPFilter)
    return [obj for kind in kinds for obj in view.of(kind).values()]
