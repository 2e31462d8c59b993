"""A block of addresses as an immutable value: Calico's IPAMBlock, parsed, changed by copy, and rendered back.

Theory. A block of 2^n addresses is a map from ordinal (offset in the block) to what holds it, plus a FIFO queue of the
free ordinals: an address is taken from the head of the queue and goes to its tail once it has cooled down, so that a
freed address is reused as late as possible. A freed ordinal first becomes `Cooling`; Calico's attribute releasedAt says
since when.

Each change raises `sequence` and stamps the ordinal it touched with the new number, so (ordinal, handle, sequence)
names one allocation for all time: a late release that carries an old number never frees an address that was reused.

Invariants (`Block.problems`, the same as Calico's `ipam check`): each ordinal is either held or queued, once; queued
ordinals lie in the block. Attribute dedup and compaction need no code to maintain: the attribute list is rendered
afresh from the entries whenever the block is written.

Copy-on-write: no method changes its block. A write that fails half-way therefore leaves nothing half-done in memory.
Used by choice, merge, writer and node; pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_network

from crds.blocks import AllocationAttribute, IPAMBlock, IPAMBlockSpec
from crds.errors import BadObject
from crds.meta import ObjectMeta
from crds.values import HandleID
from ipam.requests import IPAddress, IPNetwork

Attributes = tuple[tuple[str, str], ...]
"""An allocation's attributes (pod, namespace, node, timestamp), sorted by key, so that equal ones are equal."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """An ordinal that a handle holds. `alternate` is Calico's alternateOwnerAttrs, carried along untouched."""

    handle: HandleID
    attributes: Attributes
    sequence: int
    alternate: Attributes = ()


@dataclass(frozen=True, slots=True)
class Cooling:
    """An ordinal that was freed at `released_at_s` (whole seconds since the epoch) and is not yet to be reused."""

    released_at_s: int
    sequence: int


Entry = Allocation | Cooling


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block. `affinity` is "host:<node>", "virtual:<name>" or "" (nobody's)."""

    cidr: IPNetwork
    affinity: str
    claim_time: str = ""
    entries: Mapping[int, Entry] = field(default_factory=dict)
    queue: tuple[int, ...] = ()
    sequence: int = 0
    strict_affinity: bool = False

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Addresses in the block."""
        return self.cidr.num_addresses

    @property
    def is_empty(self) -> bool:
        """No address is held or cooling."""
        return not self.entries

    def address(self, ordinal: int) -> IPAddress:
        """The address at an ordinal."""
        return self.cidr[ordinal]

    def ordinal(self, address: IPAddress) -> int:
        """The ordinal of an address that lies in the block."""
        return int(address) - int(self.cidr.network_address)

    def allocations(self) -> dict[int, Allocation]:
        """Held ordinals."""
        return {ordinal: entry for ordinal, entry in self.entries.items() if isinstance(entry, Allocation)}

    def next_free(self, *, reserved: Collection[int] = ()) -> int | None:
        """The ordinal that comes next; reserved ones are passed over and keep their place."""
        for ordinal in self.queue:
            if ordinal not in reserved:
                return ordinal
        return None

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the block itself, in words; () when all is well."""
        found = []
        if len(set(self.queue)) != len(self.queue):
            found.append("an ordinal is queued twice")
        if any(not 0 <= ordinal < self.size for ordinal in (*self.queue, *self.entries)):
            found.append("an ordinal lies outside the block")
        if both := set(self.queue) & set(self.entries):
            found.append(f"ordinals {sorted(both)} are both free and held")
        if len(self.queue) + len(self.entries) != self.size:
            found.append(f"{len(self.queue)} free and {len(self.entries)} held do not add up to {self.size}")
        if any(entry.sequence > self.sequence for entry in self.entries.values()):
            found.append("an allocation's sequence number is newer than the block's")
        return tuple(found)

    # -- changing, by copy ------------------------------------------------------------------------------------------

    def take(self, ordinal: int, *, handle: HandleID, attributes: Attributes) -> Block:
        """Give a queued ordinal to a handle; ValueError if it is not free."""
        at = self.queue.index(ordinal)
        sequence = self.sequence + 1
        return replace(
            self,
            entries={**self.entries, ordinal: Allocation(handle, attributes, sequence)},
            queue=self.queue[:at] + self.queue[at + 1 :],
            sequence=sequence,
        )

    def put(self, ordinal: int, entry: Entry) -> Block:
        """Set what holds an ordinal, whatever held it before; the entry keeps its own sequence number."""
        queue = tuple(other for other in self.queue if other != ordinal)
        sequence = max(self.sequence + 1, entry.sequence)
        return replace(self, entries={**self.entries, ordinal: entry}, queue=queue, sequence=sequence)

    def release(self, ordinal: int, *, handle: HandleID, sequence: int, now_s: float) -> Block | None:
        """Free an allocation, named in full; None if that ordinal is no longer held by it."""
        entry = self.entries.get(ordinal)
        if not isinstance(entry, Allocation) or entry.handle != handle or entry.sequence != sequence:
            return None
        stamp = self.sequence + 1
        return replace(self, entries={**self.entries, ordinal: Cooling(int(now_s), stamp)}, sequence=stamp)

    def undo(self, ordinal: int) -> Block:
        """Take back an allocation that nobody was told of: the ordinal goes to the head of the queue again."""
        entries = {other: entry for other, entry in self.entries.items() if other != ordinal}
        return replace(self, entries=entries, queue=(ordinal, *self.queue), sequence=self.sequence + 1)

    def sweep(self, *, now_s: float, cooldown_s: int) -> Block:
        """Queue the ordinals that have cooled down, longest freed first; the same block if there are none."""
        due = sorted(
            (entry.released_at_s, entry.sequence, ordinal)
            for ordinal, entry in self.entries.items()
            if isinstance(entry, Cooling) and has_cooled(entry, now_s=now_s, cooldown_s=cooldown_s)
        )
        if not due:
            return self
        freed = tuple(ordinal for _, _, ordinal in due)
        entries = {ordinal: entry for ordinal, entry in self.entries.items() if ordinal not in freed}
        return replace(self, entries=entries, queue=self.queue + freed, sequence=self.sequence + 1)


