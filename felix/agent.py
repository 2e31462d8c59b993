"""The loop: watch -> compute -> plan -> apply, again and again, each time from what is seen now.

Theory: everything that happens (an object changed, a route was heard, a link went down, a timer) is only a poke. A
poke costs nothing while one is pending, and a turn takes everything new in at once: the latest state wins, and there
is no queue to fall behind on. Restart, resync and retry are the same turn.

    snapshot --+--> IPAM is shown it --> own blocks, exceptions
               +--> sessions, announcements --> speaker
               +--> import policy --> best routes --> next hops --> wanted routes --> plan --> apply

Invariants: a turn is synchronous, so that what it reads belongs together. Nothing is swept before its source is in
sync: local routes wait for the API's first complete snapshot and for IPAM, BGP's also for the RIB; an API server that
goes away later changes nothing. A single refused route stays dirty, is retried with growing pauses and told; if the
kernel's table cannot even be read or written, `GIVE_UP_AFTER` times in a row, the process ends loudly, for somebody
must notice, and the routes stay.

Called by `felix.main`, which builds it and keeps its doors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from bgp.import_policy import ImportPolicy
from bgp.sessions import Problem, SessionPlan
from crds.values import NodeName
from felix.bgp_link import BgpLink
from felix.calc.routes import RouteIndex, RouteInputs, WantedRoutes
from felix.calc.speech import Speech, node_addresses_of
from felix.calc.views import PolicyView, cluster_view, same_view
from felix.dataplane.routes import KEEP_ALL, SWEEP_ALL, Origin, Plan, RouteWriter
from felix.kernel.protocols import IPAddress, IPNetwork
from felix.kernel_view import AgentKernel, KernelView, pause_after_look_s
from felix.lull import at_once
from felix.snapshot import Snapshot, Sync
from felix.watches import Watches
from ipam.view import ClusterView

log = logging.getLogger(__name__)

REFRESH_S = 90.0
"""Everything is looked at anew this often, whatever events say (Calico's routeRefreshInterval)."""
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 30.0
SETTLE_S = 0.25
"""Pods came or went, here or elsewhere, or a block says so. Our own routes stand already and no other route
hangs on them: one look serves all that changes meanwhile."""
YIELD_MAX_S, YIELD_TIMES = 0.05, 4.0
QUIET_WAIT_S = 0.05
"""How long a turn waits for pods that are being started. A withdrawn route waits as long, so not longer."""
GIVE_UP_AFTER = 12
PLAN_LINES_MAX = 20


class Addresses(Protocol):
    """What the agent asks of IPAM (ipam.node.NodeIPAM)."""

    @property
    def is_recovered(self) -> bool:
        """Whether what it says of blocks and exceptions is all there is."""

    def see(self, view: ClusterView) -> None:
        """Here is the cluster."""

    def see_kernel(self, kernel_addresses: Mapping[IPAddress, str]) -> None:
        """Here are the addresses of pods that the kernel shows, all of them."""

    def blocks(self) -> frozenset[IPNetwork]:
        """Own confirmed blocks."""

    def exceptions(self) -> frozenset[IPAddress]:
        """Live local addresses that no such block covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the last turn saw and wanted: for health, metrics, CLI and those who follow turns."""

    snapshot: Snapshot
    plan: SessionPlan
    routes: WantedRoutes
    pods: Mapping[IPAddress, str]
    blocks: frozenset[IPNetwork]
    problems: tuple[Problem, ...]
    """What in the objects cannot be followed."""
    failures: int
    kept: int


class Agent:
    """One node's brain and hands."""

    def __init__(
        self,
        *,
        node: NodeName,
        watches: Watches,
        addresses: Addresses,
        link: BgpLink,
        speech: Speech,
        kernel: AgentKernel,
        api_addresses: frozenset[IPAddress] = frozenset(),
        followers: tuple[Callable[[Turn], None], ...] = (),
        until_quiet: Callable[[float], Awaitable[None]] = at_once,
    ) -> None:
        """`until_quiet`: waits while pods wait for answers, at most so many seconds (felix.lull)."""
        self._node = node
        self._watches = watches
        self._addresses = addresses
        self._link = link
        self._speech = speech
        self._policies = PolicyView(node=node, api_addresses=api_addresses)
        self._index = RouteIndex()
        self._kernel = KernelView(kernel)
        self.writer = RouteWriter(kernel)
        self.followers = followers
        self._until_quiet = until_quiet
        self.last: Turn | None = None
        self.last_turn_s = time.monotonic()
        self.apply_s: Callable[[float], None] = lambda _seconds: None
        """Told how long each turn that wrote took; metrics listen."""
        self._poked = asyncio.Event()
        self._told_problems: frozenset[Problem] = frozenset()
        self._look_due = True
        self._look_after_s = 0.0
        self._look_timer: asyncio.TimerHandle | None = None
        self._fresh = False
        self._pods_due = False
        self._soon = False
        self._shown: ClusterView | None = None
        self._retry_s = RETRY_FIRST_S
        self._retry_timer: asyncio.TimerHandle | None = None
        self._gate_failures = 0

    @property
    def pod_mtu(self) -> int:
        """For pods whose configuration names none, in bytes."""
        return self._kernel.pod_mtu

    # pokes: cheap, from the loop's thread, any number of times

    def poke(self) -> None:
        """Look again at what is seen."""
        self._poked.set()

    def kernel_changed(self) -> None:
        """Links, addresses or routes changed."""
        self._look_due = True
        self._poke_when_due(time.monotonic())

    def _poke_when_due(self, now_s: float) -> None:
        """Poke at once, or when the pause after the last look is over."""
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        if now_s >= self._look_after_s:
            self._poked.set()
        else:
            loop = asyncio.get_running_loop()
            self._look_timer = loop.call_later(self._look_after_s - now_s, self._poked.set)

    def poke_soon(self) -> None:
        """Look again once things have settled."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_later(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._soon = False
        self._poked.set()

    def pods_changed(self) -> None:
        """A pod's interface came or went."""
        self._pods_due = True
        self.poke_soon()

    def retry(self) -> None:
        """Try again what the kernel refused."""
        self.writer.retry()
        self._poked.set()

    # the loop

    async def run(self) -> None:
        """Turn for ever. Raises OSError when the kernel's table stays out of reach."""
        self.poke()
        while True:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._poked.wait()
            except TimeoutError:
                self._look_due = True
            await self._until_quiet(QUIET_WAIT_S)
            self._poked.clear()
            started_s = time.monotonic()
            self._turn_or_count()
            self.last_turn_s = time.monotonic()
            # A turn that cost much leaves the loop to ADDs for longer.
            await asyncio.sleep(min(YIELD_MAX_S, YIELD_TIMES * (self.last_turn_s - started_s)))

    def _turn_or_count(self) -> None:
        try:
            self.turn()
            self._gate_failures = 0
        except OSError as error:
            self._gate_failures += 1
            self._look_due = True
            log.error('kernel out of reach attempt=%d error="%s"', self._gate_failures, error)
            if self._gate_failures >= GIVE_UP_AFTER:
                raise
            self._later(self._poked.set)

    def turn(self) -> Turn:
        """Once from top to bottom. Raises OSError when the kernel cannot be read."""
        snapshot = self._watches.snapshot()
        self._look(now_s=time.monotonic())
        self._show(snapshot)
        blocks = self._addresses.blocks()
        plan, problems = self._speak(snapshot, blocks=blocks)
        wanted = self._wanted(snapshot, blocks=blocks)
        failures, kept = self._program(snapshot, wanted)
        self.last = Turn(
            snapshot=snapshot,
            plan=plan,
            routes=wanted,
            pods=self._kernel.pods,
            blocks=blocks,
            problems=problems,
            failures=failures,
            kept=kept,
        )
        for follow in self.followers:
            follow(self.last)
        return self.last

    def _look(self, *, now_s: float) -> None:
        self._fresh = False
        if self._look_due and now_s >= self._look_after_s:
            self._look_now()
            return
        if self._look_due:
            self._poke_when_due(now_s)
        if self._pods_due:
            self._kernel.look_at_links()
        self._pods_due = False

    def _look_now(self) -> None:
        started_s = time.monotonic()
        self.writer.look_again()
        self.writer.read()
        self._kernel.look()
        self._addresses.see_kernel(self._kernel.pods)
        self._look_due = self._pods_due = False
        self._fresh = True
        ended_s = time.monotonic()
        self._look_after_s = ended_s + pause_after_look_s(ended_s - started_s)

    def _show(self, snapshot: Snapshot) -> None:
        """Show IPAM the cluster, if anything that concerns it is new: not each Pod of each other node."""
        view = cluster_view(snapshot, node=self._node)
        if not same_view(view, self._shown):
            self._addresses.see(view)
            self._shown = view

    def _speak(self, snapshot: Snapshot, *, blocks: frozenset[IPNetwork]) -> tuple[SessionPlan, tuple[Problem, ...]]:
        # A session that half a view implies (a mesh, before the BGPConfiguration that turns it off has been read) must
        # not be opened; what the speaker holds from before stays up as it is, for an incomplete set takes nothing away.
        plan = self._speech.plan(snapshot) if snapshot.sync is Sync.COMPLETE else SessionPlan(neighbors=(), problems=())
        told = self._speech.advertisement(
            snapshot,
            blocks=blocks,
            exceptions=self._addresses.exceptions(),
            on_loopback=self._kernel.on_loopback,
        )
        self._link.want(plan, told.routes, own_addresses=self._kernel.addresses, complete=self._knows(snapshot))
        problems = plan.problems + told.problems + self._policies.problems(snapshot) + self._link.rib.problems()
        for problem in problems:
            if problem not in self._told_problems:
                log.warning('object not followed problem="%s"', problem)
        self._told_problems = frozenset(problems)
        return plan, problems

    def policy(self, snapshot: Snapshot, *, blocks: frozenset[IPNetwork]) -> ImportPolicy:
        """What may be imported now."""
        own = self._kernel.addresses | self._addresses.exceptions()
        return self._policies.policy(snapshot, own_blocks=blocks, own_addresses=own)

    def _wanted(self, snapshot: Snapshot, *, blocks: frozenset[IPNetwork]) -> WantedRoutes:
        best = self._link.rib.best(self.policy(snapshot, blocks=blocks))
        hops = self._kernel.hops({hop for route in best.values() for hop in route.next_hops})
        return self._index.wanted(
            RouteInputs(
                blocks=blocks,
                pods=self._kernel.pods,
                best=best,
                hops=hops,
                elsewhere=self._policies.elsewhere(snapshot, own_blocks=blocks),
                sources=self._sources(snapshot),
            )
        )

    def _sources(self, snapshot: Snapshot) -> Mapping[int, IPAddress]:
        known = node_addresses_of(snapshot, node=self._node)
        return {address.version: address for address in known & self._kernel.addresses}

    def _knows(self, snapshot: Snapshot) -> bool:
        return snapshot.sync is Sync.COMPLETE and self._addresses.is_recovered

    def _sweep(self, snapshot: Snapshot) -> frozenset[Origin]:
        if not self._knows(snapshot):
            return KEEP_ALL
        return SWEEP_ALL if self._link.synced() else frozenset({Origin.LOCAL})

    def _program(self, snapshot: Snapshot, wanted: WantedRoutes) -> tuple[int, int]:
        sweep = self._sweep(snapshot)
        plan = self.writer.plan(wanted.routes, sweep=sweep)
        if plan.drops_pods and not self._fresh:
            # A pod may have come to that address since the last look: only what is seen now may be taken away.
            self._look_now()
            return self._program(snapshot, self._wanted(snapshot, blocks=self._addresses.blocks()))
        if not plan.empty:
            started_s = time.monotonic()
            self.writer.apply(plan)
            self.apply_s(time.monotonic() - started_s)
            self._tell(plan)
        failures = len(self.writer.failures)
        if failures:
            self._later(self.retry)
        else:
            self._retry_s = RETRY_FIRST_S
        return failures, plan.kept

    def _tell(self, plan: Plan) -> None:
        count = len(plan.puts) + len(plan.drops)
        shown = "\n".join(islice(plan.lines(), PLAN_LINES_MAX))
        more = f"\n… and {count - PLAN_LINES_MAX} more" if count > PLAN_LINES_MAX else ""
        log.info("routes changed=%d\n%s%s", count, shown, more)
        for route, error in self.writer.failures.items():
            log.warning('route refused route="%s" error="%s"', route, error)

    def _later(self, callback: Callable[[], None]) -> None:
        """Once more after a pause that doubles each time; one such timer at a time."""
        loop = asyncio.get_running_loop()
        if self._retry_timer is not None and self._retry_timer.when() > loop.time():
            return
        self._retry_timer = loop.call_later(self._retry_s, callback)
        self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)
