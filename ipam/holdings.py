"""What a node holds, in memory: its blocks and the ledger of its pods' addresses.

Theory. `Ledger` is the journal's rows; `Holdings` are the blocks this node owns or owned, each as it should be
(`block`) and as the API last had it (`seen`). The two differ while the writer has work. A ledger address that no
confirmed own block covers is an exception: it is announced as /32 or /128 of its own.

Invariants: every HELD row inside an own block is an allocation of that block, with the same handle and sequence; the
ledger changes only together with the journal (both through `Ledger.put` and `drop`). No await in here, so what one
turn of the loop does is atomic. Called by node, claims, writer, recovery.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum

from crds.blocks import BlockAffinity
from crds.meta import ObjectMeta
from crds.values import HandleID
from ipam.blocks import Block
from ipam.journal import Journal, Row, RowState
from ipam.requests import IPAddress, IPNetwork


class Standing(Enum):
    """How sure this node is that a block is its own."""

    CONFIRMED = "confirmed"
    """Affinity confirmed by this Node (uid), block ours: it is used and announced."""
    UNSURE = "unsure"
    """Something does not fit (pending affinity, new Node uid, block missing): not used until that is cleared."""
    RETIRING = "retiring"
    """Being given back: nothing new is taken from it."""


@dataclass(slots=True, eq=False)
class OwnBlock:
    """One block of this node. `seen` None: the API has no such block (any more)."""

    block: Block
    seen: Block | None
    metadata: ObjectMeta
    standing: Standing
    affinity: BlockAffinity | None = None
    unanswered: set[int] = field(default_factory=set)
    dirty_since_s: float | None = None
    empty_since_s: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_dirty(self) -> bool:
        """The API does not show this block as it should be."""
        return self.seen is None or self.block != self.seen

    @property
    def is_shared(self) -> bool:
        """Others may take from it by compare-and-swap. spec.strictAffinity of the block says so in the API: it counts
        as shared from before that is written false until after it is written true."""
        return self.seen is None or not (self.seen.strict_affinity and self.block.strict_affinity)


class Ledger:
    """The journal's rows in memory: who holds which address, and the tombstones of those who did."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.held: dict[IPAddress, Row] = {}
        self.freed: dict[tuple[IPAddress, HandleID], Row] = {}
        self._by_handle: dict[HandleID, tuple[IPAddress, ...]] = {}
        self.changes = 0
        """Counts the changes of `held`, for those who remember what they made of it."""
        for row in journal.rows():
            self._set(row)

    def of(self, handle: HandleID) -> tuple[IPAddress, ...]:
        """The addresses a handle holds, IPv4 first."""
        return self._by_handle.get(handle, ())

    def by_handle(self) -> dict[HandleID, tuple[IPAddress, ...]]:
        """A copy of all holders and their addresses."""
        return dict(self._by_handle)

    def put(self, row: Row) -> None:
        """Set a row, here and in the journal's open transaction."""
        self._journal.put(row)
        self._set(row)

    def drop(self, row: Row) -> None:
        """Forget a row, here and in the journal's open transaction."""
        self._journal.drop(row)
        self.forget(row)

    def forget(self, row: Row) -> None:
        """Forget a row that the journal has lost by itself (a failed commit)."""
        if row.state is RowState.FREED:
            self.freed.pop((row.address, row.handle), None)
        else:
            self._unset_held(row.address)

    def _set(self, row: Row) -> None:
        key = (row.address, row.handle)
        if row.state is RowState.FREED:
            held = self.held.get(row.address)
            if held is not None and held.handle == row.handle:
                self._unset_held(row.address)
            self.freed[key] = row
            return
        self.freed.pop(key, None)
        self._unset_held(row.address)
        self.held[row.address] = row
        self.changes += 1
        addresses = {*self._by_handle.get(row.handle, ()), row.address}
        self._by_handle[row.handle] = tuple(sorted(addresses, key=lambda a: (a.version, int(a))))

    def _unset_held(self, address: IPAddress) -> None:
        old = self.held.pop(address, None)
        if old is None:
            return
        self.changes += 1
        rest = tuple(a for a in self._by_handle.get(old.handle, ()) if a != address)
        if rest:
            self._by_handle[old.handle] = rest
        else:
            self._by_handle.pop(old.handle, None)


class Holdings:
    """The blocks of this node, by CIDR, and its ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.own: dict[IPNetwork, OwnBlock] = {}
        self._exceptions: tuple[int, frozenset[IPNetwork], frozenset[IPAddress]] = (-1, frozenset(), frozenset())

    def usable(self) -> list[Block]:
        """Confirmed blocks, oldest claim first."""
        return [own.block for own in self.own.values() if own.standing is Standing.CONFIRMED]

    def confirmed(self) -> frozenset[IPNetwork]:
        """What may be announced."""
        return frozenset(cidr for cidr, own in self.own.items() if own.standing is Standing.CONFIRMED)

    def covering(self, address: IPAddress) -> OwnBlock | None:
        """The own block an address lies in, whatever its standing."""
        return next(
            (own for cidr, own in self.own.items() if cidr.version == address.version and address in cidr), None
        )

    def exceptions(self) -> frozenset[IPAddress]:
        """Addresses in use here that no confirmed own block covers."""
        confirmed, changes = self.confirmed(), self.ledger.changes
        if self._exceptions[:2] != (changes, confirmed):
            ranges = [(net.version, int(net.network_address), int(net.broadcast_address)) for net in confirmed]
            found = frozenset(
                address
                for address in self.ledger.held
                if not any(address.version == v and low <= int(address) <= high for v, low, high in ranges)
            )
            self._exceptions = (changes, confirmed, found)
        return self._exceptions[2]
