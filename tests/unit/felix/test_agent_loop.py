"""The agent's turn, on a fake kernel and a fake API server: what is seen becomes routes, and nothing is swept early."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from random import Random

import pytest

from bgp import wire
from crds.bgp_kinds import BGPPeer, BGPPeerSpec
from crds.core import Node, NodeAddress, NodeStatus
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta
from crds.pools import IPPool, IPPoolSpec
from crds.values import NodeName
from felix.agent import GIVE_UP_AFTER, Agent
from felix.bgp_link import BgpLink
from felix.calc.speech import Speech
from felix.kernel.fake import FakeKernel
from felix.kernel.names import PodMark
from felix.kernel.protocols import IPAddress, IPNetwork, LinkState, NextHop, Route, RouteKind, SetLink
from felix.reflector import Pace
from felix.snapshot import Sync
from felix.watches import Watches
from ipam.view import ClusterView
from tests.eventually import eventually_async

HERE = NodeName("node-a")
TOR = IPv4Address("192.0.2.1")
BLOCK = ip_network("10.0.0.0/26")
HOLE = Route(dst=BLOCK, kind=RouteKind.BLACKHOLE, metric=1024)
FAR = Route(
    dst=ip_network("10.0.1.0/26"),
    next_hops=(NextHop(gateway=TOR, device="eth0"),),
    metric=1024,
    source=IPv4Address("192.0.2.10"),
)
STRANGER = Route(dst=ip_network("10.0.9.0/26"), next_hops=(NextHop(gateway=TOR, device="eth0"),), proto=3, metric=1024)
TOR_ID = wire.NeighborId("192.0.2.1", "192.0.2.10")


class Known:
    """IPAM with what a test says."""

    def __init__(self) -> None:
        self.views: list[ClusterView] = []
        self.own: frozenset[IPNetwork] = frozenset()
        self.is_recovered = False

    def see(self, view: ClusterView) -> None:
        self.views.append(view)

    def see_kernel(self, kernel_addresses: Mapping[IPAddress, str]) -> None:
        self.kernel_addresses = kernel_addresses

    def blocks(self) -> frozenset[IPNetwork]:
        return self.own

    def exceptions(self) -> frozenset[IPAddress]:
        return frozenset()


PEER = BGPPeer(metadata=ObjectMeta(name="tor"), spec=BGPPeerSpec(peer_ip=str(TOR), as_number=65001))


class World:
    """An agent and what surrounds it."""

    def __init__(self, run_dir: Path) -> None:
        self.store = FakeStore(
            Node(
                metadata=ObjectMeta(name=HERE),
                status=NodeStatus(addresses=(NodeAddress(type="InternalIP", address="192.0.2.10"),)),
            ),
            IPPool(metadata=ObjectMeta(name="pool"), spec=IPPoolSpec(cidr="10.0.0.0/16")),
            PEER,
        )
        self.kernel = FakeKernel()
        self.kernel.add_link("eth0")
        self.kernel.add_address("eth0", "192.0.2.10/24")
        assert self.kernel.put_routes([STRANGER]) == {}
        self.known = Known()
        self.run_dir = run_dir
        self.boot()

    def boot(self) -> None:
        """A new agent process: no memory."""
        pace = Pace(shortest_s=0.001, longest_s=0.01)
        self.watches = Watches(self.store, node=HERE, on_change=self._poke, rng=Random(1), pace=pace)
        self.link = BgpLink(self.run_dir / "bgp.sock", on_change=self._poke, hold_s=0.0)
        self.agent = Agent(
            node=HERE,
            watches=self.watches,
            addresses=self.known,
            link=self.link,
            speech=Speech(node=HERE),
            kernel=self.kernel,
        )

    def _poke(self) -> None:
        self.agent.poke()

    def ours(self) -> frozenset[Route]:
        return self.kernel.list_routes(protos=frozenset({80}))

    def add_pod(self, name: str, address: str) -> Route:
        """A pod's interface, finished, without its route."""
        mark = PodMark(container_id=name, ifname="eth0", netns=(4, 1), addresses=(ip_address(address),))
        self.kernel.add_link(f"cali{name}", alias=str(mark))
        return Route(dst=ip_network(address), next_hops=(NextHop(device=f"cali{name}"),))

    def hear(self, *prefixes: str) -> None:
        """The speaker gives a whole table."""
        told: list[wire.ToAgent] = [
            wire.TableBegin(),
            wire.PeerState(id=TOR_ID, state=wire.State.UP, since_s=0.0, remote_as=65001),
            wire.Routes(
                id=TOR_ID,
                announced=(
                    wire.Announced(
                        prefixes=prefixes,
                        next_hops=(str(TOR),),
                        attributes=wire.Attributes(as_path=(65001,), as_path_length=1),
                    ),
                ),
            ),
            wire.EndOfRib(id=TOR_ID, family=wire.Family.IPV4),
            wire.TableEnd(),
        ]
        for message in told:
            self.link.rib.apply(message, now_s=asyncio.get_running_loop().time())

    async def sync(self) -> asyncio.Task[None]:
        """Run the watches until all is seen."""
        task = asyncio.create_task(self.watches.run())
        await eventually_async(lambda: self.watches.snapshot().sync is Sync.COMPLETE)
        return task


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    task = await world.sync()
    yield world
    task.cancel()


