"""Starts and leftovers: lost journals, addresses only the kernel knows, pods that are gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from ipam.node import Times
from ipam.requests import Assigned, TryLater
from tests.unit.ipam.ipam_rig import (
    Rig,
    crash,
    handle,
    pod,
    refuse_commits,
    request,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


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


async def test_the_interface_says_whose_an_address_is(rig: Rig) -> None:
    node = await rig.started()
    block = next(iter(node.blocks()))
    crash(node)
    again = rig.node()
    again.see(await rig.view())
    await again.recover(kernel_addresses={block[3]: "cali3"}, kernel_handles={block[3]: handle("c")})
    assert again.allocations() == {handle("c"): (block[3],)}


async def test_the_background_task_renews_claims_and_flushes_by_itself(rig: Rig) -> None:
    node = rig.node(times=Times(gather_s=0.001))
    await node.recover(kernel_addresses={})
    running = asyncio.create_task(node.run())
    async with asyncio.timeout(10):
        node.see(await rig.view())
        await node.flushed()
        while not isinstance(await node.assign(request("a")), Assigned):  # noqa: ASYNC110  (until the Lease is renewed)
            await asyncio.sleep(0)
        await node.flushed()
    assert (await rig.only_block()).spec.attributes[0].handle_id == handle("a")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
