"""A node's addresses, end to end on a fake API server: what pods get, what the API shows, what survives what."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from crds.blocks import BlockAffinity, IPAMHandle
from crds.core import Node
from crds.meta import ObjectMeta
from crds.pools import IPAMConfiguration, IPReservation, IPReservationSpec
from ipam.requests import Assigned, Exhausted, TryLater
from tests.unit.ipam.ipam_rig import (
    Rig,
    addresses,
    configuration,
    handle,
    pod,
    pool,
    request,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_started_node_owns_a_block_before_the_first_pod(rig: Rig) -> None:
    node = await rig.started()
    assert len(node.blocks()) == 1
    assert await rig.problems() == ()


async def test_an_answer_needs_no_api_call_while_the_block_has_room(rig: Rig) -> None:
    node = await rig.started()
    before = len(rig.store.calls)
    assert isinstance(await node.assign(request("a")), Assigned)
    assert len(rig.store.calls) == before


async def test_asking_again_for_the_same_container_gives_the_same_address(rig: Rig) -> None:
    node = await rig.started()
    assert await node.assign(request("a")) == await node.assign(request("a"))


async def test_block_and_handle_objects_follow(rig: Rig) -> None:
    node = await rig.started()
    address = await pod(rig, node, "a")
    assert not node.is_flushed
    await rig.settle(node)
    assert node.is_flushed
    assert await rig.problems() == ()
    spec = (await rig.only_block()).spec
    assert spec.attributes[0].handle_id == "k8s-pod-network.a"
    assert spec.attributes[0].secondary["pod"] == "a"
    assert spec.allocations[int(address) & 7] == 0


async def test_a_burst_of_pods_is_one_write_of_the_block(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(block_size=26), configuration())
    node = await rig.started()
    await asyncio.gather(*(node.assign(request(f"p{i}")) for i in range(40)))
    before = node.state().writes
    await node.turn()
    assert node.state().writes == before + 1
    assert node.is_flushed


async def test_the_next_block_is_claimed_before_the_last_address_is_gone(rig: Rig) -> None:
    node = await rig.started()
    for number in range(7):
        await pod(rig, node, f"p{number}")
    await rig.settle(node)
    assert len(node.blocks()) == 2
    assert await rig.problems() == ()


async def test_a_pod_that_finds_the_block_full_gets_one_from_a_new_block(rig: Rig) -> None:
    node = await rig.started()
    got = [await pod(rig, node, f"p{number}") for number in range(20)]
    assert len(set(got)) == 20
    assert len(node.blocks()) == 3


async def test_both_families_come_or_none(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(), pool("six", cidr="fd00::/125", block_size=125), configuration())
    node = await rig.started()
    answer = await node.assign(request("a", families=(4, 6)))
    assert isinstance(answer, Assigned)
    assert [address.version for address in answer.addresses] == [4, 6]
    for number in range(7):
        await node.assign(request(f"p{number}", families=(4, 6)))
    refused = await node.assign(request("late", families=(4, 6)))
    assert isinstance(refused, Exhausted)
    assert "six" in refused.why
    assert handle("late") not in node.allocations()
    await rig.settle(node)
    handles = (await rig.store.list(IPAMHandle)).items
    assert all(len(item.spec.block) == 2 for item in handles)


async def test_a_released_address_waits_and_goes_to_the_tail(rig: Rig) -> None:
    node = await rig.started()
    first = await pod(rig, node, "a")
    assert await node.release(handle("a")) == (first,)
    await rig.gone("a")
    await rig.settle(node)
    assert await rig.problems() == ()
    assert (await rig.store.list(IPAMHandle)).items == ()
    assert first not in {await pod(rig, node, f"p{number}") for number in range(7)}
    rig.clock.advance(7)
    await rig.settle(node)
    assert await pod(rig, node, "last") == first


async def test_releasing_what_is_not_there_is_fine(rig: Rig) -> None:
    node = await rig.started()
    await pod(rig, node, "a")
    assert await node.release(handle("nobody")) == ()
    assert len(await node.release(handle("a"))) == 1
    assert await node.release(handle("a")) == ()


async def test_a_full_pool_is_said_in_one_sentence(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(cidr="10.1.0.0/29"), configuration())
    node = await rig.started()
    for number in range(8):
        await pod(rig, node, f"p{number}")
    refused = await node.assign(request("late"))
    assert refused == Exhausted(
        ("pool-a",), "IPPools pool-a have no free address: every block is taken by a node and full"
    )


async def test_without_strict_affinity_the_api_is_asked_before_the_answer(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(), configuration(strict_affinity=False))
    node = await rig.started()
    answer = await node.assign(request("a"))
    assert isinstance(answer, Assigned)
    spec = (await rig.only_block()).spec
    assert spec.allocations.count(0) == 1
    rig.store.go_away()
    refused = await node.assign(request("b"))
    assert isinstance(refused, TryLater)
    rig.store.come_back()
    await rig.settle(node)
    assert handle("b") not in node.allocations()
    assert await rig.problems() == ("IPAMBlock 10-1-0-128-29: 10.1.0.128 is allocated to pod a, which is gone",)


async def test_without_strict_affinity_an_address_that_another_took_is_not_given(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(), configuration(strict_affinity=False))
    node = await rig.started()
    wire = await rig.only_block()
    from ipam.blocks import parse_block, render_block

    borrowed = parse_block(wire).take(0, handle=handle("theirs"), attributes=(("node", "n2"),))
    await rig.store.replace(render_block(borrowed, metadata=wire.metadata))
    answer = await node.assign(request("a"))
    assert isinstance(answer, Assigned)
    assert int(answer.addresses[0]) & 7 != 0
    block = parse_block(await rig.only_block())
    assert {entry.handle for entry in block.allocations().values()} == {handle("theirs"), handle("a")}


async def test_a_block_is_shared_only_after_its_owner_has_flushed_and_said_so(rig: Rig) -> None:
    node = await rig.started()
    await node.assign(request("a"))
    config = (await rig.store.list(IPAMConfiguration)).items[0]
    await rig.change(config, strict_affinity=False)
    assert (await rig.only_block()).spec.strict_affinity is True
    node.see(await rig.view())
    await node.turn()
    spec = (await rig.only_block()).spec
    assert spec.strict_affinity is False
    assert spec.allocations.count(0) == 1


async def test_reservations_are_kept_free(rig: Rig) -> None:
    node = await rig.started()
    block = next(iter(node.blocks()))
    reserved = IPReservationSpec(reserved_cidrs=(f"{block[0]}/30",))
    rig.store.put(IPReservation(metadata=ObjectMeta(name="r"), spec=reserved))
    node.see(await rig.view())
    assert {await pod(rig, node, f"p{number}") for number in range(4)} == {block[i] for i in range(4, 8)}


async def test_a_fixed_address_is_given_and_only_once(rig: Rig) -> None:
    node = await rig.started()
    wanted = addresses("10.1.0.77")
    assert await node.assign(request("a", addresses=wanted)) == Assigned(wanted)
    assert isinstance(await node.assign(request("b", addresses=wanted)), Exhausted)


async def test_a_node_without_a_node_object_gives_nothing(rig: Rig) -> None:
    node = await rig.started()
    await rig.store.delete(Node, "n1")
    node.see(await rig.view())
    assert await node.assign(request("a")) == TryLater("there is no Node object n1")


async def test_a_node_that_was_registered_again_signs_its_blocks_anew(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    await rig.store.delete(Node, "n1")
    from tests.unit.ipam.ipam_rig import node_object

    rig.store.put(node_object(uid="uid-2"))
    node.see(await rig.view())
    assert node.blocks() == frozenset()
    await rig.settle(node)
    assert any(kept in block for block in node.blocks())
    affinity = (await rig.store.list(BlockAffinity)).items[0]
    assert affinity.metadata.annotations["tortie.dev/node-uid"] == (await rig.view()).node_uid
    assert await rig.problems() == ()
    assert msgspec.structs.asdict(affinity.spec)["state"] == "confirmed"