async def test_an_own_block_gets_its_blackhole_and_what_the_tor_tells_a_route(world: World) -> None:
    world.known.own = frozenset({BLOCK})
    world.known.is_recovered = True
    world.agent.turn()
    world.hear("10.0.1.0/26", "203.0.113.0/24")
    turn = world.agent.turn()
    assert world.ours() == {HOLE, FAR}
    assert turn.failures == 0
    assert world.known.views[-1].pools[0].name == "pool"


async def test_before_all_sources_are_known_nothing_is_swept(world: World) -> None:
    pod = world.add_pod("1", "10.0.0.5")
    gone = Route(dst=ip_network("10.0.0.6/32"), next_hops=(NextHop(device="eth0"),))
    world.kernel.put_routes([pod, gone, HOLE, FAR])
    everything = world.ours()
    world.agent.turn()
    assert world.ours() == everything, "IPAM has not recovered yet"
    world.known.own = frozenset({BLOCK})
    world.known.is_recovered = True
    assert world.agent.turn().kept == 1
    assert world.ours() == {pod, HOLE, FAR}, "local routes are swept, BGP's wait for the RIB"
    world.hear()
    world.agent.turn()
    assert world.ours() == {pod, HOLE}


async def test_a_new_process_writes_nothing_that_stands_already(world: World) -> None:
    world.known.own = frozenset({BLOCK})
    world.known.is_recovered = True
    world.agent.turn()
    world.hear("10.0.1.0/26")
    world.agent.turn()
    before = world.ours()
    world.boot()
    task = await world.sync()
    world.agent.turn()
    assert world.ours() == before
    world.known.is_recovered = True
    world.hear("10.0.1.0/26")
    world.agent.turn()
    assert world.ours() == before
    assert STRANGER in world.kernel.list_routes(protos=frozenset())
    task.cancel()


async def test_an_api_server_that_goes_away_takes_nothing_away(world: World) -> None:
    world.known.own = frozenset({BLOCK})
    world.known.is_recovered = True
    world.agent.turn()
    world.store.go_away()
    await eventually_async(lambda: bool(world.watches.nodes.failing))
    world.agent.turn()
    assert world.ours() == {HOLE}


async def test_the_route_of_a_pod_that_came_a_moment_ago_is_not_taken_for_an_old_one(world: World) -> None:
    world.known.is_recovered = True
    first = world.add_pod("1", "10.0.0.5")
    world.kernel.put_routes([first])
    world.agent.turn()
    # The pod goes and another gets its address and interface, all unseen by the agent (its own writes are no events).
    world.kernel.delete_link("cali1")
    second = world.add_pod("2", "10.0.0.5")
    world.kernel.put_routes([second])
    world.agent.pods_changed()
    world.agent.turn()
    assert world.ours() == {second}


async def test_a_next_hop_is_resolved_anew_when_the_kernel_changes(world: World) -> None:
    world.known.is_recovered = True
    world.agent.turn()
    world.hear("10.0.1.0/26")
    world.agent.turn()
    assert FAR in world.ours()
    world.kernel.run([SetLink(name="eth0", state=LinkState.DOWN)])
    world.agent.kernel_changed()
    world.agent._look_after_s = 0.0
    assert world.agent.turn().routes.unresolved == (FAR.dst,)
    world.kernel.run([SetLink(name="eth0", state=LinkState.UP)])
    world.kernel.add_address("eth0", "192.0.2.10/24")
    world.agent.kernel_changed()
    world.agent._look_after_s = 0.0
    world.agent.turn()
    assert FAR in world.ours()


async def test_a_kernel_that_stays_out_of_reach_ends_the_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, protos: frozenset[int]) -> frozenset[Route]:
        raise OSError(errno.ENOBUFS, "no buffer")

    monkeypatch.setattr(world.kernel, "list_routes", broken)
    for _ in range(GIVE_UP_AFTER - 1):
        world.agent._turn_or_count()
    with pytest.raises(OSError, match="no buffer"):
        world.agent._turn_or_count()


async def test_pokes_are_taken_together(world: World) -> None:
    turns: list[object] = []
    world.agent.followers = (turns.append,)
    loop = asyncio.create_task(world.agent.run())
    for _ in range(100):
        world.agent.poke()
    await eventually_async(lambda: len(turns) == 1)
    world.agent.poke()
    world.agent.poke()
    await eventually_async(lambda: len(turns) > 1)
    assert len(turns) == 2
    loop.cancel()
