"""Somebody else writes this node's objects: releases, deleted blocks and pools, other owners."""

from __future__ import annotations

from pathlib import Path

import pytest

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.pools import IPPool
from ipam.requests import Exhausted
from ipam.writer import DOUBT_S
from tests.unit.ipam.ipam_rig import (
    Rig,
    configuration,
    handle,
    pod,
    pool,
    request,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def released_by_hand(rig: Rig) -> None:
    """What `calicoctl ipam release --force` does to every address of the one block."""
    wire = await rig.only_block()
    size = len(wire.spec.allocations)
    await rig.change(
        wire,
        allocations=(None,) * size,
        unallocated=tuple(range(size)),
        attributes=(),
        sequence_number_for_allocation={},
        sequence_number=wire.spec.sequence_number + 1,
    )
    for item in (await rig.store.list(IPAMHandle)).items:
        await rig.store.delete(IPAMHandle, item.metadata.name)


async def test_a_release_by_somebody_else_of_a_running_pod_is_undone(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    rig.clock.advance(100)
    await node.renew_once()
    await released_by_hand(rig)
    await rig.settle(node)
    assert node.allocations() == {handle("a"): (kept,)}
    assert "was released, but k8s-pod-network.a still uses it" in node.state().sentences[0]
    assert await rig.problems() == ()


async def test_a_handle_that_is_deleted_after_its_address_was_asserted_again_comes_back(rig: Rig) -> None:
    node = await rig.started()
    await pod(rig, node, "a")
    await rig.settle(node)
    await released_by_hand(rig)
    await rig.settle(node)
    for item in (await rig.store.list(IPAMHandle)).items:  # calicoctl deletes it last
        await rig.store.delete(IPAMHandle, item.metadata.name)
    rig.clock.advance(DOUBT_S)
    await rig.settle(node)
    assert await rig.problems() == ()


async def test_a_release_by_somebody_else_of_a_pod_that_is_gone_is_accepted(rig: Rig) -> None:
    node = await rig.started()
    await pod(rig, node, "a")
    await rig.settle(node)
    rig.clock.advance(100)
    await node.renew_once()
    await rig.gone("a")
    await released_by_hand(rig)
    await rig.settle(node)
    assert node.allocations() == {}
    assert await rig.problems() == ()


async def test_a_block_deleted_under_running_pods_is_claimed_again_with_them(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    await rig.store.delete(IPAMBlock, (await rig.only_block()).metadata.name)
    await rig.store.delete(BlockAffinity, (await rig.store.list(BlockAffinity)).items[0].metadata.name)
    await rig.settle(node)
    assert node.exceptions() == frozenset()
    assert any(kept in block for block in node.blocks())
    assert await rig.problems() == ()


async def test_a_pool_deleted_under_running_pods_makes_their_addresses_exceptions(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    await rig.store.delete(IPPool, "pool-a")
    await rig.store.delete(IPAMBlock, (await rig.only_block()).metadata.name)
    await rig.store.delete(BlockAffinity, (await rig.store.list(BlockAffinity)).items[0].metadata.name)
    await rig.settle(node)
    assert node.blocks() == frozenset()
    assert node.exceptions() == frozenset({kept})
    assert isinstance(await node.assign(request("b")), Exhausted)
    assert await node.release(handle("a")) == (kept,)
    await rig.settle(node)
    assert node.exceptions() == frozenset()
    await rig.gone("a")
    assert await rig.problems() == ()


async def test_an_affinity_that_is_gone_stops_the_use_of_its_block_at_once(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    affinity = (await rig.store.list(BlockAffinity)).items[0]
    await rig.change(affinity, state="pendingDeletion")
    node.see(await rig.view())
    assert node.blocks() == frozenset()
    assert node.exceptions() == frozenset({kept})
    await rig.settle(node)
    assert node.exceptions() == frozenset()
    assert await rig.problems() == ()


async def test_a_block_that_another_node_owns_now_is_left_to_it(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    await rig.change(await rig.only_block(), affinity="host:n2")
    node.see(await rig.view())
    await rig.settle(node)
    assert node.exceptions() == frozenset({kept})
    assert kept not in {await pod(rig, node, f"p{number}") for number in range(8)}


async def test_an_empty_block_on_its_way_out_is_given_back(rig: Rig) -> None:
    node = await rig.started()
    rig.store.put(pool(disabled=True))
    affinity = (await rig.store.list(BlockAffinity)).items[0]
    await rig.change(affinity, state="pendingDeletion")
    await rig.settle(node)
    assert (await rig.store.list(IPAMBlock)).items == ()
    assert (await rig.store.list(BlockAffinity)).items == ()


async def test_surplus_blocks_go_back_after_a_while_but_never_the_last(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(block_size=26), configuration())
    node = await rig.started()
    for number in range(130):
        await pod(rig, node, f"p{number}")
    await rig.settle(node)
    assert len(node.blocks()) == 3
    for number in range(130):
        await node.release(handle(f"p{number}"))
        await rig.gone(f"p{number}")
    for _ in range(4):
        rig.clock.advance(400)
        await node.renew_once()
        await rig.settle(node)
    assert len(node.blocks()) == 1
    assert await rig.problems() == ()
