"""The background work of a node's IPAM, as passes over what is: heal, write, claim ahead, give back, collect.

Theory. Each pass looks at the newest view and at the holdings and does what is missing; it keeps no list of things to
do, so a pass that failed half-way is simply run again. API errors end a pass (after every block had its chance) and
the caller backs off. The view may lag behind our own writes, so anything that looks wrong in it is read live before it
is acted upon.

Called by node: `turn` from its loop, `heal` and `claim_locked` also from an ADD that finds no address. All claims and
releases of a node run one at a time under `claiming`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from ipaddress import ip_network

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Pod
from crds.errors import NotFound
from crds.meta import ObjectMeta
from crds.names import block_name
from crds.values import HandleID, NodeName
from ipam.affinity import cidr_of, host_affinity, is_confirmed
from ipam.bounded import BoundedStore
from ipam.choice import ClaimBlock, Site, choose_claim, qualifying_pools
from ipam.claims import Claimed, Claims, Facts, Remedy, Taken, diagnose
from ipam.clock import Clock
from ipam.holdings import Holdings, OwnBlock, Standing
from ipam.journal import Journal, Row
from ipam.leaks import doubtful, orphan_handles, pod_of, uses
from ipam.requests import AssignRequest, Exhausted, IPAddress, IPNetwork
from ipam.world import World
from ipam.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepTimes:
    """Durations, in seconds."""

    surplus_s: float = 600.0
    """An empty block that other blocks make superfluous is kept this long: bursts come back."""
    gc_s: float = 60.0
    """Between two looks for leaks; a leak must be seen in two."""


SWEEP_HANDLES = "sweep-handles"
"""Set in the journal from a rebuild until no orphan handle object is left: the next crash must not forget it."""

AHEAD = 16
"""Free addresses (or a quarter of a block) below which the next block is claimed, before anybody waits for it."""


class Upkeep:
    """The passes. `free` releases a row: journal, block and ledger at once."""

    def __init__(
        self,
        *,
        node: NodeName,
        store: BoundedStore,
        holdings: Holdings,
        journal: Journal,
        world: World,
        writer: Writer,
        claims: Claims,
        clock: Clock,
        times: UpkeepTimes,
        free: Callable[[Row], None],
    ) -> None:
        self._node, self._store, self._holdings, self._journal = node, store, holdings, journal
        self._world, self._writer, self._claims, self._clock = world, writer, claims, clock
        self._times, self._free = times, free
        self.claiming = asyncio.Lock()
        self.kernel: Collection[IPAddress] | None = None
        self._doubted: frozenset[Row] = frozenset()
        self._orphans: frozenset[str] = frozenset()
        self._gc_at_s = float("-inf")
        self._healed: tuple[object, object, object] | None = None

    async def turn(self) -> None:
        """One pass over everything."""
        self.notice()
        await self.heal()
        self._sweep()
        await self._flush()
        await self._writer.recheck()
        if not self._world.is_synced:
            return
        await self._settle_strays()
        await self._claim_ahead()
        await self._give_back_surplus()
        if self._clock.boot_s() >= self._gc_at_s + self._times.gc_s:
            self._gc_at_s = self._clock.boot_s()
            await self._collect()
            await self._flush()

    def site(self) -> Site:
        """What a choice depends on, now."""
        world = self._world
        own = self._holdings.own
        return Site(
            node=self._node,
            node_labels=world.view.node_labels,
            pools=world.pools,
            reservations=world.reservations,
            settings=world.settings,
            owned=self._holdings.usable(),
            is_taken=lambda cidr: cidr in own or world.is_taken(cidr),
        )

    # -- what the watches say ---------------------------------------------------------------------------------------

    def notice(self) -> None:
        """Compare the newest view with what we hold; stop using what it contradicts. Safe to call at any time."""
        if not self._world.is_synced:
            return
        uid = self._world.view.node_uid
        for cidr, own in list(self._holdings.own.items()):
            affinity = self._world.affinity(cidr)
            known = own.affinity
            if affinity is not None and (known is None or _is_newer(affinity.metadata, known.metadata)):
                own.affinity = affinity
            if own.standing is Standing.CONFIRMED and not is_confirmed(own.affinity, node=self._node, uid=uid):
                own.standing = Standing.UNSURE
            wire = self._world.view.blocks.get(block_name(cidr))
            if wire is not None and not own.lock.locked() and _is_newer(wire.metadata, own.metadata):
                self._writer.absorb(own, wire)

    async def heal(self) -> None:
        """Find every block that is or should be ours and bring it to a clear state."""
        if not self._world.is_synced or not self._world.view.node_uid:
            return
        view = self._world.view
        sure = all(own.standing is Standing.CONFIRMED for own in self._holdings.own.values())
        seen = (view.blocks, view.affinities, view.pools)
        if sure and self._healed is not None and all(a is b for a, b in zip(seen, self._healed, strict=True)):
            return  # thousands of objects, and none of them is another one than last time
        self._healed = None
        for cidr in self._concerned():
            if self._remedy_seen(cidr) is not Remedy.NOTHING:
                async with self.claiming:
                    await self._heal_one(cidr)
        self._healed = seen

    def _concerned(self) -> list[IPNetwork]:
        """Own blocks, own affinities, blocks with our affinity, blocks of addresses that nothing covers."""
        found = dict.fromkeys(self._holdings.own)
        for affinity in self._world.view.affinities.values():
            if affinity.spec.node == self._node and affinity.spec.type != "virtual" and (cidr := cidr_of(affinity)):
                found[cidr] = None
        me = host_affinity(self._node)
        for wire in self._world.view.blocks.values():
            if wire.spec.affinity == me and (cidr := _cidr(wire)):
                found[cidr] = None
        for address in self._holdings.exceptions():
            if self._holdings.covering(address) is None and (cidr := self._world.block_of(address)):
                found[cidr] = None
        return list(found)

    def _remedy_seen(self, cidr: IPNetwork) -> Remedy:
        """The remedy by the view and by what we know from our own writes, whichever is newer."""
        own = self._holdings.own.get(cidr)
        wire = self._world.view.blocks.get(block_name(cidr))
        affinity = self._world.affinity(cidr)
        if own is not None and own.standing is not Standing.CONFIRMED:
            return Remedy.CLAIM
        if own is not None and wire is not None and affinity is not None:
            return Remedy.NOTHING
        if own is None and wire is not None and wire.spec.affinity == host_affinity(self._node):
            return Remedy.CLAIM
        return self._diagnose(cidr, affinity=affinity, wire=wire)

    def _diagnose(self, cidr: IPNetwork, *, affinity: BlockAffinity | None, wire: IPAMBlock | None) -> Remedy:
        held = self._holdings.ledger.held
        facts = Facts(
            affinity=affinity,
            block=wire,
            in_use=any(address.version == cidr.version and address in cidr for address in held),
            wanted=self._world.is_wanted(cidr),
        )
        return diagnose(facts, node=self._node, uid=self._world.view.node_uid)

    async def _heal_one(self, cidr: IPNetwork) -> None:
        affinity, wire = await self._claims.read(cidr)
        own = self._holdings.own.get(cidr)
        if own is not None and wire is None:
            own.seen = None
        remedy = self._diagnose(cidr, affinity=affinity, wire=wire)
        if remedy is Remedy.GIVE_BACK:
            remedy = await self._claims.give_back(cidr)
            if remedy is Remedy.NOTHING:
                self._forget(cidr)
                return
        match remedy:
            case Remedy.NOTHING if own is not None and own.standing is Standing.CONFIRMED:
                pass
            case Remedy.NOTHING | Remedy.CLAIM:
                await self.claim_locked(cidr)
            case Remedy.DROP_AFFINITY:
                await self._claims.drop_affinity(cidr)
                self._forget(cidr)
            case Remedy.FORGET:
                self._forget(cidr)
            case Remedy.GIVE_BACK:
                raise AssertionError("handled above")

    def _forget(self, cidr: IPNetwork) -> None:
        self._holdings.own.pop(cidr, None)
        self._journal.unset_meta(f"block:{cidr}")

    # -- claims -----------------------------------------------------------------------------------------------------

    async def claim_locked(self, cidr: IPNetwork) -> Claimed | Taken:
        """Claim a block now; the caller holds `claiming`."""
        outcome = await self._claims.claim(cidr)
        if isinstance(outcome, Taken):
            self._world.lose(cidr)
            self._forget(cidr)
        return outcome

    async def _claim_ahead(self) -> None:
        if not self._world.view.node_uid:
            return
        for family in (4, 6):
            nobody = AssignRequest(handle=HandleID(""), namespace="", pod="")
            async with self.claiming:
                for _ in range(4):
                    site = self.site()
                    pools = qualifying_pools(nobody, family=family, site=site)
                    if isinstance(pools, Exhausted) or not self._is_short(family, site):
                        break
                    choice = choose_claim(pools, family=family, site=site)
                    if not isinstance(choice, ClaimBlock) or isinstance(await self.claim_locked(choice.cidr), Claimed):
                        break

    def is_short(self) -> bool:
        """Whether a burst would soon find no free address in the blocks of a family that has any."""
        site = self.site()
        return any(self._is_short(family, site) for family in {block.cidr.version for block in site.owned})

    def _is_short(self, family: int, site: Site) -> bool:
        blocks = [block for block in site.owned if block.cidr.version == family]
        if not blocks:
            return True
        return sum(len(block.queue) for block in blocks) < min(AHEAD, max(1, blocks[-1].size // 4))

    async def _give_back_surplus(self) -> None:
        now_s = self._clock.boot_s()
        for cidr, own in list(self._holdings.own.items()):
            if own.standing is not Standing.CONFIRMED or not own.block.is_empty or own.is_dirty:
                own.empty_since_s = None
                continue
            own.empty_since_s = now_s if own.empty_since_s is None else own.empty_since_s
            others = [
                other.block
                for other in self._holdings.own.values()
                if other is not own
                and other.standing is Standing.CONFIRMED
                and other.block.cidr.version == cidr.version
            ]
            spare = sum(len(block.queue) for block in others)
            is_surplus = now_s - own.empty_since_s >= self._times.surplus_s and spare >= 2 * AHEAD
            if is_surplus or not self._world.is_wanted(cidr):
                await self._give_back(cidr, own)

    async def _give_back(self, cidr: IPNetwork, own: OwnBlock) -> None:
        async with self.claiming:
            if not own.block.is_empty:
                return
            if await self._claims.give_back(cidr) is Remedy.NOTHING:
                self._forget(cidr)
            else:
                own.standing = Standing.UNSURE

    # -- writing ----------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Let cooled addresses go back to their queues, and put the configured strictness into each block."""
        now_s, settings = self._clock.wall_s(), self._world.settings
        for own in self._holdings.own.values():
            own.block = own.block.sweep(now_s=now_s, cooldown_s=settings.cooldown_s)
            if own.block.strict_affinity != settings.strict and self._world.is_synced:
                own.block = replace(own.block, strict_affinity=settings.strict, sequence=own.block.sequence + 1)

    async def _flush(self) -> None:
        due = [own for own in self._holdings.own.values() if self._has_work(own)]
        results = await asyncio.gather(*(self._writer.flush(own) for own in due), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _has_work(self, own: OwnBlock) -> bool:
        if own.is_dirty:
            return True
        cidr = own.block.cidr
        return any(address.version == cidr.version and address in cidr for address, _ in self._holdings.ledger.freed)

    async def _settle_strays(self) -> None:
        """Finish releases of addresses whose block is not ours (any more)."""
        for row in list(self._holdings.ledger.freed.values()):
            if self._holdings.covering(row.address) is None:
                await self._writer.settle_elsewhere(row, self._world.block_of(row.address))

    # -- leaks ------------------------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        now = doubtful(self._holdings.ledger, self._world.pods, kernel=self.kernel, now_s=self._clock.wall_s())
        twice, self._doubted = now & self._doubted, now
        for row in twice:
            if self._holdings.ledger.held.get(row.address) == row and not await self._is_alive(row):
                self._free(row)
        if self._journal.meta(SWEEP_HANDLES):
            await self._collect_handles()

    async def _is_alive(self, row: Row) -> bool:
        key = pod_of(row)
        if key is None:
            return False
        namespace, name = key
        try:
            pod = await self._store.get(Pod, name, namespace=namespace)
        except NotFound:
            return False
        return pod.spec.node_name == self._node and uses(pod, row.address)

    async def _collect_handles(self) -> None:
        """After a lost journal: handle objects that nothing refers to, seen in two passes."""
        listing = await self._store.list(IPAMHandle)
        known = set(self._holdings.ledger.by_handle()) | {handle for _, handle in self._holdings.ledger.freed}
        for own in self._holdings.own.values():
            known |= {entry.handle for entry in own.block.allocations().values()}
        own_blocks = {str(cidr) for cidr in self._holdings.own}
        orphans = orphan_handles(listing.items, own_blocks=own_blocks, known=known)
        names = frozenset(handle.metadata.name for handle in orphans)
        for handle in orphans:
            if handle.metadata.name in self._orphans:
                await self._writer.sweep_handle(handle)
        if not names:
            self._journal.unset_meta(SWEEP_HANDLES)
        self._orphans = names


def _is_newer(theirs: ObjectMeta, ours: ObjectMeta) -> bool:
    """Whether an object's version is a later one: resourceVersions are ordered numbers (Kubernetes 1.35)."""
    a, b = theirs.resource_version, ours.resource_version
    return int(a) > int(b) if a.isdigit() and b.isdigit() else bool(a != b)


def _cidr(wire: IPAMBlock) -> IPNetwork | None:
    try:
        return ip_network(wire.spec.cidr)
    except ValueError:
        return None
