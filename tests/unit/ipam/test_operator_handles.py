"""Handles that are missing while their addresses stand, and those that count nothing."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from crds.blocks import IPAMBlock, IPAMHandle, IPAMHandleSpec
from crds.core import Lease, LeaseSpec, Node
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta, Resource
from crds.names import block_name, handle_name
from crds.values import HandleID
from ipam.blocks import Block, empty_block, render_block
from ipam.operator_actions import Action, Create
from ipam.operator_blocks import BlockIndex, facts_of
from ipam.operator_fence import Judge, JudgeTimes
from ipam.operator_leaks import MADE_AT_ONCE, LeakPlanner, is_still_missed, is_still_orphan
from ipam.operator_patience import Patience
from ipam.operator_world import WATCHED, View

CIDR = ip_network("10.0.0.0/25")
WEB = HandleID("net.web")


def block(*handles: str) -> Block:
    made = empty_block(CIDR, affinity="host:n1")
    for ordinal, handle in enumerate(handles):
        made = made.take(ordinal, handle=HandleID(handle), attributes=())
    return made


def wire(value: Block, *, version: str = "1") -> IPAMBlock:
    return render_block(value, metadata=ObjectMeta(name=block_name(CIDR), resource_version=version))


def handle(name: str = WEB, *, version: str = "1") -> IPAMHandle:
    meta = ObjectMeta(name=handle_name(HandleID(name)), resource_version=version)
    return IPAMHandle(metadata=meta, spec=IPAMHandleSpec(handle_id=name, block={str(CIDR): 1}))


class Operator:
    """Passes over a cluster of one live node that owns one block."""

    def __init__(self) -> None:
        self.patience = Patience()

    def look(self, now_s: float, stored: IPAMBlock, *handles: IPAMHandle) -> list[Action]:
        objects: dict[type[Resource], dict[str, Any]] = {kind: {} for kind in WATCHED}
        objects[IPAMBlock] = {stored.metadata.name: stored}
        objects[IPAMHandle] = {one.metadata.name: one for one in handles}
        objects[Node] = {"n1": Node(metadata=ObjectMeta(name="n1", uid="u1"))}
        spec = LeaseSpec(holder_identity="u1", renew_time=str(now_s), lease_duration_seconds=3600)
        lease = Lease(metadata=ObjectMeta(name="tortie-agent-n1"), spec=spec)
        index = BlockIndex([facts for facts in (facts_of(stored),) if facts])
        view = View(index=index, objects=objects, leases={lease.metadata.name: lease})
        self.patience.begin(now_s=now_s)
        judge = Judge(view, patience=self.patience, times=JudgeTimes())
        actions = list(LeakPlanner(view=view, judge=judge, patience=self.patience, settle_s=60.0).plan())
        self.patience.end()
        return actions


def test_a_handle_taken_from_under_a_live_nodes_address_is_made_again_however_busy_the_block() -> None:
    operator = Operator()
    busy = [operator.look(float(now), wire(block(WEB), version=str(now))) for now in (0, 20, 40, 60)]
    assert busy[:-1] == [[], [], []]
    (action,) = busy[-1]
    assert isinstance(action, Create)
    assert action.obj == IPAMHandle(
        metadata=ObjectMeta(name=handle_name(WEB)), spec=IPAMHandleSpec(handle_id=WEB, block={str(CIDR): 1})
    )


def test_a_handle_that_is_only_late_is_left_to_its_agent() -> None:
    operator = Operator()
    operator.look(0.0, wire(block(WEB)))
    operator.look(50.0, wire(block(WEB)), handle())
    assert operator.look(70.0, wire(block(WEB))) == []


def test_a_live_nodes_handle_that_counts_nothing_is_its_agents_to_delete() -> None:
    operator = Operator()
    assert [operator.look(float(now), wire(block()), handle()) for now in (0, 100, 1000)] == [[], [], []]


def test_many_missing_handles_are_made_a_few_at_a_time_and_none_is_forgotten() -> None:
    many = wire(block(*(f"net.{number}" for number in range(MADE_AT_ONCE + 20))))
    operator = Operator()
    operator.look(0.0, many)
    first = operator.look(60.0, many)
    assert len(first) == MADE_AT_ONCE
    made = tuple(action.obj for action in first if isinstance(action, Create) and isinstance(action.obj, IPAMHandle))
    assert len(operator.look(61.0, many, *made)) == 20


@pytest.mark.parametrize(("stored", "missed", "orphan"), [(block(WEB), True, False), (block(), False, True)])
async def test_the_block_is_read_once_more_before_a_handle_is_made_or_deleted(
    stored: Block, *, missed: bool, orphan: bool
) -> None:
    store = FakeStore()
    await store.create(render_block(stored, metadata=ObjectMeta(name=block_name(CIDR))))
    assert (await is_still_missed(store, handle()), await is_still_orphan(store, handle())) == (missed, orphan)
    store.go_away()
    assert (await is_still_missed(store, handle()), await is_still_orphan(store, handle())) == (False, False)
