"""The fence: who may give out addresses, for how long alone, and what happens when two believe to be one node."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crds.core import Lease
from crds.meta import ObjectMeta
from ipam.fence import GENERATION, INSTANCE, JOURNAL, Identity, Observe, Take, decide
from ipam.requests import Assigned, TryLater
from tests.unit.ipam.ipam_rig import Rig, crash, pod, request

ME = Identity("uid-1", "instance-1", "journal-1", 5)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def lease(
    *, instance: str = "instance-1", journal: str = "journal-1", generation: int = 5, uid: str = "uid-1"
) -> Lease:
    marks = {INSTANCE: instance, JOURNAL: journal, GENERATION: str(generation)}
    made = Lease(metadata=ObjectMeta(name="tortie-agent-n1", annotations=marks))
    return Lease(metadata=made.metadata, spec=type(made.spec)(holder_identity=uid))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (None, Take()),
        (lease(), Take()),
        (lease(generation=4), Take()),
        (lease(generation=8), Take(older_copy=3)),
        (lease(instance="before-the-reboot"), Take()),
        (lease(instance="a-clone", generation=8), Observe("a-clone", older_copy=3)),
        (lease(instance="elsewhere", journal="another"), Observe("elsewhere")),
        (lease(instance="elsewhere", journal="another", uid="an-older-node-object"), Take()),
    ],
)
def test_who_may_take_the_lease_at_once(found: Lease | None, verdict: Take | Observe) -> None:
    assert decide(found, ME) == verdict


async def test_nothing_is_given_out_before_the_first_renewal(rig: Rig) -> None:
    node = rig.node()
    node.see(await rig.view())
    await node.recover(kernel_addresses={})
    assert await node.assign(request("a")) == TryLater("this agent has not yet renewed its Lease")


async def test_the_fence_closes_after_an_hour_alone_and_opens_with_the_next_renewal(rig: Rig) -> None:
    node = await rig.started()
    rig.store.go_away()
    rig.clock.advance(3599)
    assert isinstance(await node.assign(request("a")), Assigned)
    rig.clock.advance(1)
    refused = await node.assign(request("b"))
    assert isinstance(refused, TryLater)
    assert refused.why == "the API server has not been reached for 3600 s (limit 3600 s)"
    await node.renew_once()
    assert isinstance(await node.assign(request("b")), TryLater)
    rig.store.come_back()
    await node.renew_once()
    assert isinstance(await node.assign(request("b")), Assigned)


async def test_a_pod_may_still_be_taken_down_when_the_fence_is_closed(rig: Rig) -> None:
    node = await rig.started()
    answer = await node.assign(request("a"))
    assert isinstance(answer, Assigned)
    rig.clock.advance(4000)
    assert await node.release(request("a").handle) == answer.addresses


async def test_a_restart_does_not_open_a_closed_fence(rig: Rig) -> None:
    crash(await rig.started())
    rig.store.go_away()
    rig.clock.advance(3000)
    again = rig.node()
    await again.recover(kernel_addresses={})
    assert isinstance(await again.assign(request("a")), Assigned)
    crash(again)
    rig.clock.advance(700)
    third = rig.node()
    await third.recover(kernel_addresses={})
    assert isinstance(await third.assign(request("b")), TryLater)


async def test_a_reboot_closes_the_fence_until_a_renewal_which_need_not_wait(rig: Rig) -> None:
    crash(await rig.started())
    rig.clock.reboot(boot_id="boot-2")
    again = rig.node(boot="2")
    again.see(await rig.view())
    await again.recover(kernel_addresses={})
    refused = await again.assign(request("a"))
    assert refused == TryLater("this machine was started again and its agent has not yet renewed its Lease")
    await again.renew_once()
    assert isinstance(await again.assign(request("a")), Assigned)


async def test_of_two_agents_that_believe_to_be_one_node_the_second_refuses(rig: Rig) -> None:
    first = await rig.started()
    second = rig.node(machine="clone")
    second.see(await rig.view())
    await second.recover(kernel_addresses={})
    for _ in range(5):
        await second.renew_once()
        rig.clock.advance(10)
        await first.renew_once()
        assert isinstance(await second.assign(request("a")), TryLater)
    await second.renew_once()
    refused = await second.assign(request("a"))
    assert isinstance(refused, TryLater)
    assert "is alive as node n1: two machines share this node's name or state" in refused.why
    assert isinstance(await first.assign(request("a")), Assigned)


async def test_a_clone_announces_no_block_of_the_node_and_the_node_goes_on(rig: Rig) -> None:
    first = await rig.started()
    assert isinstance(await first.assign(request("a")), Assigned)
    await rig.settle(first)
    clone = rig.node(machine="clone")
    clone.see(await rig.view())
    await clone.recover(kernel_addresses={})
    for _ in range(3):
        await clone.renew_once()
        assert (clone.blocks(), clone.exceptions(), clone.state().blocks) == (frozenset(), frozenset(), ())
        rig.clock.advance(10)
        await first.renew_once()
    assert first.blocks()


async def test_a_clone_that_has_not_looked_at_the_lease_yet_frees_nothing(rig: Rig) -> None:
    first = await rig.started()
    await pod(rig, first, "a")
    await rig.settle(first)
    before = await rig.only_block()
    clone = rig.node(machine="clone")
    clone.see(await rig.view())
    await clone.recover(kernel_addresses={})
    assert await clone.release(request("a").handle), "it finds no interface for that"
    await clone.turn()
    assert await rig.only_block() == before
    await first.release(request("a").handle)
    await first.turn()
    assert await rig.only_block() != before, "as the node itself would"


async def test_whoever_takes_over_a_dead_machine_announces_its_blocks(rig: Rig) -> None:
    first = await rig.started()
    blocks = first.blocks()
    crash(first)
    second = rig.node(machine="new-machine")
    second.see(await rig.view())
    await second.recover(kernel_addresses={})
    await second.renew_once()
    assert second.blocks() == frozenset()
    rig.clock.advance(16)
    await second.renew_once()
    assert second.blocks() == blocks


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_agent_that_had_the_lease_keeps_its_announcements_whoever_has_it_now(
    rig: Rig, *, restarts: bool
) -> None:
    agent = await rig.started()
    answer = await agent.assign(request("a"))
    assert isinstance(answer, Assigned)
    blocks = agent.blocks()
    thief = rig.node(machine="thief")
    thief.see(await rig.view())
    await thief.recover(kernel_addresses={})
    await thief.renew_once()
    rig.clock.advance(16)
    await thief.renew_once()
    if restarts:
        crash(agent)
        agent = rig.node()
        agent.see(await rig.view())
        await agent.recover(kernel_addresses=dict.fromkeys(answer.addresses, "cali1"))
    for _ in range(3):
        await agent.renew_once()
        rig.clock.advance(10)
        await thief.renew_once()
    assert "two machines share" in agent.closed()
    assert agent.blocks() == blocks


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_agent_alone_keeps_its_announcements_however_long(rig: Rig, *, restarts: bool) -> None:
    agent = await rig.started()
    blocks = agent.blocks()
    rig.store.go_away()
    if restarts:
        crash(agent)
        agent = rig.node()
        await agent.recover(kernel_addresses={})
    rig.clock.advance(7200)
    await agent.renew_once()
    assert isinstance(await agent.assign(request("a")), TryLater)
    assert blocks
    assert agent.blocks() == blocks


async def test_an_agent_that_lost_all_memory_goes_on_for_its_pods_while_it_waits(rig: Rig) -> None:
    agent = await rig.started()
    answer = await agent.assign(request("a"))
    assert isinstance(answer, Assigned)
    await rig.settle(agent)
    blocks = agent.blocks()
    crash(agent)
    again = rig.node(machine="the-same-with-its-disk-wiped")
    again.see(await rig.view())
    await again.recover(kernel_addresses=dict.fromkeys(answer.addresses, "cali1"))
    await again.renew_once()
    assert "waiting to see" in again.closed()
    assert again.blocks() == blocks


async def test_a_machine_that_replaces_a_dead_one_takes_over_after_watching(rig: Rig) -> None:
    crash(await rig.started())
    second = rig.node(machine="new-machine")
    second.see(await rig.view())
    await second.recover(kernel_addresses={})
    await second.renew_once()
    assert isinstance(await second.assign(request("a")), TryLater)
    rig.clock.advance(16)
    await second.renew_once()
    assert isinstance(await second.assign(request("a")), Assigned)


async def test_the_first_agent_notices_that_another_took_its_lease(rig: Rig) -> None:
    first = await rig.started()
    second = rig.node(machine="new-machine")
    second.see(await rig.view())
    await second.recover(kernel_addresses={})
    await second.renew_once()
    rig.clock.advance(16)
    await second.renew_once()
    await first.renew_once()
    refused = await first.assign(request("a"))
    assert isinstance(refused, TryLater)
    assert "two machines share" in refused.why


async def test_an_older_copy_of_the_journal_is_noticed_after_a_reboot_and_rebuilt(rig: Rig, tmp_path: Path) -> None:
    node = await rig.started()
    crash(node)
    shutil.copytree(tmp_path / "n1" / "var", tmp_path / "copy")
    node = await rig.started()
    answer = await node.assign(request("a"))
    assert isinstance(answer, Assigned)
    await node.renew_once()
    await rig.settle(node)
    crash(node)
    shutil.rmtree(tmp_path / "n1" / "var")
    (tmp_path / "copy").rename(tmp_path / "n1" / "var")
    rig.clock.reboot(boot_id="boot-2")
    again = rig.node(boot="2")
    again.see(await rig.view())
    await again.recover(kernel_addresses={})
    assert isinstance(await again.assign(request("b")), TryLater)
    await again.renew_once()
    rig.clock.advance(16)
    await again.renew_once()
    await rig.settle(again)
    assert "older copy" in again.state().rebuilt_because
    assert again.allocations() == {request("a").handle: answer.addresses}
    assert isinstance(await again.assign(request("b")), Assigned)
