"""kill -9 at every step of a node's life: no address twice, none lost, and `ipam check` is clean after the restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ipam.node import NodeIPAM
from ipam.requests import Assigned
from tests.unit.ipam.ipam_child import Child, Runtime, finish, live_and_die
from tests.unit.ipam.ipam_rig import Rig, configuration, handle, pod_object, pool, request


async def pods_come_and_go(rig: Rig, node: NodeIPAM, child: Child) -> None:
    """Claim, parallel ADDs, write-behind, DEL, reuse, a second block, and one given back."""
    await rig.settle(node, rounds=1)
    await child.add("a", "b", "c")
    await rig.settle(node, rounds=1)
    await child.delete("b")
    await child.add("d")
    await rig.settle(node, rounds=1)
    rig.clock.advance(8)
    await rig.settle(node, rounds=1)
    await child.add("e", "f", "g", "h", "i")
    await child.delete("a")
    await rig.settle(node, rounds=2)


async def a_block_is_given_back(rig: Rig, node: NodeIPAM, child: Child) -> None:
    """The pool no longer wants this node: its empty block goes."""
    await rig.settle(node, rounds=1)
    await child.add("a")
    await child.delete("a")
    await rig.settle(node, rounds=1)
    pools = (await rig.view()).pools
    await rig.change(pools[0], node_selector="nowhere == 'true'")
    rig.clock.advance(20)
    await rig.settle(node, rounds=2)


async def a_shared_block(rig: Rig, node: NodeIPAM, child: Child) -> None:
    """strictAffinity is false: the API comes before the answer."""
    await rig.settle(node, rounds=1)
    await child.add("a")
    await child.add("b")
    await child.delete("a")
    await rig.settle(node, rounds=1)


async def aftermath(rig: Rig, runtime: Runtime, *, fill: int) -> None:
    """Restart on the same machine, and look for duplicates, losses and contradictions."""
    node = rig.node()
    node.see(await rig.view())
    await node.recover(kernel_addresses=runtime.kernel())
    await node.renew_once()
    for name, held in runtime.running.items():
        known = [h for h, addresses in node.allocations().items() if set(held) & set(addresses)]
        assert known == [handle(name)] or name in runtime.deleting, f"{name} lost {held} to {known}"
    await finish(rig, node, runtime)
    await rig.settle(node)
    used = {address: name for name, held in runtime.running.items() for address in held}
    for number in range(fill):
        answer = await node.assign(request(f"new{number}"))
        if isinstance(answer, Assigned):
            assert answer.addresses[0] not in used
            used[answer.addresses[0]] = f"new{number}"
            rig.store.put(pod_object(f"new{number}", addresses=answer.addresses))
    assert len(used) > len(runtime.running) or not fill
    rig.clock.advance(10)
    await rig.settle(node, rounds=5)
    assert await rig.problems() == ()
    assert node.is_flushed
    assert {a for held in node.allocations().values() for a in held} == set(used)
    node.journal.close()


STORIES = {
    "pods come and go": (pods_come_and_go, lambda: (pool(cidr="10.1.0.0/27"), configuration()), 8),
    "a block is given back": (a_block_is_given_back, lambda: (pool(), configuration()), 0),
    "a shared block": (a_shared_block, lambda: (pool(), configuration(strict_affinity=False)), 4),
}


@pytest.mark.parametrize("story", list(STORIES))
def test_a_node_killed_at_any_step_comes_back_whole(story: str, tmp_path: Path) -> None:
    tell, objects, fill = STORIES[story]
    deaths = 0
    for deadly in range(1, 1000):
        rig = Rig(tmp_path / str(deadly), *objects())
        runtime, died = live_and_die(rig, tell, deadly=deadly)
        asyncio.run(aftermath(rig, runtime, fill=fill))
        if not died:
            break
        deaths += 1
    assert deaths >= 20, "the story must be long enough to mean something"


def test_the_killing_is_real(tmp_path: Path) -> None:
    runtime, died = live_and_die(Rig(tmp_path), pods_come_and_go, deadly=30)
    assert died
    assert runtime.adding or runtime.running
