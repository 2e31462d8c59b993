"""A node's IPAM as it stands: a snapshot for tortiectl, metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass

from ipam.holdings import Holdings


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockState:
    """One own block. `standing`: confirmed, unsure or retiring. `used` + `cooling` + `free` == `size`."""

    cidr: str
    standing: str
    size: int
    used: int
    cooling: int
    free: int
    flushed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """`closed`: why no address is given out now, "" if they are. `lag_s`: since when the API has been behind."""

    node: str
    closed: str
    blocks: tuple[BlockState, ...]
    addresses: int
    exceptions: tuple[str, ...]
    unflushed_releases: int
    lag_s: float
    renewed_s_ago: float | None
    generation: int
    rebuilt_because: str
    problem: str
    writes: int
    conflicts: int
    reasserted: int
    sentences: tuple[str, ...]


def block_states(holdings: Holdings) -> tuple[BlockState, ...]:
    """The own blocks of a node."""
    return tuple(
        BlockState(
            cidr=str(cidr),
            standing=own.standing.value,
            size=own.block.size,
            used=len(own.block.allocations()),
            cooling=len(own.block.entries) - len(own.block.allocations()),
            free=len(own.block.queue),
            flushed=not own.is_dirty,
        )
        for cidr, own in holdings.own.items()
    )