def has_cooled(entry: Cooling, *, now_s: float, cooldown_s: int) -> bool:
    """Whether an ordinal may be reused; releasedAt has whole seconds, so one more is waited, unless it is 0."""
    return now_s >= entry.released_at_s + (cooldown_s + 1 if cooldown_s else 0)


def empty_block(
    cidr: IPNetwork, *, affinity: str, claim_time: str = "", sequence: int = 0, strict_affinity: bool = False
) -> Block:
    """A block with every address free."""
    return Block(
        cidr=cidr,
        affinity=affinity,
        claim_time=claim_time,
        queue=tuple(range(cidr.num_addresses)),
        sequence=sequence,
        strict_affinity=strict_affinity,
    )


def attributes_of(values: Mapping[str, str]) -> Attributes:
    """Attributes in their one canonical order."""
    return tuple(sorted(values.items()))


# -- the border: IPAMBlock


def parse_block(wire: IPAMBlock) -> Block:
    """The value of an IPAMBlock; BadObject if it has no usable CIDR.

    What is merely inconsistent is mended while reading, towards safety: an allocation without an attribute counts as
    held by the empty handle, and an ordinal that is neither held nor queued is queued last.
    """
    spec = wire.spec
    try:
        cidr = ip_network(spec.cidr)
    except ValueError as error:
        raise BadObject("spec.cidr", str(error)) from error
    entries: dict[int, Entry] = {}
    for ordinal, index in enumerate(spec.allocations[: cidr.num_addresses]):
        if index is not None:
            stamp = spec.sequence_number_for_allocation.get(str(ordinal), 0)
            entries[ordinal] = _parse_entry(spec.attributes, index, stamp)
    queued = dict.fromkeys(o for o in spec.unallocated if 0 <= o < cidr.num_addresses and o not in entries)
    queued.update(dict.fromkeys(o for o in range(cidr.num_addresses) if o not in entries and o not in queued))
    newest = max((entry.sequence for entry in entries.values()), default=0)
    return Block(
        cidr=cidr,
        affinity=spec.affinity or "",
        claim_time=spec.affinity_claim_time or "",
        entries=entries,
        queue=tuple(queued),
        sequence=max(spec.sequence_number, newest),
        strict_affinity=spec.strict_affinity,
    )


def _parse_entry(attributes: tuple[AllocationAttribute, ...], index: int, stamp: int) -> Entry:
    if not 0 <= index < len(attributes):
        return Allocation(HandleID(""), (), stamp)
    attribute = attributes[index]
    if attribute.released_at:
        return Cooling(parse_time(attribute.released_at), stamp)
    return Allocation(
        HandleID(attribute.handle_id or ""),
        attributes_of(attribute.secondary or {}),
        stamp,
        attributes_of(attribute.alternate_owner_attrs or {}),
    )


def render_block(block: Block, *, metadata: ObjectMeta) -> IPAMBlock:
    """The IPAMBlock to write: equal attributes share one entry, entries that nothing uses do not exist."""
    indexes: dict[AllocationAttributeKey, int] = {}
    allocations: list[int | None] = [None] * block.size
    for ordinal in sorted(block.entries):
        allocations[ordinal] = indexes.setdefault(_attribute_key(block.entries[ordinal]), len(indexes))
    return IPAMBlock(
        metadata=metadata,
        spec=IPAMBlockSpec(
            cidr=str(block.cidr),
            affinity=block.affinity or None,
            affinity_claim_time=block.claim_time or None,
            allocations=tuple(allocations),
            unallocated=block.queue,
            attributes=tuple(_render_attribute(key) for key in indexes),
            sequence_number=block.sequence,
            sequence_number_for_allocation={str(o): block.entries[o].sequence for o in sorted(block.entries)},
            deleted=False,
            strict_affinity=block.strict_affinity,
        ),
    )


AllocationAttributeKey = tuple[HandleID, Attributes, Attributes] | int


def _attribute_key(entry: Entry) -> AllocationAttributeKey:
    if isinstance(entry, Cooling):
        return entry.released_at_s
    return (entry.handle, entry.attributes, entry.alternate)


def _render_attribute(key: AllocationAttributeKey) -> AllocationAttribute:
    if isinstance(key, int):
        return AllocationAttribute(released_at=render_time(key))
    handle, attributes, alternate = key
    return AllocationAttribute(
        handle_id=handle or None, secondary=dict(attributes), alternate_owner_attrs=dict(alternate)
    )


def parse_time(text: str) -> int:
    """Whole seconds since the epoch of an RFC 3339 time; 0 (long ago) for what is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0


def render_time(at_s: float) -> str:
    """RFC 3339, UTC, whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(int(at_s), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
