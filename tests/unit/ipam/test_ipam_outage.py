"""The API server is away, a write fails or its answer is lost: pods come and go all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.errors import ApiError, Conflict
from crds.fake_faults import Moment
from ipam.requests import Assigned, IPAddress, TryLater
from tests.unit.ipam.ipam_rig import (
    Rig,
    crash,
    handle,
    pod,
    pod_object,
    request,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


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
