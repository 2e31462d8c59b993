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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from crds.store import Store
from crds.values import HandleID, NodeName
from ipam.backoff import Backoff
from ipam.blocks import Allocation
from ipam.bounded import AWAY, BoundedStore
from ipam.claims import Claims
from ipam.clock import Clock
from ipam.fence import Fence, FenceTimes
from ipam.giving import Giver
from ipam.holdings import Holdings, Ledger
from ipam.journal import Journal, JournalError, Row
from ipam.leaks import AGE_S, uses
from ipam.loops import renew_forever, work_forever
from ipam.requests import AssignAnswer, Assigned, AssignRequest, IPAddress, IPNetwork, TryLater
from ipam.start import KernelAddresses, Start, remember_affinities
from ipam.state import NodeState, block_states
from ipam.upkeep import Upkeep, UpkeepTimes
from ipam.view import ClusterView
from ipam.world import World
from ipam.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """All durations of a node's IPAM, in seconds."""

    fence: FenceTimes = field(default_factory=FenceTimes)
    upkeep: UpkeepTimes = field(default_factory=UpkeepTimes)
    api_s: float = 5.0
    """One API call. A healthy one takes milliseconds."""
    assign_s: float = 10.0
    """One ADD that has to claim a block; a runtime gives an ADD minutes, a pod's user does not."""
    gather_s: float = 0.2
    """Between a change and its write, so that pods that start one after the other share one: a block is ten kilobytes.
    Nobody reads an address there first (pods' notes are quicker), and the journal keeps it."""
    burst_s: float = 0.3
    """How long a write waits for pods that are being started; they need the processor more."""
    idle_s: float = 5.0
    """Between passes when nothing happens: cool-downs end, half-states heal."""


async def _at_once(_at_most_s: float) -> None:
    """Where nobody says when it is quiet."""


