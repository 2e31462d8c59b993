"""Claiming blocks, giving them back, and healing every half-state in between.

Theory. A claim is three compare-and-swap writes: BlockAffinity `pending`, IPAMBlock with our affinity, BlockAffinity
`confirmed`. The block's create decides a race: one node's create succeeds, the other finds it there and takes its own
affinity away again. Giving back runs backwards: `pendingDeletion`, delete the (empty, flushed) block at exactly the
version we know, delete the affinity. A crash after any write leaves a state that `diagnose` (pure) knows a way out of,
and that way is `claim` or `give_back` again, which both start from whatever is there.

Invariants: a block is used only while CONFIRMED here; it becomes UNSURE the moment anything contradicts that, and
CONFIRMED again only after a live read and a successful write. An affinity is signed with the Node's uid.
Called by node, one claim or release at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from crds.blocks import BlockAffinity, IPAMBlock
from crds.errors import AlreadyExists, Conflict, NotFound
from crds.meta import ObjectMeta
from crds.names import affinity_name, block_name
from crds.values import NodeName
from ipam.affinity import State, host_affinity, is_confirmed, is_of, make_affinity, state_of, with_state
from ipam.blocks import Block, empty_block, parse_block, render_block, render_time
from ipam.bounded import BoundedStore
from ipam.choice import Settings
from ipam.clock import Clock
from ipam.holdings import Holdings, OwnBlock, Standing
from ipam.recovery import adopt_rows, overlay
from ipam.requests import IPNetwork
from ipam.writer import MAX_TRIES, Writer


class Remedy(Enum):
    """What a node has to do about one block."""

    NOTHING = "nothing"
    CLAIM = "claim"
    """Run the claim again from where it stands: it is idempotent."""
    GIVE_BACK = "give back"
    DROP_AFFINITY = "drop affinity"
    """Our affinity lost: the block is another's or nobody's."""
    FORGET = "forget"
    """Nothing in the API says that it is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one block. `in_use`: pods of this node use it. `wanted`: a pool still offers it."""

    affinity: BlockAffinity | None
    block: IPAMBlock | None
    in_use: bool
    wanted: bool


def diagnose(facts: Facts, *, node: NodeName, uid: str) -> Remedy:  # noqa: PLR0911  (a table, row by row)
    """The way out of any combination of affinity and block."""
    mine = facts.affinity is not None and is_of(facts.affinity, node)
    owner = facts.block.spec.affinity or "" if facts.block is not None and not facts.block.spec.deleted else None
    if owner not in (None, "", host_affinity(node)):
        return Remedy.DROP_AFFINITY if mine else Remedy.FORGET
    if owner != host_affinity(node):
        if facts.in_use and facts.wanted:
            return Remedy.CLAIM
        going = facts.affinity is not None and state_of(facts.affinity) is State.PENDING_DELETION
        if mine and facts.wanted and not going and owner is None:
            return Remedy.CLAIM
        return Remedy.DROP_AFFINITY if mine else Remedy.FORGET
    if is_confirmed(facts.affinity, node=node, uid=uid):
        return Remedy.NOTHING
    if facts.in_use:
        return Remedy.CLAIM
    if mine and facts.affinity is not None and state_of(facts.affinity) is State.PENDING_DELETION:
        return Remedy.GIVE_BACK
    return Remedy.CLAIM if facts.wanted else Remedy.GIVE_BACK


@dataclass(frozen=True, slots=True)
class Claimed:
    """The block is ours, confirmed."""

    own: OwnBlock


@dataclass(frozen=True, slots=True)
class Taken:
    """Somebody else has it."""

    by: str


class Claims:
    """The claim and release writes of one node. `uid` and `settings` are asked anew each time."""

    def __init__(
        self,
        *,
        node: NodeName,
        store: BoundedStore,
        holdings: Holdings,
        writer: Writer,
        clock: Clock,
        uid: Callable[[], str],
        settings: Callable[[], Settings],
    ) -> None:
        self._node, self._store, self._holdings, self._writer, self._clock = node, store, holdings, writer, clock
        self._uid, self._settings = uid, settings

    async def read(self, cidr: IPNetwork) -> tuple[BlockAffinity | None, IPAMBlock | None]:
        """Both objects of a block, live."""
        return await self._read_affinity(cidr), await self._read_block(cidr)

    async def claim(self, cidr: IPNetwork) -> Claimed | Taken:
        """Claim a block, or finish or repair a claim. API errors other than conflicts pass through."""
        for _ in range(MAX_TRIES):
            try:
                affinity = await self._pend(cidr)
                block = await self._own_block(cidr)
                if isinstance(block, Taken):
                    await self._delete(affinity)
                    self._holdings.own.pop(cidr, None)
                    return block
                if not is_confirmed(affinity, node=self._node, uid=self._uid()):
                    affinity = await self._store.replace(with_state(affinity, State.CONFIRMED, uid=self._uid()))
                return Claimed(self._adopt(cidr, block, affinity))
            except (Conflict, NotFound, AlreadyExists):
                continue
        return Taken("somebody who writes it faster than it can be read")

    async def _pend(self, cidr: IPNetwork) -> BlockAffinity:
        """Our affinity, at least pending; a confirmed one stays so."""
        affinity = await self._read_affinity(cidr)
        uid = self._uid()
        if affinity is None:
            return await self._store.create(make_affinity(self._node, cidr, state=State.PENDING, uid=uid))
        if affinity.spec.deleted:
            await self._store.delete(affinity)
            raise Conflict("a deletion that somebody began was finished")
        if is_confirmed(affinity, node=self._node, uid=uid) or state_of(affinity) is State.PENDING:
            return affinity
        return await self._store.replace(with_state(affinity, State.PENDING, uid=uid))

    async def _own_block(self, cidr: IPNetwork) -> IPAMBlock | Taken:
        """The block with our affinity: found, created, or taken over if it is nobody's."""
        wire = await self._read_block(cidr)
        me = host_affinity(self._node)
        if wire is None:
            fresh = self._fresh(cidr)
            # Whoever took the block from under its pods may have taken their handles as well.
            self._writer.doubt({entry.handle for entry in fresh.allocations().values()})
            return await self._store.create(render_block(fresh, metadata=ObjectMeta(name=block_name(cidr))))
        if wire.spec.deleted:
            await self._store.delete(wire)
            raise Conflict("a deletion that somebody began was finished")
        if wire.spec.affinity == me:
            return wire
        if wire.spec.affinity:
            return Taken(wire.spec.affinity)
        block = parse_block(wire)
        stamp = render_time(self._clock.wall_s())
        ours = replace(block, affinity=me, claim_time=stamp, sequence=block.sequence + 1)
        return await self._store.replace(render_block(ours, metadata=wire.metadata))

    def _fresh(self, cidr: IPNetwork) -> Block:
        """The block to create: empty, or with what is in use here if it was taken from under us."""
        now_s = self._clock.wall_s()
        block = empty_block(
            cidr,
            affinity=host_affinity(self._node),
            claim_time=render_time(now_s),
            sequence=int(now_s * 1e9),
            strict_affinity=self._settings().strict,
        )
        return overlay(block, self._holdings.ledger, now_s=now_s)

    def _adopt(self, cidr: IPNetwork, wire: IPAMBlock, affinity: BlockAffinity) -> OwnBlock:
        own = self._holdings.own.get(cidr)
        if own is None:
            theirs = parse_block(wire)
            adopt_rows(theirs, self._holdings.ledger, node=self._node, now_s=self._clock.wall_s())
            mine = overlay(theirs, self._holdings.ledger, now_s=self._clock.wall_s())
            own = OwnBlock(mine, theirs, wire.metadata, Standing.CONFIRMED)
            self._holdings.own[cidr] = own
            self._writer.remember(own, wire)
        else:
            self._writer.absorb(own, wire)
        own.affinity, own.standing = affinity, Standing.CONFIRMED
        return own

    async def give_back(self, cidr: IPNetwork) -> Remedy:
        """Release an empty block. NOTHING: it is gone; CLAIM: it is not empty after all, or the API knows better."""
        own = self._holdings.own.get(cidr)
        if own is not None:
            own.standing = Standing.RETIRING
        try:
            affinity, wire = await self.read(cidr)
            if affinity is not None and state_of(affinity) is not State.PENDING_DELETION:
                affinity = await self._store.replace(with_state(affinity, State.PENDING_DELETION, uid=self._uid()))
            if wire is not None and wire.spec.affinity == host_affinity(self._node):
                if not parse_block(wire).is_empty or (own is not None and not own.block.is_empty):
                    return Remedy.CLAIM
                await self._store.delete(wire)
            if affinity is not None:
                await self._store.delete(affinity)
        except NotFound:
            pass
        except Conflict:
            return Remedy.CLAIM
        self._holdings.own.pop(cidr, None)
        return Remedy.NOTHING

    async def drop_affinity(self, cidr: IPNetwork) -> None:
        """Take our affinity away from a block that is not ours."""
        affinity = await self._read_affinity(cidr)
        if affinity is not None and is_of(affinity, self._node):
            await self._delete(affinity)

    async def _delete(self, affinity: BlockAffinity) -> None:
        with contextlib.suppress(NotFound):
            await self._store.delete(affinity)

    async def _read_affinity(self, cidr: IPNetwork) -> BlockAffinity | None:
        try:
            return await self._store.get(BlockAffinity, affinity_name(self._node, cidr))
        except NotFound:
            return None

    async def _read_block(self, cidr: IPNetwork) -> IPAMBlock | None:
        try:
            return await self._store.get(IPAMBlock, block_name(cidr))
        except NotFound:
            return None
