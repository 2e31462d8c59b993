"""Whose word counts when a block in the API is not as this node last wrote it.

Theory. For a live node its own journal is the truth about its own blocks: the API block is an image of it, and somebody
else changed the image. Each ordinal is judged for itself, by (ordinal, handle, sequence number):

    ours          theirs             result
    held          the same           ours
    held          free or cooling    the pod is gone: accepted as a release; else re-asserted
    held          another holder     ours is re-asserted (they took an address that was in use), unless nobody has been
                                     told of ours yet (compare-and-swap mode): then theirs stays and ours is withdrawn
    cooling/free  held, as we knew   an old image of our own: ours
    cooling/free  held by a new one  theirs is accepted: somebody borrowed or restored it
    cooling/free  cooling            theirs, if it is the longer wait

`seen` is the API block as this node last read or wrote it; what theirs has in common with `seen` is no news.
Pure; called by the writer on a conflict and by node when a watch shows a newer block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from ipam.blocks import Allocation, Block, Cooling, Entry


@dataclass(frozen=True, slots=True)
class Merged:
    """The block as it should be now, and what that means for the ledger.

    `released`: our allocations that somebody freed and whose pod is gone. `withdrawn`: our unanswered allocations that
    lost. `adopted`: ordinals somebody else took. `reasserted`: sentences about changes that were not accepted.
    """

    block: Block
    released: tuple[tuple[int, Allocation], ...] = ()
    withdrawn: tuple[tuple[int, Allocation], ...] = ()
    adopted: tuple[int, ...] = ()
    reasserted: tuple[str, ...] = ()


def merge(
    ours: Block,
    theirs: Block,
    *,
    seen: Block,
    is_live: Callable[[int, Allocation], bool],
    unanswered: Collection[int] = (),
) -> Merged:
    """Join our block with the API's newer one."""
    entries: dict[int, Entry] = {}
    released, withdrawn, adopted, reasserted = [], [], [], []
    for ordinal in range(ours.size):
        mine, other, known = (block.entries.get(ordinal) for block in (ours, theirs, seen))
        if isinstance(mine, Allocation):
            if _same(mine, other) or other == known:
                entries[ordinal] = mine
            elif isinstance(other, Allocation) and ordinal in unanswered:
                withdrawn.append((ordinal, mine))
                entries[ordinal] = other
            elif isinstance(other, Allocation):
                reasserted.append(f"{ours.address(ordinal)} is {mine.handle}'s; {other.handle} took it as well")
                entries[ordinal] = mine
            elif is_live(ordinal, mine):
                reasserted.append(f"{ours.address(ordinal)} was released, but {mine.handle} still uses it")
                entries[ordinal] = mine
            else:
                released.append((ordinal, mine))
                entries[ordinal] = other or Cooling(0, max(mine.sequence, theirs.sequence) + 1)
        elif isinstance(other, Allocation) and other != known:
            adopted.append(ordinal)
            entries[ordinal] = other
        elif isinstance(mine, Cooling):
            entries[ordinal] = _longer(mine, other)
        elif isinstance(other, Cooling) and other != known:
            entries[ordinal] = other
    queue = [ordinal for ordinal in ours.queue if ordinal not in entries]
    queue += [ordinal for ordinal in range(ours.size) if ordinal not in entries and ordinal not in ours.queue]
    newest = max((entry.sequence for entry in entries.values()), default=0)
    block = replace(
        ours,
        affinity=theirs.affinity,
        claim_time=theirs.claim_time,
        entries=entries,
        queue=tuple(queue),
        sequence=max(ours.sequence, theirs.sequence, newest) + 1,
    )
    return Merged(block, tuple(released), tuple(withdrawn), tuple(adopted), tuple(reasserted))


def _same(mine: Allocation, other: Entry | None) -> bool:
    return isinstance(other, Allocation) and (other.handle, other.sequence) == (mine.handle, mine.sequence)


def _longer(mine: Cooling, other: Entry | None) -> Cooling:
    if isinstance(other, Cooling) and other.released_at_s > mine.released_at_s:
        return other
    return mine
