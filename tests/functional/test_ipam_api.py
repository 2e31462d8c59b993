"""A node's address book against a real API server, with the rights that the agent has in a cluster.

What a fake cannot show: that the schema takes what is written, that RBAC allows each call and no more is needed, that
optimistic concurrency is as real as it must be, and that a killed process comes back to what it really left behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crds import credentials
from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Node
from crds.errors import ApiError
from crds.http_store import HttpStore
from crds.meta import ObjectMeta
from crds.pools import IPAMConfiguration, IPAMConfigurationSpec, IPPool, IPPoolSpec
from crds.values import HandleID, NodeName
from ipam.check import check
from ipam.clock import ManualClock
from ipam.fence import LEASE_NAMESPACE, lease_name
from ipam.journal import Journal
from ipam.node import NodeIPAM
from ipam.requests import Assigned, AssignRequest, IPAddress, TryLater
from ipam.view import ClusterView, Sync

NUMBERS = iter(range(1, 200))


class Place:
    """A pool and nodes of this test alone in the shared API server."""

    def __init__(self, api: Any, directory: Path, agent: HttpStore, admin: HttpStore) -> None:
        number = next(NUMBERS)
        self.api, self.directory, self.agent, self.admin = api, directory, agent, admin
        self.clock = ManualClock()
        self.network = f"ipam{number}"
        self.cidr = ip_network(f"10.222.{number}.0/24")
        self.pool = IPPool(
            metadata=ObjectMeta(name=api.unique("ipam")), spec=IPPoolSpec(cidr=str(self.cidr), block_size=29)
        )
        spec = IPAMConfigurationSpec(strict_affinity=True, ip_cooldown_seconds=5)
        self.configuration = IPAMConfiguration(metadata=ObjectMeta(name="default"), spec=spec)
        self.uids: dict[str, str] = {}

    async def add_node(self) -> str:
        name = self.api.unique("ipam-node")
        made = await self.admin.create(Node(metadata=ObjectMeta(name=name)))
        self.uids[name] = made.metadata.uid
        return name

    async def view(self, node: str) -> ClusterView:
        blocks = (await self.agent.list(IPAMBlock)).items
        affinities = (await self.agent.list(BlockAffinity)).items
        return ClusterView(
            sync=Sync.COMPLETE,
            node_uid=self.uids[node],
            pools=(self.pool,),
            configuration=self.configuration,
            blocks={item.metadata.name: item for item in blocks if self.has(item.spec.cidr)},
            affinities={item.metadata.name: item for item in affinities if self.has(item.spec.cidr)},
        )

    def has(self, cidr: str) -> bool:
        net = ip_network(cidr)
        return net.version == 4 and net.subnet_of(self.cidr)

    def node(self, name: str, *, machine: str = "", store: Any = None) -> NodeIPAM:
        machine = machine or name
        journal = Journal(state_dir=self.directory / machine / "var", run_dir=self.directory / machine / "run")
        store = store or self.agent
        return NodeIPAM(node=NodeName(name), store=store, journal=journal, clock=self.clock, network=self.network)

    async def started(self, name: str, *, kernel: dict[IPAddress, str] | None = None, **more: Any) -> NodeIPAM:
        node = self.node(name, **more)
        node.see(await self.view(name))
        await node.recover(kernel_addresses=kernel or {})
        await node.renew_once()
        assert await node.turn(), node.state().problem
        return node

    async def settle(self, node: NodeIPAM) -> None:
        for _ in range(4):
            node.see(await self.view(node.node))
            await node.turn()

    def request(self, name: str) -> AssignRequest:
        return AssignRequest(handle=self.handle(name), namespace="default", pod=name)

    def handle(self, name: str) -> HandleID:
        return HandleID(f"{self.network}.{name}")

    async def problems(self) -> list[str]:
        """What `ipam check` finds here; the pods of these tests exist for the runtime only."""
        blocks = [b for b in (await self.agent.list(IPAMBlock)).items if self.has(b.spec.cidr)]
        affinities = [a for a in (await self.agent.list(BlockAffinity)).items if self.has(a.spec.cidr)]
        handles = [
            h for h in (await self.agent.list(IPAMHandle)).items if h.spec.handle_id.startswith(f"{self.network}.")
        ]
        found = check(
            pools=[self.pool], blocks=blocks, affinities=affinities, handles=handles, pods=[], now_s=self.clock.wall_s()
        )
        return [str(problem) for problem in found if "is allocated to pod" not in problem.what]


async def assigned(place: Place, node: NodeIPAM, name: str) -> IPAddress:
    answer = await node.assign(place.request(name))
    assert isinstance(answer, Assigned), answer
    return answer.addresses[0]


@pytest.fixture
async def place(api: Any, tmp_path: Path) -> AsyncIterator[Place]:
    agent = HttpStore(credentials.from_kubeconfig(api.token_for("tortie-agent")))
    admin = HttpStore(credentials.from_kubeconfig(api.kubeconfig))
    try:
        yield Place(api, tmp_path, agent, admin)
    finally:
        await agent.close()
        await admin.close()


async def test_the_agents_own_rights_suffice_for_a_whole_life(place: Place) -> None:
    node = await place.started(await place.add_node())
    got = [await assigned(place, node, f"p{number}") for number in range(10)]
    assert len(set(got)) == 10
    await place.settle(node)
    assert await place.problems() == []
    assert len(node.blocks()) == 2
    for number in range(10):
        await node.release(place.handle(f"p{number}"))
    await place.settle(node)
    place.clock.advance(700)
    await node.renew_once()
    await place.settle(node)
    place.clock.advance(700)
    await node.renew_once()
    await place.settle(node)
    assert await place.problems() == []
    assert all(h.spec.handle_id.split(".")[0] != place.network for h in (await place.agent.list(IPAMHandle)).items)
    place.pool = msgspec.structs.replace(place.pool, spec=msgspec.structs.replace(place.pool.spec, disabled=True))
    await place.settle(node)
    assert node.blocks() == frozenset()
    assert (await place.view(node.node)).blocks == {}


async def test_kubectl_shows_what_the_journal_holds(place: Place) -> None:
    node = await place.started(await place.add_node())
    address = await assigned(place, node, "web")
    await place.settle(node)
    text = place.api.kubectl("get", "ipamblocks", "-o", "json")
    assert f"{place.network}.web" in text
    lease = place.api.kubectl(
        "get", "lease", lease_name(node.node), "-n", LEASE_NAMESPACE, "-o", "jsonpath={.spec.holderIdentity}"
    )
    assert lease == place.uids[node.node]
    assert address in place.cidr


async def test_add_and_del_while_the_api_server_is_killed(place: Place) -> None:
    name = await place.add_node()
    node = await place.started(name)
    first = await assigned(place, node, "a")
    await place.settle(node)
    with place.api.away():
        second = await assigned(place, node, "b")
        assert await node.release(place.handle("a")) == (first,)
        assert not await node.turn()
        node.journal.close()
        again = place.node(name)
        await again.recover(kernel_addresses={second: "cali-b"})
        third = await assigned(place, again, "c")
        assert len({first, second, third}) == 3
    await place.settle(again)
    assert again.is_flushed
    assert await place.problems() == []


async def test_a_block_that_somebody_emptied_or_deleted_comes_back(place: Place) -> None:
    node = await place.started(await place.add_node())
    address = await assigned(place, node, "a")
    await place.settle(node)
    place.clock.advance(5)
    wire = next(iter((await place.view(node.node)).blocks.values()))
    size = len(wire.spec.allocations)
    emptied = msgspec.structs.replace(
        wire.spec, allocations=(None,) * size, unallocated=tuple(range(size)), attributes=()
    )
    await place.admin.replace(msgspec.structs.replace(wire, spec=emptied))
    await place.settle(node)
    assert await place.problems() == []
    assert address in {a for held in node.allocations().values() for a in held}
    await place.admin.delete(IPAMBlock, wire.metadata.name)
    await place.settle(node)
    assert node.exceptions() == frozenset()
    assert await place.problems() == []


async def test_a_second_agent_of_the_same_node_refuses(place: Place) -> None:
    name = await place.add_node()
    first = await place.started(name)
    second = place.node(name, machine="clone")
    second.see(await place.view(name))
    await second.recover(kernel_addresses={})
    for _ in range(3):
        await second.renew_once()
        place.clock.advance(10)
        await first.renew_once()
    await second.renew_once()
    refused = await second.assign(place.request("a"))
    assert isinstance(refused, TryLater)
    assert "two machines share" in refused.why
    await assigned(place, first, "a")


async def test_ten_nodes_race_for_the_blocks_of_one_pool(place: Place) -> None:
    names = [await place.add_node() for _ in range(10)]
    nodes = []
    for name in names:
        node = place.node(name)
        node.see(await place.view(names[0]))
        nodes.append(node)
    for node in nodes:
        stale = await place.view(node.node)
        node.see(
            ClusterView(
                sync=Sync.COMPLETE, node_uid=stale.node_uid, pools=(place.pool,), configuration=place.configuration
            )
        )
        await node.recover(kernel_addresses={})
        await node.renew_once()
    got = await asyncio.gather(*(assigned(place, node, f"{node.node}-{i}") for node in nodes for i in range(12)))
    assert len(set(got)) == 120
    for node in nodes:
        await place.settle(node)
    assert await place.problems() == []


class DeadlyStore:
    """An HttpStore that kills its process before or after the n-th write."""

    def __init__(self, inner: HttpStore, deadly: int) -> None:
        self._inner, self._deadly, self._count = inner, deadly, 0

    def _step(self) -> None:
        self._count += 1
        if self._count == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._inner, verb)
        if verb not in ("create", "replace", "delete"):
            return call

        async def write(*args: Any, **kwargs: Any) -> Any:
            self._step()
            result = await call(*args, **kwargs)
            self._step()
            return result

        return write


async def short_life(place: Place, name: str, kubeconfig: Path, deadly: int, notes: int) -> None:
    """In the child: claim, three ADDs, one DEL, all flushed. What is answered is told through a pipe."""
    async with HttpStore(credentials.from_kubeconfig(kubeconfig)) as inner:
        place.agent = inner
        node = await place.started(name, store=DeadlyStore(inner, deadly))
        for pod in ("a", "b", "c"):
            address = await assigned(place, node, pod)
            os.write(notes, f"+{pod} {address}\n".encode())
        await place.settle(node)
        await node.release(place.handle("b"))
        os.write(notes, b"-b\n")
        await place.settle(node)
        place.clock.advance(8)
        await place.settle(node)


async def test_a_node_killed_at_any_write_comes_back_whole(place: Place) -> None:
    kubeconfig = place.api.token_for("tortie-agent")
    deaths = 0
    for deadly in range(1, 200):
        name = await place.add_node()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.events._set_running_loop(None)
                asyncio.new_event_loop().run_until_complete(short_life(place, name, kubeconfig, deadly, writing))
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as told:
            notes = told.read().split("\n")
        _, status = os.waitpid(pid, 0)  # noqa: ASYNC222  (the child has closed the pipe: it is gone)
        died = os.WIFSIGNALED(status)
        assert died or status == 0
        await come_back(place, name, notes)
        if not died:
            break
        deaths += 1
    assert deaths >= 20


async def come_back(place: Place, name: str, notes: list[str]) -> None:
    """Restart, let the runtime finish what it began, and check."""
    running = dict(note[1:].split(" ") for note in notes if note.startswith("+"))
    if "-b" in notes:
        running.pop("b")
    from ipaddress import ip_address

    node = await place.started(name, kernel={ip_address(text): f"cali-{pod}" for pod, text in running.items()})
    held = {str(a): h for h, addresses in node.allocations().items() for a in addresses}
    for pod, text in running.items():
        assert held[text] == place.handle(pod)
    for pod in ("a", "b", "c"):
        if pod not in running:
            await node.release(place.handle(pod))
    fresh = await assigned(place, node, "fresh")
    assert str(fresh) not in running.values()
    place.clock.advance(8)
    await place.settle(node)
    assert await place.problems() == []
    for pod in ("a", "b", "c", "fresh"):
        await node.release(place.handle(pod))
    place.clock.advance(8)
    await place.settle(node)
    place.pool, keep = disabled(place.pool), place.pool
    await place.settle(node)
    place.pool = keep
    assert (await place.view(name)).blocks == {}
    node.journal.close()


def disabled(pool: IPPool) -> IPPool:
    return msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, disabled=True))


async def test_what_the_api_server_refuses_for_good_is_said_and_blocks_nothing_else(place: Place) -> None:
    node = await place.started(await place.add_node())
    with pytest.raises(ApiError):
        await place.agent.create(IPPool(metadata=ObjectMeta(name="not-mine"), spec=IPPoolSpec(cidr="10.0.0.0/16")))
    assert isinstance(await node.assign(place.request("a")), Assigned)
