"""Write-behind: makes IPAMBlock and IPAMHandle objects show what the journal already holds.

Theory. Not a queue of changes: an own block is written as it should be now, with compare-and-swap on the version last
seen, so all that changed since the last write goes in one write, whatever it was. Order, as Calico's: handles that gain
an address are written before the block, handles that lost one after it. A crash in between leaves a handle that counts
too much, never an address without a handle; the rows and tombstones of the journal bring the writer back to the same
place, and what a lost journal leaves behind is swept (leaks.py).

A conflict means that somebody else wrote the block: it is read again and merged (merge.py), then written again. A
tombstone goes when the API block no longer shows that allocation and the handle object is right.

Invariants: one write of a block at a time (its lock); what is in flight is a snapshot, so ADDs go on meanwhile.
Called by node (background pass, and before the answer where a block is shared).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import msgspec

from crds.blocks import IPAMBlock, IPAMHandle, IPAMHandleSpec
from crds.errors import AlreadyExists, Conflict, NotFound
from crds.meta import ObjectMeta
from crds.names import block_name, handle_name
from crds.values import HandleID, NodeName
from ipam.affinity import host_affinity
from ipam.blocks import Allocation, Block, parse_block, render_block
from ipam.bounded import BoundedStore
from ipam.clock import Clock
from ipam.holdings import Holdings, OwnBlock, Standing
from ipam.journal import Journal, Row, RowState
from ipam.merge import Merged, merge
from ipam.requests import IPAddress, IPNetwork

MAX_TRIES = 8
"""Conflicts in a row after which a write waits for the next pass: somebody writes faster than we read."""
HANDLES_AT_ONCE = 8
DOUBT_S = 3.0
"""Whoever frees an address under a pod deletes its handle next: that is looked at again after so long."""


@dataclass(slots=True)
class Counters:
    """What the writer met, for metrics; `sentences` are the newest things worth a log line."""

    writes: int = 0
    conflicts: int = 0
    reasserted: int = 0
    sentences: list[str] = field(default_factory=list)


class Writer:
    """Writes the blocks and handles of one node."""

    def __init__(
        self,
        *,
        node: NodeName,
        store: BoundedStore,
        holdings: Holdings,
        journal: Journal,
        clock: Clock,
        is_live: Callable[[IPAddress, Allocation], bool],
    ) -> None:
        self._affinity = host_affinity(node)
        self._store, self._holdings, self._journal, self._clock = store, holdings, journal, clock
        self._is_live = is_live
        self._handles: dict[HandleID, IPAMHandle] = {}
        self._doubted: dict[HandleID, float] = {}
        """Handles that somebody may have taken away behind our back, and since when (boot clock)."""
        self._slots = asyncio.Semaphore(HANDLES_AT_ONCE)
        self.counters = Counters()

    # -- blocks -----------------------------------------------------------------------------------------------------

    async def flush(self, own: OwnBlock) -> None:
        """Bring one block's object up to date; returns when it is, or when the block turned out not to be ours."""
        async with own.lock:
            for _ in range(MAX_TRIES):
                if own.seen is None or own.standing is Standing.UNSURE:
                    return
                if not own.is_dirty:
                    break
                await self._write(own)
            await self._settle(own.block.cidr, own.seen)

    async def _write(self, own: OwnBlock) -> None:
        snapshot, seen = own.block, own.seen
        await self._put_handles(_handles_of(snapshot) - (_handles_of(seen) if seen else set()))
        try:
            written = await self._store.replace(render_block(snapshot, metadata=own.metadata))
        except Conflict:
            self.counters.conflicts += 1
            await self.read_again(own)
            return
        except NotFound:
            own.seen, own.standing = None, Standing.UNSURE
            return
        self.counters.writes += 1
        self.remember(own, written)
        if not own.is_dirty:
            own.dirty_since_s = None

    async def read_again(self, own: OwnBlock) -> None:
        """Fetch the block from the API server and take in what somebody else wrote."""
        try:
            wire = await self._store.get(IPAMBlock, block_name(own.block.cidr))
        except NotFound:
            own.seen, own.standing = None, Standing.UNSURE
            return
        self.absorb(own, wire)

    def absorb(self, own: OwnBlock, wire: IPAMBlock) -> Merged | None:
        """Merge a newer version of the object; None if it is no longer ours."""
        theirs = parse_block(wire)
        if theirs.affinity != self._affinity or wire.spec.deleted:
            own.standing = Standing.UNSURE
            return None
        merged = merge(
            own.block,
            theirs,
            seen=own.seen or theirs,
            is_live=lambda ordinal, entry: self._is_live(own.block.address(ordinal), entry),
            unanswered=own.unanswered,
        )
        is_news = replace(merged.block, sequence=theirs.sequence, strict_affinity=theirs.strict_affinity) != theirs
        own.block = merged.block if is_news else replace(theirs, strict_affinity=own.block.strict_affinity)
        self.remember(own, wire)
        if merged.reasserted:
            self.doubt(_handles_of(merged.block) - _handles_of(theirs))
        now_s = self._clock.wall_s()
        for ordinal, entry in merged.released:
            row = self._holdings.ledger.held.get(own.block.address(ordinal))
            if row is not None and row.handle == entry.handle:
                self._holdings.ledger.put(replace(row, state=RowState.FREED, at_s=now_s))
        for ordinal, entry in merged.withdrawn:
            row = self._holdings.ledger.held.get(own.block.address(ordinal))
            if row is not None and row.handle == entry.handle:
                self._holdings.ledger.drop(row)
        self.counters.reasserted += len(merged.reasserted)
        self.counters.sentences = [*self.counters.sentences, *merged.reasserted][-20:]
        return merged

    def remember(self, own: OwnBlock, wire: IPAMBlock) -> None:
        """The API holds this version: in memory, and in the journal for a start without API."""
        own.seen, own.metadata = parse_block(wire), wire.metadata
        self._journal.set_meta(f"block:{own.block.cidr}", msgspec.to_builtins(wire, str_keys=True))

    # -- releases ---------------------------------------------------------------------------------------------------

    async def _settle(self, cidr: IPNetwork, seen: Block | None) -> None:
        """Finish the releases of a block that the API now shows: handles, then tombstones."""
        done = [row for row in self._freed_in(cidr) if seen is None or not shows(seen, row)]
        if not done:
            return
        name = str(cidr)
        await self._for_each({row.handle for row in done}, lambda handle: self._drop_handle(handle, name.__eq__))
        for row in done:
            if self._holdings.ledger.freed.get((row.address, row.handle)) is row:
                self._holdings.ledger.drop(row)

    async def settle_elsewhere(self, row: Row, cidr: IPNetwork | None) -> None:
        """Finish the release of an address in a block that is not ours (any more): compare-and-swap there."""
        for _ in range(MAX_TRIES):
            if cidr is None:
                break
            try:
                wire = await self._store.get(IPAMBlock, block_name(cidr))
                block = parse_block(wire)
                freed = block.release(
                    block.ordinal(row.address), handle=row.handle, sequence=row.sequence, now_s=self._clock.wall_s()
                )
                if freed is not None:
                    await self._store.replace(render_block(freed, metadata=wire.metadata))
                break
            except Conflict:
                continue
            except NotFound:
                break
        else:
            return
        await self._drop_handle(row.handle, lambda name: _contains(name, row.address))
        if self._holdings.ledger.freed.get((row.address, row.handle)) is row:
            self._holdings.ledger.drop(row)

    def _freed_in(self, cidr: IPNetwork) -> list[Row]:
        rows = self._holdings.ledger.freed.values()
        return [row for row in rows if row.address.version == cidr.version and row.address in cidr]

    # -- handles ----------------------------------------------------------------------------------------------------

    def _counts(self, handle: HandleID) -> dict[str, int]:
        """How many addresses a handle has in each own block."""
        covers = (self._holdings.covering(address) for address in self._holdings.ledger.of(handle))
        return dict(Counter(str(own.block.cidr) for own in covers if own is not None))

    async def _put_handles(self, handles: set[HandleID]) -> None:
        await self._for_each((h for h in handles if h and self._holdings.ledger.of(h)), self._put_handle)

    async def _put_handle(self, handle: HandleID) -> None:
        for _ in range(MAX_TRIES):
            counts = self._counts(handle)
            known = self._handles.get(handle)
            try:
                if known is None:
                    spec = IPAMHandleSpec(handle_id=handle, block=counts)
                    made = IPAMHandle(metadata=ObjectMeta(name=handle_name(handle)), spec=spec)
                    self._handles[handle] = await self._store.create(made)
                    return
                if {**known.spec.block, **counts} == known.spec.block and not known.spec.deleted:
                    return
                self._handles[handle] = await self._replace_handle(known, {**known.spec.block, **counts})
                return
            except AlreadyExists:
                await self._read_handle(handle)
            except (Conflict, NotFound):
                self._handles.pop(handle, None)

    def doubt(self, handles: Iterable[HandleID]) -> None:
        """Somebody wrote about these addresses: what we remember of their handles counts no more."""
        for handle in handles:
            self._handles.pop(handle, None)
            self._doubted[handle] = self._clock.boot_s()

    async def recheck(self) -> None:
        """Read the doubted handles once more, and write those that are gone."""
        due = {handle for handle, at_s in self._doubted.items() if self._clock.boot_s() >= at_s + DOUBT_S}
        for handle in due:
            self._handles.pop(handle, None)
        await self._put_handles(due)
        for handle in due:
            self._doubted.pop(handle, None)

    async def _drop_handle(self, handle: HandleID, is_done: Callable[[str], bool]) -> None:
        """Take the blocks that `is_done` names out of a handle's count; delete it when none is left."""
        for _ in range(MAX_TRIES):
            known = self._handles.get(handle) or await self._read_handle(handle)
            if known is None:
                return
            rest = {name: n for name, n in known.spec.block.items() if not is_done(name)} | self._counts(handle)
            try:
                if not rest:
                    await self._store.delete(known)
                    self._handles.pop(handle, None)
                elif rest != known.spec.block:
                    self._handles[handle] = await self._replace_handle(known, rest)
                return
            except (Conflict, NotFound):
                self._handles.pop(handle, None)

    async def _read_handle(self, handle: HandleID) -> IPAMHandle | None:
        try:
            self._handles[handle] = await self._store.get(IPAMHandle, handle_name(handle))
        except NotFound:
            self._handles.pop(handle, None)
        return self._handles.get(handle)

    async def _replace_handle(self, known: IPAMHandle, block: dict[str, int]) -> IPAMHandle:
        spec = msgspec.structs.replace(known.spec, block=block, deleted=False)
        return await self._store.replace(msgspec.structs.replace(known, spec=spec))

    async def sweep_handle(self, handle: IPAMHandle) -> None:
        """Delete a handle object that counts nothing anybody has; the caller has checked that twice."""
        try:
            await self._store.delete(handle)
        except (Conflict, NotFound):
            return
        self._handles.pop(HandleID(handle.spec.handle_id), None)

    async def _for_each(self, handles: Iterable[HandleID], step: Callable[[HandleID], Awaitable[None]]) -> None:
        async def one(handle: HandleID) -> None:
            async with self._slots:
                await step(handle)

        results = await asyncio.gather(*(one(handle) for handle in handles), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _handles_of(block: Block) -> set[HandleID]:
    return {entry.handle for entry in block.allocations().values()}


def _contains(name: str, address: IPAddress) -> bool:
    try:
        net = ip_network(name)
    except ValueError:
        return True
    return net.version == address.version and address in net


def shows(seen: Block, row: Row) -> bool:
    entry = seen.entries.get(seen.ordinal(row.address))
    return isinstance(entry, Allocation) and (entry.handle, entry.sequence) == (row.handle, row.sequence)
