"""NodeIPAM: the addresses of one node, given out by its own agent.

Theory. An address comes from a block that this node owns (a confirmed BlockAffinity signed with its Node's uid), is
written to the journal, fsynced, and answered; block and handle objects follow behind. So an ADD costs one fsync and no
API call while own blocks have room, also while the API server is away. Where others may take from a block too
(strictAffinity false) the compare-and-swap comes before the answer.

All state lives in `Holdings` and changes only between two awaits, so requests need no lock among themselves: choosing
and taking is one stretch of code. What waits (claims, writes, the Lease) runs in `run` and under time-outs.

When to call what: `see` with each new view; `recover` once, when the kernel's pod addresses are known; `run` as a task
of the agent's; then `assign` and `release` from the CNI server, `blocks` and `exceptions` from BGP and routes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from crds.blocks import BlockAffinity, IPAMBlock
from crds.errors import BadObject
from crds.store import Store
from crds.values import HandleID, NodeName
from ipam.affinity import host_affinity
from ipam.backoff import Backoff
from ipam.blocks import Allocation, Block, attributes_of, parse_block, render_time
from ipam.bounded import AWAY, BoundedStore
from ipam.choice import ClaimBlock, UseBlock, choose
from ipam.claims import Claims
from ipam.clock import Clock
from ipam.fence import Fence, FenceTimes
from ipam.gc import AGE_S, uses
from ipam.holdings import Holdings, Ledger, OwnBlock, Standing
from ipam.journal import Journal, JournalError, Row, RowState
from ipam.recovery import adopt_kernel, adopt_rows, overlay, rebuild
from ipam.requests import AssignAnswer, Assigned, AssignRequest, Exhausted, IPAddress, IPNetwork, TryLater
from ipam.state import BlockState, NodeState
from ipam.upkeep import SWEEP_HANDLES, Upkeep, UpkeepTimes, remembered_blocks
from ipam.view import ClusterView
from ipam.world import World
from ipam.writer import Writer, shows

CLAIM_TRIES = 64
"""Blocks that an ADD may lose to other nodes in a row before it says "try again later"; `assign_s` usually ends it first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """All durations of a node's IPAM, in seconds."""

    fence: FenceTimes = field(default_factory=FenceTimes)
    upkeep: UpkeepTimes = field(default_factory=UpkeepTimes)
    api_s: float = 5.0
    """One API call. A healthy one takes milliseconds."""
    assign_s: float = 10.0
    """One ADD that has to claim a block; a runtime gives an ADD minutes, a pod's user does not."""
    gather_s: float = 0.05
    """Between a change and its write, so that a burst of pods shares one."""
    idle_s: float = 5.0
    """Between passes when nothing happens: cool-downs end, half-states heal."""


