"""IPAMBlocks as the operator reads them: who owns a block, which addresses in it are in use, and by whom.

The operator never allocates. It counts, names users, and (for nodes that are gone) frees: this is its view of the
block values of ipam.blocks, with two changes, `freed` and `disowned`.

An address in its cool-down (attribute with releasedAt) is nobody's. Facts are worked out once for each version of a
block, for blocks are many and change seldom. Called by pool_conditions, operator_affinity and operator_leaks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from crds.blocks import IPAMBlock
from crds.errors import BadObject
from ipam.blocks import Allocation, Block, parse_block, render_block
from ipam.requests import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One address in use. `node` is where its owner lives, which in a borrowed address is not the block's node."""

    address: IPAddress
    ordinal: int
    handle: str
    node: str
    namespace: str = ""
    pod: str = ""

    def __str__(self) -> str:
        owner = f"{self.namespace}/{self.pod}" if self.pod else self.handle or "an unnamed owner"
        return f"{owner} ({self.address})"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """One version of one block. `node` is "" when no host owns it (none, or a virtual owner)."""

    name: str
    cidr: IPNetwork
    node: str
    affinity: str
    users: tuple[User, ...]
    block: IPAMBlock

    @property
    def is_empty(self) -> bool:
        """No address in use; some may be cooling down."""
        return not self.users


def describe_users(users: Sequence[User]) -> str:
    """`3 addresses in use: default/web (10.0.0.1), ...`: the first three by name, and how many more."""
    some = ", ".join(sorted(str(user) for user in users)[:3])
    noun = "address" if len(users) == 1 else "addresses"
    return f"{len(users)} {noun} in use: {some}" + (f" and {len(users) - 3} more" if len(users) > 3 else "")


def facts_of(block: IPAMBlock) -> BlockFacts | None:
    """The facts of a block; None for one that nobody can read, which must not stop the rest."""
    try:
        value = parse_block(block)
    except BadObject:
        return None
    owner = value.affinity.removeprefix("host:") if value.affinity.startswith("host:") else ""
    return BlockFacts(
        name=block.metadata.name,
        cidr=value.cidr,
        node=owner,
        affinity=value.affinity,
        users=tuple(_user(value, ordinal, held, owner) for ordinal, held in sorted(value.allocations().items())),
        block=block,
    )


def freed(block: IPAMBlock, ordinals: Collection[int]) -> IPAMBlock:
    """The block with these addresses free, at the tail of its queue. Raises BadObject as `parse_block` does.

    There is no cool-down: whoever held them has been gone for longer than any. The block's sequence number moves on, so
    a write that was on its way against the old version is refused.
    """
    value = parse_block(block)
    kept = {ordinal: entry for ordinal, entry in value.entries.items() if ordinal not in ordinals}
    gone = tuple(sorted(set(value.entries) - set(kept)))
    changed = replace(value, entries=kept, queue=value.queue + gone, sequence=value.sequence + 1)
    return render_block(changed, metadata=block.metadata)


def disowned(block: IPAMBlock) -> IPAMBlock:
    """The block without an owner: what others borrowed from it stays theirs."""
    value = parse_block(block)
    return render_block(
        replace(value, affinity="", claim_time="", sequence=value.sequence + 1), metadata=block.metadata
    )


def _user(block: Block, ordinal: int, held: Allocation, owner: str) -> User:
    attributes = dict(held.attributes)
    return User(
        address=block.address(ordinal),
        ordinal=ordinal,
        handle=held.handle,
        node=attributes.get("node", "") or owner,
        namespace=attributes.get("namespace", ""),
        pod=attributes.get("pod", ""),
    )


class BlockIndex:
    """All blocks, sorted by address, so that those inside a range are found without looking at the others."""

    def __init__(self, blocks: Iterable[BlockFacts]) -> None:
        self._sorted = sorted(blocks, key=lambda facts: _position(facts.cidr))
        self._positions = [_position(facts.cidr) for facts in self._sorted]
        self._by_name = {facts.name: facts for facts in self._sorted}

    def inside(self, cidr: IPNetwork) -> tuple[BlockFacts, ...]:
        """The blocks within `cidr`, in order of address."""
        first = bisect_left(self._positions, (cidr.version, int(cidr.network_address), 0))
        last = bisect_left(self._positions, (cidr.version, int(cidr.broadcast_address) + 1, 0))
        return tuple(facts for facts in self._sorted[first:last] if facts.cidr.prefixlen >= cidr.prefixlen)

    def get(self, name: str) -> BlockFacts | None:
        """The block of that object name."""
        return self._by_name.get(name)

    def all(self) -> Sequence[BlockFacts]:
        """Every block, in order of address."""
        return self._sorted


def _position(cidr: IPNetwork) -> tuple[int, int, int]:
    return (cidr.version, int(cidr.network_address), cidr.prefixlen)
