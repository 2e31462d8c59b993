"""IPAMHandles and blocks must tell the same: the sweep in both directions.

An address is recorded twice: in its block (the truth) and in the handle's count for that block (the index by which a
release finds the block). The two are separate writes, so whoever dies between them leaves a handle that counts nothing
(it would stay for ever; tens of thousands of them have been seen) or an allocation whose handle does not know it (a
release by handle would miss it).

Agents mend their own: a handle that speaks of a block whose node is not gone is left alone, for the agent's next write
may be the missing one. The rest is mended here: counts that are behind are written, counts of nothing are removed. A
finding counts once it has been unchanged for a while (handle and blocks in the same versions), and before a handle is
deleted or made its blocks are read once more, for a watch may lag. A deletion names UID and resourceVersion.

A handle that is missing while the block has the address is made here for live nodes too. Their agents write the handle
before the block and delete it after, so somebody else took it; and an agent does not watch handles, so it would have to
read each of its own again and again to find out. It meets the new one as it would any version it did not know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

import msgspec

from crds.blocks import IPAMBlock, IPAMHandle, IPAMHandleSpec
from crds.errors import ApiError, NotFound
from crds.meta import ObjectMeta
from crds.names import block_name, handle_name
from crds.store import Store
from ipam.operator_actions import Action, Create, Delete, Replace
from ipam.operator_blocks import facts_of
from ipam.operator_fence import Judge, NodeState
from ipam.operator_patience import Patience
from ipam.operator_world import View

Counts = Mapping[str, Mapping[str, int]]
"""Handle id -> block CIDR -> addresses."""

MADE_AT_ONCE = 50
"""Missing handles made in one pass, a read and a write each; what they change brings the next pass."""

OWNED = (NodeState.CONNECTED, NodeState.SILENT, NodeState.AGENTLESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakPlanner:
    """The handle sweep of one pass."""

    view: View
    judge: Judge
    patience: Patience
    settle_s: float

    def plan(self) -> Iterator[Action]:
        handles, counts = self.view.of(IPAMHandle), self._counts()
        for handle in handles.values():
            yield from self._handle(handle, counts.get(handle.spec.handle_id, {}))
        # All of them are asked about, for patience forgets what a pass does not mention.
        missing = [
            action
            for handle_id, blocks in counts.items()
            if handle_name(handle_id) not in handles
            for action in self._missing(handle_id, blocks)
        ]
        yield from missing[:MADE_AT_ONCE]

    def _counts(self) -> Counts:
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for facts in self.view.index.all():
            cidr = str(facts.cidr)
            for user in facts.users:
                if user.handle:
                    blocks = counts[user.handle]
                    blocks[cidr] = blocks.get(cidr, 0) + 1
        return counts

    def _handle(self, handle: IPAMHandle, counted: Mapping[str, int]) -> Iterator[Action]:
        spec = handle.spec
        if not spec.deleted and not _differs(spec.block, counted):
            return
        named = {*spec.block, *counted}
        if any(self._is_owned(cidr) for cidr in named):
            return
        if self.patience.ripe(("handle", handle.metadata.name), self._versions(handle, named), after_s=self.settle_s):
            if not counted:
                yield Delete(handle, "a handle without an address")
            else:
                new = msgspec.structs.replace(spec, block=dict(counted), deleted=False)
                yield Replace(msgspec.structs.replace(handle, spec=new), "its counts are not those of the blocks")

    def _missing(self, handle_id: str, blocks: Mapping[str, int]) -> Iterator[Action]:
        # Not the blocks' versions: pods beside it come and go all day.
        counts = tuple(f"{cidr}={count}" for cidr, count in sorted(blocks.items()))
        if self.patience.ripe(("no handle", handle_id), counts, after_s=self.settle_s):
            spec = IPAMHandleSpec(handle_id=handle_id, block=dict(blocks))
            yield Create(
                IPAMHandle(metadata=ObjectMeta(name=handle_name(handle_id)), spec=spec), "handle of an address"
            )

    def _is_owned(self, cidr: str) -> bool:
        facts = self.view.index.get(block_name(cidr))
        return facts is not None and bool(facts.node) and self.judge.node(facts.node) in OWNED

    def _versions(self, handle: IPAMHandle, cidrs: set[str]) -> tuple[str, ...]:
        blocks = self.view.of(IPAMBlock)
        found = [blocks.get(block_name(cidr)) for cidr in sorted(cidrs)]
        versions = [block.metadata.resource_version if block else "none" for block in found]
        return (handle.metadata.resource_version, *versions)


def _differs(recorded: Mapping[str, int], counted: Mapping[str, int]) -> bool:
    """Too much is tolerated, as Calico does; too little, or a block with nothing in it, is not."""
    return set(recorded) != set(counted) or any(recorded[cidr] < counted[cidr] for cidr in counted)


async def is_still_orphan(store: Store, handle: IPAMHandle) -> bool:
    """Read the blocks of a handle once more: does none of them hold an address of it? An unanswered read says no."""
    return await _holds_addresses(store, handle) is False


async def is_still_missed(store: Store, handle: IPAMHandle) -> bool:
    """The same before a handle is made: one that counts nothing would stay. An unanswered read says no."""
    return await _holds_addresses(store, handle) is True


async def _holds_addresses(store: Store, handle: IPAMHandle) -> bool | None:
    """Whether a block that the handle names has an address of it; None: not known."""
    for cidr in handle.spec.block:
        try:
            block = await store.get(IPAMBlock, block_name(ip_network(cidr)))
        except NotFound:
            continue
        except (ApiError, OSError, ValueError):
            return None
        facts = facts_of(block)
        if facts is None:
            return None
        if any(user.handle == handle.spec.handle_id for user in facts.users):
            return True
    return False
