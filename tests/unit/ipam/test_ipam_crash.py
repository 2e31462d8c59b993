"""Nodes that race, and any life with crashes: no address twice, and `ipam check` is clean after a quiet moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crds.blocks import BlockAffinity
from ipam.requests import Assigned, IPAddress
from tests.unit.ipam.ipam_rig import Rig, configuration, handle, node_object, pod_object, pool, request


async def test_fifty_nodes_race_for_blocks_and_no_address_is_given_twice(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pool(cidr="10.1.0.0/22"), configuration())
    names = [f"m{number}" for number in range(50)]
    uids = {name: rig.store.put(node_object(name)).metadata.uid for name in names}
    stale = await rig.view("m0")
    nodes = []
    for name in names:
        node = rig.node(name)
        node.see(replace(stale, node_uid=uids[name]))
        await node.recover(kernel_addresses={})
        await node.renew_once()
        nodes.append(node)
    answers = await asyncio.gather(*(node.assign(request(f"{node.node}-{i}")) for node in nodes for i in range(10)))
    given = [answer.addresses[0] for answer in answers if isinstance(answer, Assigned)]
    assert len(given) == len(set(given)) == 500
    for node in nodes:
        for name, held in node.allocations().items():
            rig.store.put(pod_object(name.split(".")[1], node=node.node, addresses=held))
    await rig.settle(*nodes, rounds=3)
    assert await rig.problems() == ()
    owners = [a.spec.cidr for a in (await rig.store.list(BlockAffinity)).items]
    assert len(owners) == len(set(owners))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 11)),
        st.tuples(st.just("del"), st.integers(0, 11)),
        st.tuples(st.just("turn"), st.integers(0, 1)),
        st.tuples(st.just("crash"), st.integers(0, 3)),
        st.tuples(st.just("away"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("meddle"), st.integers(0, 5)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_after_any_life_and_a_quiet_moment_the_check_finds_nothing(
    operations: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(live(operations, Rig(tmp_path_factory.mktemp("life"), pool(cidr="10.1.0.0/26"), configuration())))


async def live(operations: list[tuple[str, int]], rig: Rig) -> None:
    """Do the operations, then be quiet, then check."""
    machine = "disk0"
    node = await rig.started(machine=machine)
    used: dict[str, tuple[IPAddress, ...]] = {}
    for serial, (what, number) in enumerate(operations):
        match what:
            case "add":
                name = f"p{number}-{serial}"
                answer = await node.assign(request(name))
                if isinstance(answer, Assigned):
                    assert not set(answer.addresses) & {a for held in used.values() for a in held}
                    used[name] = answer.addresses
                    rig.store.put(pod_object(name, addresses=answer.addresses))
            case "del" if used:
                name = sorted(used)[number % len(used)]
                assert await node.release(handle(name)) == used.pop(name)
                await rig.gone(name)
            case "turn":
                node.see(await rig.view())
                await node.turn()
            case "crash":
                node.journal.close()
                machine = f"disk{serial}" if number == 0 else machine
                node = rig.node(machine=machine)
                node.see(await rig.view())
                await node.recover(kernel_addresses={a: "cali" for held in used.values() for a in held})
                for _ in range(3):
                    await node.renew_once()
                    rig.clock.advance(10)
            case "away":
                rig.store.fail_next("replace", None, ConnectionError("away"), times=number)
            case "wait":
                rig.clock.advance(number)
            case "meddle":
                blocks = (await rig.view()).blocks
                if blocks:
                    wire = blocks[sorted(blocks)[number % len(blocks)]]
                    await rig.change(wire, sequence_number=wire.spec.sequence_number + 1)
    for _ in range(8 + sum(number for what, number in operations if what == "away")):
        rig.clock.advance(61)
        await node.renew_once()
        await rig.settle(node, rounds=1)
    assert dict(node.allocations()) == {handle(n): a for n, a in used.items()}
    assert await rig.problems() == ()
    assert node.is_flushed
    node.journal.close()
