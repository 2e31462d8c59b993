"""The start of a node's IPAM, as one step: journal, API and kernel in, holdings out.

Theory: recovery.py. This module decides which sources to use. With a trusted journal and no complete view (the API
server is away) the blocks are those that the journal remembers from the last write, with their affinities; a doubtful
journal waits for a complete view. It may run a second time, when the Lease shows that the journal was an older copy.
Called by NodeIPAM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from crds.blocks import BlockAffinity, IPAMBlock
from crds.errors import BadObject
from crds.values import HandleID, NodeName
from ipam.affinity import host_affinity
from ipam.blocks import Block, parse_block
from ipam.clock import Clock
from ipam.holdings import Holdings, OwnBlock, Standing
from ipam.journal import Journal
from ipam.recovery import adopt_kernel, adopt_rows, overlay, rebuild
from ipam.requests import IPAddress, IPNetwork
from ipam.upkeep import SWEEP_HANDLES
from ipam.world import World
from ipam.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelAddresses:
    """The addresses on pod interfaces: their interfaces, and their handles where the interface says so."""

    interfaces: Mapping[IPAddress, str]
    handles: Mapping[IPAddress, HandleID] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a start needs."""

    node: NodeName
    network: str
    world: World
    holdings: Holdings
    journal: Journal
    writer: Writer
    clock: Clock

    def can_begin(self) -> bool:
        """A doubtful journal is rebuilt only from a complete view."""
        return not self.journal.doubt or self.world.is_synced

    def begin(self, kernel: KernelAddresses) -> str:
        """Fill the holdings and commit; returns why the journal was rebuilt, "" if it was not."""
        ledger, now_s, doubt = self.holdings.ledger, self.clock.wall_s(), self.journal.doubt
        parsed = list(self._own_blocks())
        if doubt:
            blocks = [block for _, block in parsed]
            rebuild(ledger, blocks, kernel=kernel.interfaces, node=self.node, now_s=now_s)
            self.journal.set_meta(SWEEP_HANDLES, 1)
        else:
            for _, block in parsed:
                adopt_rows(block, ledger, node=self.node, now_s=now_s)
        adopt_kernel(
            ledger,
            kernel=kernel.interfaces,
            handles=kernel.handles,
            pods=self.world.view.pods,
            node=self.node,
            network=self.network,
            now_s=now_s,
        )
        self.holdings.own.clear()
        for wire, block in parsed:
            own = OwnBlock(overlay(block, ledger, now_s=now_s), block, wire.metadata, Standing.CONFIRMED)
            own.affinity = self._affinity(block.cidr)
            if own.affinity is None:
                own.standing = Standing.UNSURE
            self.holdings.own[block.cidr] = own
            self.writer.remember(own, wire)
        self.journal.commit_now()
        self.journal.believe()
        return doubt

    def _own_blocks(self) -> Iterable[tuple[IPAMBlock, Block]]:
        me = host_affinity(self.node)
        wires = self.world.view.blocks.values() if self.world.is_synced else remembered_blocks(self.journal)
        for wire in wires:
            if wire.spec.affinity != me or wire.spec.deleted:
                continue
            try:
                yield wire, parse_block(wire)
            except BadObject:
                continue

    def _affinity(self, cidr: IPNetwork) -> BlockAffinity | None:
        if self.world.is_synced:
            return self.world.affinity(cidr)
        known = self.journal.meta(f"affinity:{cidr}")
        return None if known is None else msgspec.convert(known, BlockAffinity)


def remembered_blocks(journal: Journal) -> list[IPAMBlock]:
    """This node's blocks as the API last had them, from the journal."""
    found = []
    for value in journal.metas("block:"):
        try:
            found.append(msgspec.convert(value, IPAMBlock))
        except msgspec.ValidationError:
            continue
    return found


def remember_affinities(holdings: Holdings, journal: Journal) -> None:
    """Keep the confirmed affinities for a start without API server."""
    for cidr, own in holdings.own.items():
        if own.affinity is not None and own.standing is Standing.CONFIRMED:
            key, value = f"affinity:{cidr}", msgspec.to_builtins(own.affinity)
            if journal.meta(key) != value:
                journal.set_meta(key, value)
