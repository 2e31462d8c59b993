"""A node's addresses, end to end on a fake API server: what pods get, what the API shows, what survives what."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Node
from crds.fake_faults import Moment
from crds.pools import IPAMConfiguration, IPPool, IPReservation, IPReservationSpec
from crds.errors import ApiError, Conflict
from crds.meta import ObjectMeta
from ipam.node import NodeIPAM
from ipam.requests import Assigned, Exhausted, IPAddress, TryLater
from tests.unit.ipam.ipam_rig import (
    Rig,
    addresses,
    configuration,
    crash,
    handle,
    pod_object,
    pool,
    refuse_commits,
    request,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def pod(rig: Rig, node: NodeIPAM, name: str) -> IPAddress:
    """A pod with an address, as an ADD and the annotation after it leave it."""
    await rig.store.create(pod_object(name, node=node.node))
    answer = await node.assign(request(name))
    assert isinstance(answer, Assigned), answer
    rig.store.put(pod_object(name, node=node.node, addresses=answer.addresses))
    return answer.addresses[0]


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


# -- the API server is away ---------------------------------------------------------------------------------------------


async def test_add_and_del_work_while_the_api_server_is_away(rig: Rig) -> None:
    node = await rig.started()
    first = await pod(rig, node, "a")
    await rig.settle(node)
    rig.store.go_away()
    answer = await node.assign(request("b"))
    assert isinstance(answer, Assigned)
    assert await node.release(handle("a")) == (first,)
    assert not await node.turn()
    assert node.state().problem
    rig.store.come_back()
    await rig.gone("a")
    rig.store.put(pod_object("b", addresses=answer.addresses))
    await rig.settle(node)
    assert node.is_flushed
    assert await rig.problems() == ()


async def test_a_full_block_and_no_api_server_means_try_again_later(rig: Rig) -> None:
    node = await rig.started()
    rig.store.go_away()
    answers = [await node.assign(request(f"p{number}")) for number in range(9)]
    assert all(isinstance(answer, Assigned) for answer in answers[:8])
    assert isinstance(answers[8], TryLater)
    assert "no other can be claimed now" in answers[8].why


async def test_an_agent_that_restarts_without_an_api_server_goes_on(rig: Rig) -> None:
    node = await rig.started()
    first = await pod(rig, node, "a")
    await rig.settle(node)
    crash(node)
    rig.store.go_away()
    again = rig.node()
    await again.recover(kernel_addresses={first: "cali1"})
    answer = await again.assign(request("b"))
    assert isinstance(answer, Assigned)
    assert answer.addresses[0] != first
    assert again.blocks() == node.blocks()
    rig.store.come_back()
    rig.store.put(pod_object("b", addresses=answer.addresses))
    await rig.settle(again)
    assert await rig.problems() == ()


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("error", [Conflict("somebody was quicker"), ApiError("boom"), TimeoutError()])
@pytest.mark.parametrize("which", range(12))
async def test_any_write_may_fail_or_its_answer_be_lost(
    tmp_path: Path, which: int, error: Exception, moment: Moment
) -> None:
    if isinstance(error, Conflict) and moment is Moment.AFTER:
        error = ConnectionError("reset")
    rig = Rig(tmp_path)
    verbs = [("create", kind) for kind in (BlockAffinity, IPAMBlock, IPAMHandle)]
    verbs += [("replace", kind) for kind in (BlockAffinity, IPAMBlock, IPAMHandle)]
    verbs += [("delete", kind) for kind in (BlockAffinity, IPAMBlock, IPAMHandle)]
    verbs += [("get", kind) for kind in (BlockAffinity, IPAMBlock, IPAMHandle)]
    verb, kind = verbs[which]
    rig.store.fail_next(verb, kind, error, moment=moment, times=2)  # type: ignore[arg-type]
    node = rig.node()
    node.see(await rig.view())
    await node.recover(kernel_addresses={})
    await node.renew_once()
    await rig.settle(node)
    used: dict[str, IPAddress] = {}
    for number in range(10):
        answer = await node.assign(request(f"p{number}"))
        if isinstance(answer, Assigned):
            used[f"p{number}"] = answer.addresses[0]
            rig.store.put(pod_object(f"p{number}", addresses=answer.addresses))
    await rig.settle(node)
    for name in ("p0", "p3"):
        if name in used:
            await node.release(handle(name))
            await rig.gone(name)
            del used[name]
    await rig.settle(node, rounds=6)
    assert len(set(used.values())) == len(used) >= 6
    assert await rig.problems() == ()
    assert node.is_flushed


# -- the journal --------------------------------------------------------------------------------------------------------


async def test_a_journal_that_cannot_be_written_gives_no_address(rig: Rig) -> None:
    node = await rig.started()
    refuse_commits(node.journal)
    answer = await node.assign(request("a"))
    assert isinstance(answer, TryLater)
    assert "journal cannot be written" in answer.why
    assert node.allocations() == {}
    assert node.state().blocks[0].free == 8


async def test_a_lost_journal_is_rebuilt_before_the_first_add(rig: Rig) -> None:
    node = await rig.started()
    flushed = await pod(rig, node, "a")
    await rig.settle(node)
    unflushed = await pod(rig, node, "b")
    crash(node)
    again = rig.node(machine="fresh-disk")
    assert isinstance(await again.assign(request("c")), TryLater)
    await again.recover(kernel_addresses={flushed: "cali1", unflushed: "cali2"})
    assert isinstance(await again.assign(request("c")), TryLater)
    again.see(await rig.view())
    await again.turn()
    rig.clock.advance(1)
    await again.renew_once()
    rig.clock.advance(20)
    await again.renew_once()
    await rig.settle(again)
    got = {await pod(rig, again, f"p{number}") for number in range(6)}
    assert len(got | {flushed, unflushed}) == 8
    await rig.settle(again)
    assert await rig.problems() == ()


async def test_an_address_that_only_the_kernel_knows_is_not_given_out(rig: Rig) -> None:
    node = await rig.started()
    block = next(iter(node.blocks()))
    crash(node)
    rig.clock.advance(1)
    again = await rig.started(kernel={block[0]: "cali9"})
    assert block[0] not in {await pod(rig, again, f"p{number}") for number in range(7)}
    again.see_kernel({})
    for _ in range(3):
        rig.clock.advance(61)
        await again.renew_once()
        await rig.settle(again, rounds=1)
    rig.clock.advance(10)
    await rig.settle(again)
    assert await pod(rig, again, "last") == block[0]


async def test_a_crash_before_the_fsync_leaves_no_trace_and_after_it_no_doubt(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    crash(node)
    again = await rig.started()
    assert again.allocations() == {handle("a"): (kept,)}


async def test_a_pods_leftover_is_collected_after_two_looks_and_a_live_one(rig: Rig) -> None:
    node = await rig.started()
    await pod(rig, node, "gone")
    kept = await pod(rig, node, "kept")
    await rig.settle(node)
    await rig.gone("gone")
    rig.clock.advance(61)
    await node.renew_once()
    await rig.settle(node, rounds=2)
    assert handle("gone") in node.allocations()
    rig.clock.advance(61)
    await rig.settle(node)
    assert node.allocations() == {handle("kept"): (kept,)}
    assert await rig.problems() == ()


async def test_a_pod_that_the_watch_lost_but_the_api_has_keeps_its_address(rig: Rig) -> None:
    node = await rig.started()
    kept = await pod(rig, node, "a")
    await rig.settle(node)
    for _ in range(4):
        rig.clock.advance(61)
        node.see(msgspec_replace(await rig.view(), pods=()))
        await node.turn()
    assert node.allocations() == {handle("a"): (kept,)}


def msgspec_replace(view: object, **fields: object) -> object:
    from dataclasses import replace

    return replace(view, **fields)  # type: ignore[type-var]


# -- others write our objects -------------------------------------------------------------------------------------------


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
    assert [p for p in await rig.problems() if "IPAMBlock" in p or "Pod" in p] == []


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


# -- settings -----------------------------------------------------------------------------------------------------------


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
