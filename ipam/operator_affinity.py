"""BlockAffinity and IPAMBlock: every half state leads somewhere, and blocks of nodes that are gone come back.

A block is owned in two places, its own `affinity` field and a BlockAffinity object, because two nodes may want it at
once and only one create can win. Whoever dies between the two writes leaves a half state. This planner gives each of
them one edge that leads on, one write at a time, and waits before it takes it, for the owner may just be at work:

    state            block            edge
    pending          none             delete the affinity              (a claim that was never finished)
    pending          ours             confirm                          (the claim had won)
    confirmed        none             make the block anew, empty       (its agent then writes in what it gave out)
                                      or delete the affinity           (no pool takes the range any more)
    pendingDeletion  none             delete the affinity              (at once: nothing else can follow)
    pendingDeletion  ours, empty      delete the block
    pendingDeletion  ours, in use     confirm again                    (only its agent frees on a live node)
    any              another's, free  delete the affinity              (it lost)
    no affinity      ours, empty      delete the block
    no affinity      ours, in use     make the affinity, confirmed
    any              nobody's, empty  delete the block
    deleted: true    (either kind)    delete it                        (Calico's two-phase deletion, first phase done)

A node that is gone: free its addresses wherever they are, then pendingDeletion, then the block, then the affinity. A
pool that is being deleted: the same for its empty blocks, but nothing is freed. A block is deleted only at exactly the
version that was seen to be empty, and never while its owner's agent is silent: its journal may know more than the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from crds.blocks import BlockAffinity, IPAMBlock
from crds.meta import ObjectMeta
from crds.names import affinity_name, block_name
from crds.values import NodeName
from ipam.affinity import State, cidr_of, host_affinity, make_affinity, state_of
from ipam.blocks import empty_block, render_block
from ipam.operator_actions import Action, Create, Delete, Replace
from ipam.operator_blocks import BlockFacts, disowned, freed
from ipam.operator_fence import Judge, NodeState
from ipam.operator_patience import Patience
from ipam.operator_world import View
from ipam.pool_conditions import PoolVerdict
from ipam.requests import IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class HealTimes:
    """How long a half state must stand unchanged, in seconds."""

    settle_s: float = 60.0
    """For its owner to finish what it was doing: an agent needs two seconds, a busy API server a few more."""
    release_s: float = 10.0
    """Between pendingDeletion and the deletion of an empty block: for the agent's last write to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinityPlanner:
    """The planner of one pass. `plan` yields at most one action for each block and one for each affinity."""

    view: View
    verdicts: Mapping[str, PoolVerdict]
    judge: Judge
    patience: Patience
    times: HealTimes
    wall_stamp: str

    def plan(self) -> Iterator[Action]:
        affinities = self.view.of(BlockAffinity)
        # Blocks that are to go when empty: of pools being deleted, and of pools that are no more.
        staying = {b.name for v in self.verdicts.values() if v.reason != "Terminating" for b in v.blocks}
        going = {facts.name for facts in self.view.index.all()} - staying
        for affinity in affinities.values():
            yield from self._affinity(affinity, going)
        for facts in self.view.index.all():
            yield from self._block(facts, affinities)

    def _affinity(self, affinity: BlockAffinity, going: set[str]) -> Iterator[Action]:
        spec, cidr = affinity.spec, cidr_of(affinity)
        if spec.type == "virtual" or cidr is None:
            return
        facts = self.view.index.get(block_name(cidr))
        state = state_of(affinity)
        if spec.deleted:
            if self._ripe(affinity, facts, self.times.settle_s):
                yield Delete(affinity, "its deletion was begun and never finished")
        elif facts is None:
            yield from self._without_block(affinity, state, cidr)
        elif facts.affinity != f"host:{spec.node}":
            if self._ripe(affinity, facts, self.times.settle_s):
                yield Delete(affinity, f"the block belongs to {facts.affinity or 'nobody'}")
        elif self.judge.node(spec.node) is not NodeState.GONE:
            yield from self._own_block(affinity, state, facts, going)
        elif state is not State.PENDING_DELETION and not self._users_to_free(facts):
            yield self._to(affinity, State.PENDING_DELETION, "its node is gone")

    def _without_block(self, affinity: BlockAffinity, state: State, cidr: IPNetwork) -> Iterator[Action]:
        if state is State.PENDING_DELETION:
            yield Delete(affinity, "its block is deleted")
        elif self.judge.node(affinity.spec.node) is NodeState.GONE:
            yield Delete(affinity, "its node is gone, and so is its block")
        elif self._ripe(affinity, None, self.times.settle_s):
            if state is State.CONFIRMED and self._is_in_a_pool(cidr):
                yield Create(self._new_block(affinity.spec.node, cidr), "confirmed affinity without a block")
            else:
                yield Delete(affinity, f"{state.value} affinity without a block")

    def _own_block(self, affinity: BlockAffinity, state: State, facts: BlockFacts, going: set[str]) -> Iterator[Action]:
        settled = self.judge.node(affinity.spec.node) in (NodeState.CONNECTED, NodeState.AGENTLESS)
        if state is State.PENDING:
            if self._ripe(affinity, facts, self.times.settle_s):
                yield self._to(affinity, State.CONFIRMED, "the block is its own")
        elif state is State.CONFIRMED:
            if facts.name in going and facts.is_empty and settled and self._ripe(affinity, facts, self.times.release_s):
                yield self._to(affinity, State.PENDING_DELETION, "its pool is going or gone and the block is empty")
        elif facts.is_empty:
            if settled and self._ripe(affinity, facts, self.times.release_s):
                yield Delete(facts.block, "released, and empty")
        elif self._ripe(affinity, facts, self.times.settle_s):
            yield self._to(affinity, State.CONFIRMED, "released while in use: only its agent frees on a live node")

    def _block(self, facts: BlockFacts, affinities: Mapping[str, BlockAffinity]) -> Iterator[Action]:
        if facts.block.spec.deleted:
            if facts.is_empty and self._ripe(None, facts, self.times.settle_s):
                yield Delete(facts.block, "its deletion was begun and never finished")
            return
        leaving = self._users_to_free(facts)
        if leaving:
            nodes = ", ".join(sorted({user.node for user in facts.users if user.ordinal in leaving}))
            yield Replace(freed(facts.block, leaving), f"{len(leaving)} addresses of gone nodes: {nodes}")
            return
        affinity = affinities.get(affinity_name(facts.node, facts.cidr)) if facts.node else None
        if facts.node and self.judge.node(facts.node) is NodeState.GONE:
            if affinity is None or state_of(affinity) is State.PENDING_DELETION:
                yield self._let_go(facts)
        elif affinity is None and not facts.affinity.startswith("virtual:"):
            yield from self._without_affinity(facts)

    def _without_affinity(self, facts: BlockFacts) -> Iterator[Action]:
        state = self.judge.node(facts.node) if facts.node else NodeState.AGENTLESS
        if facts.is_empty:
            if state is not NodeState.SILENT and self._ripe(None, facts, self.times.settle_s):
                yield Delete(facts.block, "empty, and without an affinity")
        elif facts.node and self._ripe(None, facts, self.times.settle_s):
            # Signed by no Node: its agent confirms once more, by compare-and-swap, before it uses the block.
            affinity = make_affinity(NodeName(facts.node), facts.cidr, state=State.CONFIRMED, uid="")
            yield Create(affinity, "block in use without an affinity")

    def _let_go(self, facts: BlockFacts) -> Action:
        if facts.is_empty:
            return Delete(facts.block, f"node {facts.node} is gone and the block is empty")
        return Replace(disowned(facts.block), f"node {facts.node} is gone; others borrow from the block")

    def _users_to_free(self, facts: BlockFacts) -> frozenset[int]:
        return frozenset(u.ordinal for u in facts.users if u.node and self.judge.node(u.node) is NodeState.GONE)

    def _is_in_a_pool(self, cidr: IPNetwork) -> bool:
        pools = [verdict.cidr for verdict in self.verdicts.values() if verdict.allocatable and verdict.cidr]
        return any(pool.version == cidr.version and cidr.subnet_of(pool) for pool in pools)  # type: ignore[arg-type]

    def _ripe(self, affinity: BlockAffinity | None, facts: BlockFacts | None, after_s: float) -> bool:
        """Both objects unchanged for that long? The name of either is the key, their versions the fingerprint."""
        name = affinity.metadata.name if affinity else facts.name if facts else ""
        a = affinity.metadata.resource_version if affinity else "none"
        b = facts.block.metadata.resource_version if facts else "none"
        return self.patience.ripe(("half", "affinity" if affinity else "block", name), (a, b), after_s=after_s)

    def _new_block(self, node: str, cidr: IPNetwork) -> IPAMBlock:
        block = empty_block(cidr, affinity=host_affinity(NodeName(node)), claim_time=self.wall_stamp)
        return render_block(block, metadata=ObjectMeta(name=block_name(cidr)))

    @staticmethod
    def _to(affinity: BlockAffinity, state: State, why: str) -> Action:
        spec = msgspec.structs.replace(affinity.spec, state=state.value)
        return Replace(msgspec.structs.replace(affinity, spec=spec), f"{affinity.spec.state} -> {state.value}: {why}")
