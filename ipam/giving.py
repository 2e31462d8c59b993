"""Giving and taking back addresses: the part of an ADD and a DEL that changes holdings, journal and block together.

Theory. Choosing and taking is one stretch of code without an await, so requests need no lock among themselves; the rows
are in the journal's open transaction before anything is awaited, and the answer waits for the commit. When the commit
fails, what was taken is undone: nobody was told. When the request is given up, it is freed like any other.

A block that others may take from (`is_shared`) is written by compare-and-swap before the answer; if that fails, or
another was quicker, the rows are freed and the choice is made again. Called by NodeIPAM only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from crds.values import NodeName
from ipam.blocks import attributes_of, render_time
from ipam.bounded import AWAY
from ipam.choice import ClaimBlock, UseBlock, choose
from ipam.clock import Clock
from ipam.holdings import Holdings, OwnBlock, Standing
from ipam.journal import Journal, JournalError, Row, RowState
from ipam.requests import AssignAnswer, Assigned, AssignRequest, Exhausted, TryLater
from ipam.upkeep import Upkeep
from ipam.writer import Writer, shows

CLAIM_TRIES = 64
"""Blocks that an ADD may lose to other nodes in a row before it says "try again later"; its time usually ends first."""


class Giver:
    """Gives one node's addresses. `closed` says why none may be given now; `changed` is told of each change."""

    def __init__(
        self,
        *,
        node: NodeName,
        holdings: Holdings,
        journal: Journal,
        writer: Writer,
        upkeep: Upkeep,
        clock: Clock,
        closed: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        self.node, self._holdings, self._journal, self._writer = node, holdings, journal, writer
        self._upkeep, self._clock, self._closed, self._changed = upkeep, clock, closed, changed

    async def give(self, request: AssignRequest) -> AssignAnswer:
        """All addresses of a request, or none. JournalError and API errors pass through."""
        for _ in range(CLAIM_TRIES):
            site = self._upkeep.site()
            chosen: list[UseBlock] = []
            for family in sorted(request.families):
                match choose(request, family=family, site=site):
                    case UseBlock() as use:
                        chosen.append(use)
                    case ClaimBlock():
                        await self._claim_for(request, family=family)
                        break
                    case Exhausted() as exhausted:
                        return exhausted
            else:
                answer = await self._take(request, chosen)
                if answer is not None:
                    return answer
            if why := self._closed():
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

    async def _take(self, request: AssignRequest, chosen: list[UseBlock]) -> AssignAnswer | None:
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
        for use in chosen:
            own = self._holdings.own[use.block.cidr]
            own.block = own.block.take(use.ordinal, handle=request.handle, attributes=attributes)
            own.unanswered.add(use.ordinal)
            owns.append(own)
            address = own.block.address(use.ordinal)
            rows.append(Row(address, request.handle, attributes, own.block.sequence, RowState.HELD, now_s))
        try:
            for row in rows:
                self._holdings.ledger.put(row)
            await self._journal.commit_beside()
            if any(own.is_shared for own in owns) and (failure := await self._write_first(owns, rows)):
                return TryLater(f"the API server must confirm each address while strictAffinity is false: {failure}")
        except JournalError:
            for own, row in zip(owns, rows, strict=True):
                own.block = own.block.undo(own.block.ordinal(row.address))
                self._holdings.ledger.forget(row)
            raise
        except asyncio.CancelledError:
            self.free(rows)
            raise
        finally:
            for own, use in zip(owns, chosen, strict=True):
                own.unanswered.discard(use.ordinal)
        if not all(self._holds(row) for row in rows):
            self.free(rows)
            await self._journal.commit()
            return None
        self._changed()
        return Assigned(tuple(row.address for row in rows))

    async def _write_first(self, owns: list[OwnBlock], rows: list[Row]) -> str:
        """Compare-and-swap before the answer. Not "": it failed, and the rows are freed again."""
        failure = "the block is written by others all the time"
        try:
            for own in owns:
                if own.is_shared:
                    await self._writer.flush(own)
            kept = [(own, row) for own, row in zip(owns, rows, strict=True) if self._holds(row)]
            if all(own.seen is not None and shows(own.seen, row) for own, row in kept):
                return ""
        except AWAY as error:
            failure = str(error) or type(error).__name__
        self.free(rows)
        await self._journal.commit()
        return failure

    def _holds(self, row: Row) -> bool:
        return self._holdings.ledger.held.get(row.address) == row

    def free(self, rows: list[Row]) -> None:
        """Free those of the rows that still stand; the caller commits."""
        for row in rows:
            if self._holds(row):
                self.free_one(row)
        self._changed()

    def free_one(self, row: Row) -> None:
        """Block, ledger and journal's open transaction in one stretch."""
        now_s = self._clock.wall_s()
        own = self._holdings.covering(row.address)
        if own is not None:
            ordinal = own.block.ordinal(row.address)
            freed = own.block.release(ordinal, handle=row.handle, sequence=row.sequence, now_s=now_s)
            own.block = freed or own.block
        self._holdings.ledger.put(replace(row, state=RowState.FREED, at_s=now_s))