class NodeIPAM:
    """One node's addresses. `network` is the CNI network name (first part of handles); `on_change` is called without
    arguments when blocks(), exceptions() or allocations() may have changed."""

    def __init__(
        self,
        *,
        node: NodeName,
        store: Store,
        journal: Journal,
        clock: Clock,
        times: Times | None = None,
        rng: random.Random | None = None,
        network: str = "k8s-pod-network",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.node, self.journal, self._clock = node, journal, clock
        self._times = times or Times()
        self._network, self._on_change = network, on_change
        bounded = BoundedStore(store, timeout_s=self._times.api_s)
        self._world = World(node=node, journal=journal)
        self._holdings = Holdings(Ledger(journal))
        self.fence = Fence(node=node, store=bounded, journal=journal, clock=clock, times=self._times.fence)
        self._writer = Writer(
            node=node, store=bounded, holdings=self._holdings, journal=journal, clock=clock, is_live=self._is_live
        )
        claims = Claims(
            node=node,
            store=bounded,
            holdings=self._holdings,
            writer=self._writer,
            clock=clock,
            uid=lambda: self._world.view.node_uid,
            settings=lambda: self._world.settings,
        )
        self._upkeep = Upkeep(
            node=node,
            store=bounded,
            holdings=self._holdings,
            journal=journal,
            world=self._world,
            writer=self._writer,
            claims=claims,
            clock=clock,
            times=self._times.upkeep,
            free=self._free,
        )
        self._backoff = Backoff(rng=rng or random.Random())
        self._kernel: dict[IPAddress, str] | None = None
        self._recovered = False
        self._rebuilt = ""
        self._problem = ""
        self._busy: set[HandleID] = set()
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._dirty_since_s: float | None = None

    # -- what the agent tells ---------------------------------------------------------------------------------------

    def see(self, view: ClusterView) -> None:
        """The newest state of the agent's watches. Cheap; idempotent; call on each change."""
        self._world.see(view)
        if self._recovered:
            before = self.blocks()
            self._upkeep.notice()
            if self.blocks() != before:
                self._on_change()
        self._backoff.reset()
        self._wake.set()

    async def recover(self, *, kernel_addresses: Mapping[IPAddress, str]) -> None:
        """Start from what the kernel shows (address -> interface of pods' /32 and /128 routes), journal and API.

        Returns at once. If the journal must be rebuilt and no complete view was seen yet, `assign` answers TryLater
        until one has come.
        """
        self._kernel = dict(kernel_addresses)
        self._upkeep.kernel = frozenset(kernel_addresses)
        self._try_recover()

    def see_kernel(self, kernel_addresses: Mapping[IPAddress, str]) -> None:
        """The kernel's pod addresses after a later full listing: placeholders that it no longer has may go."""
        self._upkeep.kernel = frozenset(kernel_addresses)

    def _try_recover(self) -> None:
        world, ledger, now_s = self._world, self._holdings.ledger, self._clock.wall_s()
        if self._kernel is None or self._recovered or (self.journal.doubt and not world.is_synced):
            return
        me = host_affinity(self.node)
        wires = world.view.blocks.values() if world.is_synced else remembered_blocks(self.journal)
        ours = [wire for wire in wires if wire.spec.affinity == me and not wire.spec.deleted]
        parsed = [(wire, block) for wire in ours if (block := _readable(wire)) is not None]
        if self.journal.doubt:
            rebuild(ledger, [block for _, block in parsed], kernel=self._kernel, node=self.node, now_s=now_s)
            self._rebuilt = self.journal.doubt
            self.journal.set_meta(SWEEP_HANDLES, 1)
        else:
            for _, block in parsed:
                adopt_rows(block, ledger, node=self.node, now_s=now_s)
        adopt_kernel(
            ledger, kernel=self._kernel, pods=world.view.pods, node=self.node, network=self._network, now_s=now_s
        )
        for wire, block in parsed:
            mine = overlay(block, ledger, now_s=now_s)
            own = OwnBlock(mine, block, wire.metadata, Standing.CONFIRMED)
            own.affinity = world.affinity(block.cidr) if world.is_synced else self._remembered_affinity(block.cidr)
            if own.affinity is None:
                own.standing = Standing.UNSURE
            self._holdings.own[block.cidr] = own
            self._writer.remember(own, wire)
        self._upkeep.notice()
        self.journal.commit_now()
        self.journal.believe()
        self._recovered = True
        self._on_change()

    def _remembered_affinity(self, cidr: IPNetwork) -> BlockAffinity | None:
        known = self.journal.meta(f"affinity:{cidr}")
        return None if known is None else msgspec.convert(known, BlockAffinity)

    # -- what the CNI server asks -----------------------------------------------------------------------------------

    async def assign(self, request: AssignRequest) -> AssignAnswer:
        """Addresses for a handle, durable when this returns. Asking again for the same handle gives the same ones."""
        if why := self.closed():
            return TryLater(why)
        if held := self._holdings.ledger.of(request.handle):
            return Assigned(held)
        if request.handle in self._busy:
            return TryLater("another request for the same container is still being answered")
        self._busy.add(request.handle)
        try:
            async with asyncio.timeout(self._times.assign_s):
                return await self._assign(request)
        except JournalError as error:
            return TryLater(f"the address journal cannot be written: {error}")
        except AWAY as error:
            return TryLater(
                f"the blocks of node {self.node} have no free address and no other can be claimed now: {_text(error)}"
            )
        finally:
            self._busy.discard(request.handle)

    async def _assign(self, request: AssignRequest) -> AssignAnswer:
        for _ in range(CLAIM_TRIES):
            site = self._upkeep.site()
            uses_: list[UseBlock] = []
            for family in sorted(request.families):
                match choose(request, family=family, site=site):
                    case UseBlock() as use:
                        uses_.append(use)
                    case ClaimBlock():
                        await self._claim_for(request, family=family)
                        break
                    case Exhausted() as exhausted:
                        return exhausted
            else:
                answer = await self._take(request, uses_)
                if answer is not None:
                    return answer
            if why := self.closed():
                return TryLater(why)
        return TryLater("other nodes were quicker to claim every block that was tried")

    async def _claim_for(self, request: AssignRequest, *, family: int) -> None:
        """Get a block for a request, unless somebody who waited before it already has."""
        if any(own.standing is Standing.UNSURE for own in self._holdings.own.values()):
            await self._upkeep.heal()
        async with self._upkeep.claiming:
            choice = choose(request, family=family, site=self._upkeep.site())
            if isinstance(choice, ClaimBlock):
                await self._upkeep.claim_locked(choice.cidr)

    async def _take(self, request: AssignRequest, uses_: list[UseBlock]) -> AssignAnswer | None:
        """Take what was chosen; no await before the rows are in the journal's transaction. None: choose again."""
        now_s = self._clock.wall_s()
        attributes = attributes_of(
            {
                "node": self.node,
                "pod": request.pod,
                "namespace": request.namespace,
                "timestamp": render_time(now_s),
            }
        )
        rows: list[Row] = []
        owns: list[OwnBlock] = []
        for use in uses_:
            own = self._holdings.own[use.block.cidr]
            own.block = own.block.take(use.ordinal, handle=request.handle, attributes=attributes)
            own.unanswered.add(use.ordinal)
            owns.append(own)
            address = own.block.address(use.ordinal)
            rows.append(Row(address, request.handle, attributes, own.block.sequence, RowState.HELD, now_s))
        try:
            for row in rows:
                self._holdings.ledger.put(row)
            await self.journal.commit()
            if any(own.is_shared for own in owns) and not await self._write_first(owns, rows):
                return TryLater(
                    "an address could not be confirmed with the API server, which strictAffinity false needs"
                )
        except JournalError:
            for own, row in zip(owns, rows, strict=True):
                own.block = own.block.undo(own.block.ordinal(row.address))
                self._holdings.ledger.forget(row)
            raise
        except asyncio.CancelledError:
            self._free_all(rows)
            raise
        finally:
            for own, use in zip(owns, uses_, strict=True):
                own.unanswered.discard(use.ordinal)
        if any(self._holdings.ledger.held.get(row.address) != row for row in rows):
            await self.release(request.handle)
            return None
        self._changed()
        return Assigned(tuple(row.address for row in rows))

    async def _write_first(self, owns: list[OwnBlock], rows: list[Row]) -> bool:
        """Compare-and-swap before the answer. False: it failed and the rows are freed again."""
        try:
            for own in owns:
                if own.is_shared:
                    await self._writer.flush(own)
            still = [row for row in rows if self._holdings.ledger.held.get(row.address) == row]
            if all(
                own.seen is not None and shows(own.seen, row)
                for own, row in zip(owns, rows, strict=True)
                if row in still
            ):
                return True
        except AWAY as error:
            self._problem = _text(error)
        self._free_all(rows)
        await self.journal.commit()
        return False

    async def release(self, handle: HandleID) -> tuple[IPAddress, ...]:
        """Free all addresses of a handle, durably when this returns; () if it has none. Never waits for the API."""
        addresses = self._holdings.ledger.of(handle)
        if addresses:
            try:
                self._free_all([self._holdings.ledger.held[address] for address in addresses])
                await self.journal.commit()
            except JournalError as error:
                self._problem = f"the address journal cannot be written: {error}"
            self._changed()
        return addresses

    def _free_all(self, rows: list[Row]) -> None:
        for row in rows:
            if self._holdings.ledger.held.get(row.address) == row:
                self._free(row)
        self._changed()

    def _free(self, row: Row) -> None:
        """Block, ledger and journal's open transaction in one stretch."""
        now_s = self._clock.wall_s()
        own = self._holdings.covering(row.address)
        if own is not None:
            ordinal = own.block.ordinal(row.address)
            freed = own.block.release(ordinal, handle=row.handle, sequence=row.sequence, now_s=now_s)
            own.block = freed or own.block
        self._holdings.ledger.put(replace(row, state=RowState.FREED, at_s=now_s))

    def _changed(self) -> None:
        if self._dirty_since_s is None:
            self._dirty_since_s = self._clock.boot_s()
        self._wake.set()
        self._on_change()

    def closed(self) -> str:
        """Why no address may be given out now, in one sentence; "" if it may."""
        if not self._recovered:
            why = f"{self.journal.doubt}: it is rebuilt once" if self.journal.doubt else "it starts once"
            return f"node {self.node} has no address book yet; {why} the cluster's objects have been read"
        if self._world.is_synced and not self._world.view.node_uid:
            return f"there is no Node object {self.node}"
        return self.fence.closed()

    # -- what others read -------------------------------------------------------------------------------------------

    def blocks(self) -> frozenset[IPNetwork]:
        """Own confirmed blocks: what may be used and announced."""
        return self._holdings.confirmed()

    def exceptions(self) -> frozenset[IPAddress]:
        """Addresses in use here that no confirmed own block covers: to be announced as /32 or /128."""
        return self._holdings.exceptions()

    def allocations(self) -> Mapping[HandleID, tuple[IPAddress, ...]]:
        """Who holds what on this node, IPv4 before IPv6."""
        return self._holdings.ledger.by_handle()

    @property
    def is_recovered(self) -> bool:
        """Whether blocks(), exceptions() and allocations() are all there is: not before the first recovery, nor while
        a journal in doubt is rebuilt."""
        return self._recovered

    @property
    def is_flushed(self) -> bool:
        """The API shows everything that the journal holds."""
        return not self._holdings.ledger.freed and not any(own.is_dirty for own in self._holdings.own.values())

    async def flushed(self) -> None:
        """Wait until the API shows everything that the journal holds (for a drain, a shutdown, a test)."""
        while not (self._recovered and self.is_flushed):
            self._wake.set()
            await self._turned.wait()

    def state(self) -> NodeState:
        """What tortiectl and the metrics show."""
        lag_s = 0.0 if self._dirty_since_s is None else self._clock.boot_s() - self._dirty_since_s
        return NodeState(
            node=self.node,
            closed=self.closed(),
            blocks=tuple(
                BlockState(
                    cidr=str(cidr),
                    standing=own.standing.value,
                    size=own.block.size,
                    used=len(own.block.allocations()),
                    cooling=len(own.block.entries) - len(own.block.allocations()),
                    free=len(own.block.queue),
                    flushed=not own.is_dirty,
                )
                for cidr, own in self._holdings.own.items()
            ),
            addresses=len(self._holdings.ledger.held),
            exceptions=tuple(sorted(str(address) for address in self.exceptions())),
            unflushed_releases=len(self._holdings.ledger.freed),
            lag_s=lag_s,
            renewed_s_ago=self.fence.renewed_s_ago,
            generation=self.journal.generation(),
            rebuilt_because=self._rebuilt,
            problem=self._problem,
            writes=self._writer.counters.writes,
            conflicts=self._writer.counters.conflicts,
            reasserted=self._writer.counters.reasserted,
            sentences=tuple(self._writer.counters.sentences),
        )

    def _is_live(self, address: IPAddress, entry: Allocation) -> bool:
        """Whether the pod of an allocation still uses it; in doubt, yes."""
        row = self._holdings.ledger.held.get(address)
        if row is None or row.handle != entry.handle or not self._world.is_synced:
            return True
        attributes = dict(entry.attributes)
        if 0 <= self._clock.wall_s() - row.at_s < AGE_S or "pod" not in attributes:
            return True
        return uses(self._world.pods.get((attributes.get("namespace", ""), attributes["pod"])), address)

    # -- background -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything that happens behind the answers. Ends only when cancelled, or by a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_forever())
            group.create_task(self._work_forever())

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(await self.renew_once())

    async def renew_once(self) -> float:
        """One attempt to renew the Lease; seconds until the next is due."""
        if not self._world.view.node_uid:
            return 1.0
        try:
            before = self.fence.closed()
            wait_s = await self.fence.renew(node_uid=self._world.view.node_uid)
            if self.fence.older_copy and not self.journal.doubt and self._rebuilt == "":
                self.journal.doubt = f"the journal is an older copy ({self.fence.older_copy} generations are missing)"
                self._recovered = False
                self._holdings.own.clear()
            if before != self.fence.closed():
                self._wake.set()
        except (*AWAY, JournalError) as error:
            self._problem = _text(error)
            return min(1.0, self._times.fence.renew_s)
        return wait_s

    async def _work_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._times.idle_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await asyncio.sleep(self._times.gather_s)
            if not await self.turn():
                await self._pause(self._backoff.next_s())

    async def _pause(self, delay_s: float) -> None:
        """Wait out a failure; a view that comes meanwhile says that the API server is back."""
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            self._wake.set()

    async def turn(self) -> bool:
        """One background pass. False if the API server or the journal failed; what is left is done by the next one."""
        blocks = self.blocks()
        try:
            self._try_recover()
            if self._recovered and not self.fence.refusal:
                await self._upkeep.turn()
            self._remember_affinities()
            self.journal.commit_now()
            self._problem = ""
            self._backoff.reset()
            return True
        except (*AWAY, JournalError) as error:
            self._problem = _text(error)
            return False
        finally:
            if self.is_flushed:
                self._dirty_since_s = None
            if self.blocks() != blocks:
                self._on_change()
            self._turned.set()
            self._turned = asyncio.Event()

    def _remember_affinities(self) -> None:
        for cidr, own in self._holdings.own.items():
            if own.affinity is not None and own.standing is Standing.CONFIRMED:
                key, value = f"affinity:{cidr}", msgspec.to_builtins(own.affinity)
                if self.journal.meta(key) != value:
                    self.journal.set_meta(key, value)


def _readable(wire: IPAMBlock) -> Block | None:
    try:
        return parse_block(wire)
    except BadObject:
        return None


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
