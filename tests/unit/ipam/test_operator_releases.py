"""What the planner does with blocks of live nodes: nothing that its agent might know better."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from crds.blocks import BlockAffinity, IPAMBlock
from crds.core import Lease, LeaseSpec, Node
from crds.meta import ObjectMeta, Resource
from crds.names import block_name
from crds.pools import POOL_FINALIZER, IPPool, IPPoolSpec
from crds.values import NodeName
from ipam.affinity import State, make_affinity
from ipam.blocks import empty_block, render_block
from ipam.operator_actions import Action, Delete, Replace
from ipam.operator_affinity import AffinityPlanner, HealTimes
from ipam.operator_blocks import BlockIndex, facts_of
from ipam.operator_fence import Judge, JudgeTimes
from ipam.operator_patience import Patience
from ipam.operator_world import WATCHED, View
from ipam.pool_conditions import judge_pools

CIDR = ip_network("10.0.0.0/26")
NOW = "2026-01-01T00:00:00Z"


def versioned(meta: ObjectMeta, version: str = "1") -> ObjectMeta:
    return msgspec.structs.replace(meta, resource_version=version)


class Operator:
    """Passes over a cluster of one pool, one node and one empty block."""

    def __init__(self, *, state: State = State.CONFIRMED, deleted_at: str = NOW) -> None:
        meta = ObjectMeta(name="p", deletion_timestamp=deleted_at, finalizers=(POOL_FINALIZER,), resource_version="1")
        self.pool = IPPool(metadata=meta, spec=IPPoolSpec(cidr="10.0.0.0/16"))
        claim = make_affinity(NodeName("n1"), CIDR, state=state, uid="u1")
        self.claim = msgspec.structs.replace(claim, metadata=versioned(claim.metadata))
        value = empty_block(CIDR, affinity="host:n1")
        self.block = render_block(value, metadata=ObjectMeta(name=block_name(CIDR), resource_version="1"))
        self.patience = Patience()

    def look(self, now_s: float, *, renewed: str | None) -> list[Action]:
        index = BlockIndex([facts for facts in (facts_of(self.block),) if facts])
        objects: dict[type[Resource], dict[str, Any]] = {kind: {} for kind in WATCHED}
        objects |= {
            IPPool: {"p": self.pool},
            BlockAffinity: {self.claim.name: self.claim},
            IPAMBlock: {self.block.name: self.block},
            Node: {"n1": Node(metadata=ObjectMeta(name="n1", uid="u1"))},
        }
        spec = LeaseSpec(holder_identity="u1", renew_time=renewed, lease_duration_seconds=3600)
        lease = Lease(metadata=ObjectMeta(name="tortie-agent-n1"), spec=spec)
        view = View(index=index, objects=objects, leases={lease.name: lease} if renewed is not None else {})
        self.patience.begin(now_s=now_s)
        judge = Judge(view, patience=self.patience, times=JudgeTimes())
        verdicts = judge_pools([self.pool], index)
        planner = AffinityPlanner(
            view=view, verdicts=verdicts, judge=judge, patience=self.patience, times=HealTimes(), wall_stamp=NOW
        )
        actions = list(planner.plan())
        self.patience.end()
        return actions


def test_an_empty_block_of_a_going_pool_is_released_while_its_agent_renews() -> None:
    operator = Operator()
    passes = [operator.look(float(now), renewed=str(now)) for now in (0, 10, 20, 30)]
    assert passes[0] == []
    (action,) = passes[-1]
    assert isinstance(action, Replace)
    assert isinstance(action.obj, BlockAffinity)
    assert action.obj.spec.state == "pendingDeletion"


@pytest.mark.parametrize("state", [State.CONFIRMED, State.PENDING_DELETION])
def test_an_empty_block_is_kept_while_its_agent_is_silent(state: State) -> None:
    operator = Operator(state=state)
    assert [operator.look(now, renewed="stale") for now in (0.0, 100.0, 1000.0, 1e6)] == [[], [], [], []]


def test_an_empty_block_of_a_node_without_any_agent_is_released() -> None:
    operator = Operator(state=State.PENDING_DELETION)
    operator.look(0.0, renewed=None)
    (action,) = operator.look(20.0, renewed=None)
    assert isinstance(action, Delete)
    assert action.obj == operator.block


def test_a_pool_that_stays_keeps_its_blocks() -> None:
    operator = Operator(deleted_at="")
    assert [operator.look(float(now), renewed=str(now)) for now in range(0, 1000, 10)] == [[]] * 100
