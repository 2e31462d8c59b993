"""Block values: Calico's `ipam check` invariants hold after any sequence of operations, and after a trip to the API."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crds.blocks import (
    AllocationAttribute,
    BlockAffinity,
    BlockAffinitySpec,
    IPAMBlock,
    IPAMBlockSpec,
    IPAMHandle,
    IPAMHandleSpec,
)
from crds.errors import BadObject
from crds.meta import ObjectMeta
from crds.pools import IPPool, IPPoolSpec
from crds.values import HandleID
from ipam.blocks import Allocation, Block, Cooling, attributes_of, empty_block, parse_block, render_block
from ipam.check import check

CIDR = ip_network("10.0.0.0/29")
META = ObjectMeta(name="10-0-0-0-29", resource_version="7")
A, B = HandleID("net.a"), HandleID("net.b")
OWNER = attributes_of({"pod": "a", "namespace": "default", "node": "n1"})


def block() -> Block:
    return empty_block(CIDR, affinity="host:n1", sequence=100, strict_affinity=True)


def test_addresses_are_taken_from_the_head_and_freed_ones_go_to_the_tail() -> None:
    one = block().take(0, handle=A, attributes=OWNER)
    freed = one.release(0, handle=A, sequence=101, now_s=50.0)
    assert freed is not None
    assert freed.sweep(now_s=56.0, cooldown_s=5).queue == (1, 2, 3, 4, 5, 6, 7, 0)


def test_a_freed_address_waits_out_its_cool_down() -> None:
    freed = block().take(0, handle=A, attributes=OWNER).release(0, handle=A, sequence=101, now_s=50.9)
    assert freed is not None
    assert freed.sweep(now_s=55.8, cooldown_s=5) is freed
    assert 0 not in freed.queue


def test_a_late_release_never_frees_a_reused_address() -> None:
    first = block().take(0, handle=A, attributes=OWNER)
    freed = first.release(0, handle=A, sequence=101, now_s=0.0)
    assert freed is not None
    again = freed.sweep(now_s=9.0, cooldown_s=0).take(0, handle=A, attributes=OWNER)
    assert again.release(0, handle=A, sequence=101, now_s=10.0) is None
    assert again.release(0, handle=B, sequence=again.entries[0].sequence, now_s=10.0) is None


def test_reserved_addresses_are_passed_over_and_keep_their_place() -> None:
    assert block().next_free(reserved={0, 1}) == 2
    assert block().next_free(reserved=set(range(8))) is None


def test_taking_a_held_address_is_refused() -> None:
    with pytest.raises(ValueError, match="not in"):
        block().take(0, handle=A, attributes=OWNER).take(0, handle=B, attributes=())


def test_an_allocation_that_nobody_heard_of_goes_back_to_the_head() -> None:
    assert block().take(0, handle=A, attributes=OWNER).undo(0).queue == tuple(range(8))


def test_equal_owners_share_one_attribute_and_unused_ones_vanish() -> None:
    two = (
        block().take(0, handle=A, attributes=OWNER).take(1, handle=A, attributes=OWNER).take(2, handle=B, attributes=())
    )
    spec = render_block(two, metadata=META).spec
    assert spec.allocations == (0, 0, 1, None, None, None, None, None)
    assert [attribute.handle_id for attribute in spec.attributes] == [A, B]
    freed = two.release(0, handle=A, sequence=101, now_s=1.0)
    assert freed is not None
    only_b = freed.release(1, handle=A, sequence=102, now_s=1.0)
    assert only_b is not None
    spec = render_block(only_b.sweep(now_s=9.0, cooldown_s=0), metadata=META).spec
    assert [attribute.handle_id for attribute in spec.attributes] == [B]
    assert spec.allocations[2] == 0


def test_what_another_writer_left_inconsistent_counts_as_held() -> None:
    spec = IPAMBlockSpec(
        cidr="10.0.0.0/30",
        allocations=(5, None, 0, None),
        unallocated=(1, 1, 0, 9),
        attributes=(AllocationAttribute(),),
    )
    parsed = parse_block(IPAMBlock(spec=spec))
    assert set(parsed.entries) == {0, 2}
    assert parsed.queue == (1, 3)
    assert parsed.problems() == ()


def test_a_block_without_a_cidr_names_the_field() -> None:
    with pytest.raises(BadObject, match=r"spec\.cidr"):
        parse_block(IPAMBlock(spec=IPAMBlockSpec(cidr="10.0.0.1/29", allocations=(), unallocated=(), attributes=())))


def test_alternate_owners_are_carried_along() -> None:
    attribute = AllocationAttribute(handle_id="vm", secondary={"pod": "a"}, alternate_owner_attrs={"pod": "b"})
    spec = IPAMBlockSpec(cidr="10.0.0.0/31", allocations=(0, None), unallocated=(1,), attributes=(attribute,))
    wire = IPAMBlock(metadata=META, spec=spec)
    assert render_block(parse_block(wire), metadata=META).spec.attributes == (attribute,)


class BlockMachine(RuleBasedStateMachine):
    """Random work on one block; Calico's checks, by ipam.check, are the oracle after each step."""

    @initialize(wide=st.sampled_from(["10.0.0.0/29", "fd00::/125", "10.0.0.4/32"]))
    def begin(self, wide: str) -> None:
        self.cidr = ip_network(wide)
        self.block = empty_block(self.cidr, affinity="host:n1", sequence=1000)
        self.now_s = 1_000_000.0
        self.held: dict[int, tuple[HandleID, int]] = {}
        self.stale: list[tuple[int, HandleID, int]] = []
        self.freed_at: dict[int, float] = {}

    @rule(who=st.sampled_from(["a", "b", "c"]), reserved=st.sets(st.integers(0, 7)))
    def take(self, who: str, reserved: set[int]) -> None:
        ordinal = self.block.next_free(reserved=reserved)
        if ordinal is None:
            return
        assert ordinal not in self.held
        before = self.block
        self.block = before.take(ordinal, handle=HandleID(who), attributes=attributes_of({"node": "n1", "x": who}))
        assert ordinal not in before.entries  # copy-on-write
        self.held[ordinal] = (HandleID(who), self.block.entries[ordinal].sequence)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            ordinal = data.draw(st.sampled_from(sorted(self.held)))
            handle, sequence = self.held.pop(ordinal)
            freed = self.block.release(ordinal, handle=handle, sequence=sequence, now_s=self.now_s)
            assert freed is not None
            self.block = freed
            self.stale.append((ordinal, handle, sequence))

    @rule(data=st.data())
    def release_late(self, data: st.DataObject) -> None:
        if self.stale:
            ordinal, handle, sequence = data.draw(st.sampled_from(self.stale))
            assert self.block.release(ordinal, handle=handle, sequence=sequence, now_s=self.now_s) is None

    @rule(seconds=st.integers(0, 20), cooldown_s=st.sampled_from([0, 5]))
    def wait(self, seconds: int, cooldown_s: int) -> None:
        self.now_s += seconds
        self.block = self.block.sweep(now_s=self.now_s, cooldown_s=cooldown_s)

    @rule()
    def through_the_api(self) -> None:
        wire = render_block(self.block, metadata=META)
        wire = msgspec.json.decode(msgspec.json.encode(wire), type=IPAMBlock)
        assert parse_block(wire) == self.block
        self.block = parse_block(wire)

    @invariant()
    def calico_finds_nothing(self) -> None:
        if not hasattr(self, "block"):
            return
        assert self.block.problems() == ()
        assert {o: (e.handle, e.sequence) for o, e in self.block.allocations().items()} == self.held
        counts: dict[str, int] = {}
        for handle, _ in self.held.values():
            counts[handle] = counts.get(handle, 0) + 1
        cidr = str(self.cidr)
        found = check(
            pools=[IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr=cidr))],
            blocks=[render_block(self.block, metadata=META)],
            affinities=[BlockAffinity(spec=BlockAffinitySpec(cidr=cidr, node="n1", state="confirmed"))],
            handles=[IPAMHandle(spec=IPAMHandleSpec(handle_id=h, block={cidr: n})) for h, n in counts.items()],
            pods=[],
            now_s=self.now_s,
        )
        assert found == ()


TestBlockMachine = BlockMachine.TestCase
TestBlockMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_the_checker_sees_a_broken_block() -> None:
    held = block().take(0, handle=A, attributes=OWNER)
    wire = render_block(held, metadata=META)
    broken = msgspec.structs.replace(wire, spec=msgspec.structs.replace(wire.spec, unallocated=(0, 1, 1, 9)))
    found = " ".join(str(p) for p in check(pools=[], blocks=[broken], affinities=[], handles=[], pods=[], now_s=0.0))
    for words in (
        "twice",
        "outside",
        "allocated and unallocated",
        "add up",
        "no confirmed",
        "lies in no IPPool",
        "counts 0",
    ):
        assert words in found


def test_a_cooling_address_belongs_to_nobody() -> None:
    freed = block().take(0, handle=A, attributes=OWNER).release(0, handle=A, sequence=101, now_s=50.0)
    assert freed is not None
    assert isinstance(freed.entries[0], Cooling)
    assert not any(isinstance(entry, Allocation) for entry in freed.entries.values())