class NodeIPAM:
    """One node's addresses. `network` is the CNI network name (first part of handles); `on_change` is called without
    arguments when blocks(), exceptions(), allocations() or closed() may have changed. `until_quiet` waits while pods
    wait for answers, at most so many seconds."""

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
        until_quiet: Callable[[float], Awaitable[None]] = _at_once,
    ) -> None:
        self.node, self.journal, self._clock = node, journal, clock
        self._times = times or Times()
        self._on_change, self._until_quiet = on_change, until_quiet
        self._rng = rng or random.Random()
        self._kernel: KernelAddresses | None = None
        self._recovered = False
        self._rebuilt = ""
        self._problem = ""
        self._busy: set[HandleID] = set()
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._dirty_since_s: float | None = None
        self._assemble(store, network=network)

    def _assemble(self, store: Store, *, network: str) -> None:
        """Make the parts and tell each of the others it works with."""
        bounded = BoundedStore(store, timeout_s=self._times.api_s)
        self._world = World(node=self.node, journal=self.journal)
        self._holdings = Holdings(Ledger(self.journal))
        self.fence = Fence(
            node=self.node, store=bounded, journal=self.journal, clock=self._clock, times=self._times.fence
        )
        self._writer = Writer(
            node=self.node,
            store=bounded,
            holdings=self._holdings,
            journal=self.journal,
            clock=self._clock,
            is_live=self._is_live,
        )
        claims = Claims(
            node=self.node,
            store=bounded,
            holdings=self._holdings,
            writer=self._writer,
            clock=self._clock,
            uid=lambda: self._world.view.node_uid,
            settings=lambda: self._world.settings,
        )
        self._upkeep = Upkeep(
            node=self.node,
            store=bounded,
            holdings=self._holdings,
            journal=self.journal,
            world=self._world,
            writer=self._writer,
            claims=claims,
            clock=self._clock,
            times=self._times.upkeep,
            free=self._free,
        )
        self._giver = Giver(
            node=self.node,
            holdings=self._holdings,
            journal=self.journal,
            writer=self._writer,
            upkeep=self._upkeep,
            clock=self._clock,
            closed=self.closed,
            changed=self._changed,
        )
        self._start = Start(
            node=self.node,
            network=network,
            world=self._world,
            holdings=self._holdings,
            journal=self.journal,
            writer=self._writer,
            clock=self._clock,
        )

    # -- what the agent tells ---------------------------------------------------------------------------------------

    def see(self, view: ClusterView) -> None:
        """The newest state of the agent's watches. Cheap; idempotent; call on each change."""
        had_node = self._world.view.node_uid
        self._world.see(view)
        if self._world.view.node_uid != had_node:
            self._renew_now.set()
        if self._recovered:
            before = self.blocks()
            self._upkeep.notice()
            if self.blocks() != before:
                self._on_change()
        self._wake.set()

    async def recover(
        self, *, kernel_addresses: Mapping[IPAddress, str], kernel_handles: Mapping[IPAddress, HandleID] | None = None
    ) -> None:
        """Start from what the kernel shows (address -> interface of pods' /32 and /128 routes), journal and API.

        `kernel_handles`: whose these are, where the interface itself says so. Returns at once. If the journal must be
        rebuilt and no complete view was seen yet, `assign` answers TryLater until one has come.
        """
        self._kernel = KernelAddresses(interfaces=dict(kernel_addresses), handles=dict(kernel_handles or {}))
        self._upkeep.kernel = frozenset(kernel_addresses)
        self._try_recover()

    def see_kernel(self, kernel_addresses: Mapping[IPAddress, str]) -> None:
        """The kernel's pod addresses after a later full listing: placeholders that it no longer has may go."""
        self._upkeep.kernel = frozenset(kernel_addresses)

    def _try_recover(self) -> None:
        if self._kernel is None or self._recovered or not self._start.can_begin():
            return
        self._rebuilt = self._start.begin(self._kernel) or self._rebuilt
        self._upkeep.notice()
        self._recovered = True
        self._on_change()

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
                return await self._giver.give(request)
        except JournalError as error:
            return TryLater(f"the address journal cannot be written: {error}")
        except AWAY as error:
            return TryLater(
                f"the blocks of node {self.node} have no free address and no other can be claimed now: {_text(error)}"
            )
        finally:
            self._busy.discard(request.handle)

    async def release(self, handle: HandleID) -> tuple[IPAddress, ...]:
        """Free all addresses of a handle, durably when this returns; () if it has none. Never waits for the API."""
        addresses = self._holdings.ledger.of(handle)
        if addresses:
            try:
                self._giver.free([self._holdings.ledger.held[address] for address in addresses])
                await self.journal.commit()
            except JournalError as error:
                self._problem = f"the address journal cannot be written: {error}"
            self._changed()
        return addresses

    def _free(self, row: Row) -> None:
        self._giver.free_one(row)

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
        return frozenset() if self._is_somebody_else() else self._holdings.confirmed()

    def exceptions(self) -> frozenset[IPAddress]:
        """Addresses in use here that no confirmed own block covers: to be announced as /32 or /128."""
        return frozenset() if self._is_somebody_else() else self._holdings.exceptions()

    def _is_somebody_else(self) -> bool:
        """Another machine is this node: it has the Lease, and this one never had it. While that is only supposed, an
        agent that finds pods here goes on for them; a clone has none."""
        fence = self.fence
        if not fence.refusal or fence.has_held:
            return False
        return fence.rival_moved or not (self._kernel and self._kernel.interfaces)

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
        ledger, counters = self._holdings.ledger, self._writer.counters
        return NodeState(
            node=self.node,
            closed=self.closed(),
            blocks=() if self._is_somebody_else() else block_states(self._holdings),
            addresses=len(ledger.held),
            exceptions=tuple(sorted(str(address) for address in self.exceptions())),
            unflushed_releases=len(ledger.freed),
            lag_s=0.0 if self._dirty_since_s is None else self._clock.boot_s() - self._dirty_since_s,
            renewed_s_ago=self.fence.renewed_s_ago,
            generation=self.journal.generation(),
            rebuilt_because=self._rebuilt,
            problem=self._problem,
            writes=counters.writes,
            conflicts=counters.conflicts,
            reasserted=counters.reasserted,
            sentences=tuple(counters.sentences),
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
        times, backoff = self._times, Backoff(rng=self._rng)
        work = work_forever(self.turn, wake=self._wake, gather=self._gather, idle_s=times.idle_s, backoff=backoff)
        async with asyncio.TaskGroup() as group:
            group.create_task(renew_forever(self.renew_once, at_once=self._renew_now, rng=self._rng))
            group.create_task(work)

    async def _gather(self) -> None:
        """Let a burst of pods share a write; but not when the next of them may find no address."""
        if not self._upkeep.is_short():
            await asyncio.sleep(self._times.gather_s)
            await self._until_quiet(self._times.burst_s)

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
                self._on_change()  # whoever tells people about it must look
        except (*AWAY, JournalError) as error:
            self._problem = _text(error)
            return min(1.0, self._times.fence.renew_s)
        return wait_s

    async def turn(self) -> bool:
        """One background pass. False if the API server or the journal failed; what is left is done by the next one."""
        blocks = self.blocks()
        try:
            self._try_recover()
            if self._recovered and self.fence.has_held and not self.fence.refusal:
                await self._upkeep.turn()
            remember_affinities(self._holdings, self.journal)
            self.journal.commit_now()
            self._problem = ""
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


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
