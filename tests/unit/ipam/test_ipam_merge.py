"""Whose word counts: the table of ipam.merge, row by row, and its invariants for any pair of blocks."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from crds.values import HandleID
from ipam.blocks import Allocation, Block, Cooling, Entry, empty_block
from ipam.merge import Merged, merge

CIDR = ip_network("10.0.0.0/30")
MINE, OTHER = HandleID("net.mine"), HandleID("net.other")


def block(entry: Entry | None, *, sequence: int = 100) -> Block:
    base = empty_block(CIDR, affinity="host:n1", sequence=sequence)
    return base if entry is None else base.put(0, entry)


def held(handle: HandleID = MINE, sequence: int = 50) -> Allocation:
    return Allocation(handle, (), sequence)


def joined(mine: Entry | None, theirs: Entry | None, seen: Entry | None, *, live: int = 1, told: int = 1) -> Merged:
    return merge(
        block(mine),
        block(theirs, sequence=200),
        seen=block(seen),
        is_live=lambda ordinal, entry: bool(live),
        unanswered=() if told else (0,),
    )


def test_what_is_the_same_stays() -> None:
    assert joined(held(), held(), held()).block.entries == {0: held()}


def test_an_allocation_that_was_not_written_yet_stays() -> None:
    assert joined(held(), None, None).block.entries == {0: held()}


def test_a_release_under_a_live_pod_is_reasserted() -> None:
    merged = joined(held(), None, held())
    assert merged.block.entries == {0: held()}
    assert merged.reasserted == ("10.0.0.0 was released, but net.mine still uses it",)


def test_a_release_of_a_dead_pod_is_accepted() -> None:
    merged = joined(held(), Cooling(9, 120), held(), live=0)
    assert merged.released == ((0, held()),)
    assert merged.block.entries == {0: Cooling(9, 120)}


def test_an_address_in_use_that_another_took_is_taken_back() -> None:
    merged = joined(held(), held(OTHER, 150), held())
    assert merged.block.entries == {0: held()}
    assert "net.other took it as well" in merged.reasserted[0]


def test_an_address_that_nobody_was_told_of_yet_yields_to_another() -> None:
    merged = joined(held(sequence=120), held(OTHER, 150), None, told=0)
    assert merged.block.entries == {0: held(OTHER, 150)}
    assert merged.withdrawn == ((0, held(sequence=120)),)


def test_our_own_older_image_does_not_undo_a_release() -> None:
    assert joined(Cooling(5, 60), held(), held()).block.entries == {0: Cooling(5, 60)}
    assert joined(None, held(), held()).block.entries == {}


def test_what_another_took_from_the_free_ones_is_kept() -> None:
    merged = joined(None, held(OTHER, 150), None)
    assert merged.adopted == (0,)
    assert 0 not in merged.block.queue


def test_the_longer_cool_down_counts() -> None:
    assert joined(Cooling(5, 60), Cooling(9, 70), None).block.entries == {0: Cooling(9, 70)}


def test_the_affinity_is_the_api_s() -> None:
    theirs = replace(block(None), affinity="host:n2")
    merged = merge(block(held()), theirs, seen=block(held()), is_live=lambda ordinal, entry: True)
    assert merged.block.affinity == "host:n2"


ENTRIES = st.dictionaries(
    st.integers(0, 3),
    st.one_of(
        st.builds(held, st.sampled_from([MINE, OTHER]), st.integers(1, 40)),
        st.builds(Cooling, st.integers(0, 9), st.integers(1, 40)),
    ),
)


def filled(entries: dict[int, Entry]) -> Block:
    base = empty_block(CIDR, affinity="host:n1", sequence=40)
    for ordinal, entry in entries.items():
        base = base.put(ordinal, entry)
    return base


@given(ours=ENTRIES, theirs=ENTRIES, seen=ENTRIES, live=st.booleans())
def test_a_merge_is_a_sound_block_and_a_second_one_changes_nothing(
    ours: dict[int, Entry], theirs: dict[int, Entry], seen: dict[int, Entry], live: object
) -> None:
    other = filled(theirs)
    merged = merge(filled(ours), other, seen=filled(seen), is_live=lambda ordinal, entry: bool(live))
    assert merged.block.problems() == ()
    assert merged.block.sequence > max(filled(ours).sequence, other.sequence)
    again = merge(merged.block, other, seen=other, is_live=lambda ordinal, entry: bool(live))
    assert again.block.entries == merged.block.entries
    assert again.released == again.withdrawn == again.adopted == again.reasserted == ()


@given(ours=ENTRIES, theirs=ENTRIES, seen=ENTRIES)
def test_a_live_answered_address_always_survives(
    ours: dict[int, Entry], theirs: dict[int, Entry], seen: dict[int, Entry]
) -> None:
    merged = merge(filled(ours), filled(theirs), seen=filled(seen), is_live=lambda ordinal, entry: True)
    assert {o: e for o, e in ours.items() if isinstance(e, Allocation)}.items() <= merged.block.allocations().items()
