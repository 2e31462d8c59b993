"""Reflectors on a fake API server that breaks in every known way: what is seen is always what was there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from crds.core import Node, Pod, PodSpec
from crds.errors import ApiError
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta, Resource
from crds.pools import IPPool, IPPoolSpec
from crds.values import NodeName
from felix.reflector import Pace, Reflector
from felix.snapshot import Sync
from felix.watches import Watches
from tests.eventually import eventually_async

HERE = NodeName("node-a")
QUICK = Pace(shortest_s=0.001, longest_s=0.01, relist_spread_s=0.001)


def pod(name: str, *, node: str = HERE, uid: str = "") -> Pod:
    return Pod(metadata=ObjectMeta(name=name, namespace="default", uid=uid), spec=PodSpec(node_name=node))


def node(name: str) -> Node:
    return Node(metadata=ObjectMeta(name=name))


class World:
    """A fake API server and one reflector of Nodes on it."""

    def __init__(self, *objects: Resource) -> None:
        self.store = FakeStore(*objects)
        self.pokes = 0
        self.nodes = Reflector(self.store, Node, on_change=self._poked, rng=Random(1), pace=QUICK)

    def _poked(self) -> None:
        self.pokes += 1

    def names(self) -> set[str]:
        return set(self.nodes.view())

    def lists(self) -> int:
        return sum(1 for call in self.store.calls if call.verb == "list")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(node("a"))
    task = asyncio.create_task(world.nodes.run())
    await eventually_async(lambda: world.nodes.synced and world.store.watching == 1)
    yield world
    task.cancel()


async def test_what_changes_is_seen_and_pokes(world: World) -> None:
    before = world.pokes
    world.store.put(node("b"))
    await eventually_async(lambda: world.names() == {"a", "b"})
    await world.store.delete(Node, "a")
    await eventually_async(lambda: world.names() == {"b"})
    assert world.pokes > before


async def test_an_absent_api_server_empties_nothing_and_its_return_brings_what_was_missed(world: World) -> None:
    world.store.go_away()
    await eventually_async(lambda: bool(world.nodes.failing))
    world.store.put(node("b"))
    assert world.names() == {"a"}
    assert world.nodes.synced
    world.store.come_back()
    await eventually_async(lambda: world.names() == {"a", "b"} and not world.nodes.failing)


async def test_a_watch_that_the_server_closes_is_resumed_without_a_list(world: World) -> None:
    world.store.end_watches()
    world.store.put(node("b"))
    await eventually_async(lambda: world.names() == {"a", "b"})
    assert world.lists() == 1


async def test_history_that_the_server_forgot_costs_one_list_and_no_poke_if_nothing_changed(world: World) -> None:
    before = world.pokes
    world.store.put(pod("elsewhere"))
    world.store.compact()
    world.store.end_watches()
    await eventually_async(lambda: world.lists() == 2 and world.store.watching == 1)
    assert world.names() == {"a"}
    assert world.pokes == before
    world.store.put(node("b"))
    await eventually_async(lambda: world.names() == {"a", "b"})
    assert world.pokes > before


async def test_a_deletion_missed_while_away_is_seen_by_the_new_list(world: World) -> None:
    world.store.go_away()
    await eventually_async(lambda: world.store.watching == 0)
    world.store.come_back()
    await world.store.delete(Node, "a")
    world.store.compact()
    await eventually_async(lambda: world.names() == set())


async def test_silence_is_no_news_but_a_new_watch(world: World) -> None:
    world.store.break_watches(TimeoutError())
    await eventually_async(lambda: world.store.watching == 1)
    world.store.put(node("b"))
    await eventually_async(lambda: world.names() == {"a", "b"})
    assert world.lists() == 1


async def test_a_view_is_a_value(world: World) -> None:
    before = world.nodes.view()
    assert world.nodes.view() is before
    world.store.put(node("b"))
    await eventually_async(lambda: world.names() == {"a", "b"})
    assert set(before) == {"a"}


class Fabric:
    """Watches of a whole agent."""

    def __init__(self, *objects: Resource) -> None:
        self.store = FakeStore(*objects)
        self.told: list[str] = []
        self.watches = Watches(
            self.store,
            node=HERE,
            on_change=lambda: self.told.append("change"),
            on_churn=lambda: self.told.append("churn"),
            rng=Random(1),
            pace=QUICK,
        )


@pytest.fixture
async def fabric() -> AsyncIterator[Fabric]:
    fabric = Fabric(node("node-a"), pod("mine"), pod("other", node="node-b"))
    task = asyncio.create_task(fabric.watches.run())
    await eventually_async(lambda: fabric.watches.snapshot().sync is Sync.COMPLETE)
    yield fabric
    task.cancel()


async def test_pods_of_this_node_have_an_index_of_their_own(fabric: Fabric) -> None:
    snapshot = fabric.watches.snapshot()
    assert set(snapshot.pods) == {"default/mine", "default/other"}
    assert set(snapshot.own_pods) == {"default/mine"}
    await fabric.store.delete(Pod, "mine", namespace="default", grace_period_s=0)
    await eventually_async(lambda: set(fabric.watches.snapshot().own_pods) == set())
    assert set(snapshot.own_pods) == {"default/mine"}


async def test_a_kind_that_did_not_change_keeps_its_mapping(fabric: Fabric) -> None:
    before = fabric.watches.snapshot()
    assert fabric.watches.snapshot() is before
    fabric.store.put(node("node-c"))
    await eventually_async(lambda: "node-c" in fabric.watches.snapshot().nodes)
    after = fabric.watches.snapshot()
    assert after.pods is before.pods
    assert after.own_pods is before.own_pods
    assert after.nodes is not before.nodes


async def test_what_changes_with_every_pod_is_told_apart_from_what_routes_hang_on(fabric: Fabric) -> None:
    fabric.told.clear()
    fabric.store.put(pod("new"))
    await eventually_async(lambda: "default/new" in fabric.watches.snapshot().pods)
    assert fabric.told == ["churn"]
    fabric.store.put(node("node-c"))
    await eventually_async(lambda: "node-c" in fabric.watches.snapshot().nodes)
    assert fabric.told == ["churn", "change"]


async def test_sync_waits_for_every_kind_and_says_for_which() -> None:
    fabric = Fabric()
    hold = fabric.store.hold("list", IPPool)
    task = asyncio.create_task(fabric.watches.run())
    await hold.reached.wait()
    await eventually_async(lambda: fabric.watches.missing() == ("IPPool",))
    assert fabric.watches.snapshot().sync is Sync.WAITING
    hold.release()
    await eventually_async(lambda: fabric.watches.snapshot().sync is Sync.COMPLETE)
    task.cancel()


async def test_a_kind_that_is_not_served_is_named_with_the_reason() -> None:
    fabric = Fabric()
    fabric.store.fail_next("list", IPPool, ApiError("no such kind", status=404, reason="NotFound"), times=10_000)
    task = asyncio.create_task(fabric.watches.run())
    await eventually_async(lambda: fabric.watches.missing() == ("IPPool (404 NotFound: no such kind)",))
    task.cancel()


async def test_a_pod_that_is_asked_for_before_it_is_seen_is_waited_for(fabric: Fabric) -> None:
    asking = asyncio.create_task(fabric.watches.pod("default/new", uid="", within_s=5.0))
    fabric.store.put(pod("old"))
    await eventually_async(lambda: "default/old" in fabric.watches.snapshot().own_pods)
    assert not asking.done()
    fabric.store.put(pod("new"))
    found = await asking
    assert found is not None
    assert found.name == "new"


async def test_a_pod_of_the_same_name_that_is_about_to_be_replaced_is_not_the_one(fabric: Fabric) -> None:
    known = await fabric.watches.pod("default/mine", uid="", within_s=0.0)
    assert known is not None
    assert await fabric.watches.pod("default/mine", uid=known.metadata.uid, within_s=0.0) is known
    assert await fabric.watches.pod("default/mine", uid="another", within_s=0.0) is None


async def test_a_pod_that_never_shows_is_none(fabric: Fabric) -> None:
    assert await fabric.watches.pod("default/ghost", uid="", within_s=0.0) is None


async def test_a_pool_put_anywhere_is_in_the_next_snapshot(fabric: Fabric) -> None:
    fabric.store.put(IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr="10.0.0.0/16")))
    await eventually_async(lambda: set(fabric.watches.snapshot().pools) == {"p"})
