"""Pods' annotations: written right after ADD, blanked at DEL, in order, whatever the API server does meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from bgp.sessions import SessionPlan
from crds.core import CONTAINER_ID, POD_IP, POD_IPS, Pod, PodSpec
from crds.errors import Conflict, Forbidden
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta
from felix.agent import Turn
from felix.calc.routes import WantedRoutes
from felix.kernel.protocols import IPAddress
from felix.pod_notes import PodNotes
from felix.snapshot import Snapshot
from tests.eventually import eventually_async

ONE, TWO = ip_address("10.0.0.5"), ip_address("2001:db8::5")


class World:
    """An API server with one pod, and the notes about it."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.pod = self.store.put(Pod(metadata=ObjectMeta(name="web", namespace="shop"), spec=PodSpec(node_name="a")))
        self.seen: dict[str, Pod] = {"shop/web": self.pod}
        self.notes = PodNotes(self.store, own_pods=lambda: self.seen)

    def add(self, container_id: str, *addresses: IPAddress, uid: str | None = None) -> None:
        self.notes.added(
            "shop/web",
            uid=self.pod.metadata.uid if uid is None else uid,
            container_id=container_id,
            addresses=addresses,
        )

    async def written(self) -> None:
        await eventually_async(lambda: self.notes.pending == 0, every_s=0.01)
        self.pod = await self.store.get(Pod, "web", namespace="shop")

    @property
    def annotations(self) -> dict[str, str]:
        return self.pod.metadata.annotations

    def turn(self, *, pods: dict[IPAddress, str]) -> Turn:
        return Turn(
            snapshot=Snapshot(own_pods={"shop/web": self.pod}),
            plan=SessionPlan(),
            routes=WantedRoutes(),
            pods=pods,
            blocks=frozenset(),
            problems=(),
            failures=0,
            kept=0,
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.notes.stop()


async def test_an_add_is_written_as_calico_writes_it(world: World) -> None:
    world.add("c1", ONE, TWO)
    await world.written()
    assert world.annotations == {
        POD_IP: "10.0.0.5/32",
        POD_IPS: "10.0.0.5/32,2001:db8::5/128",
        CONTAINER_ID: "c1",
    }
    assert world.pod.addresses == (ONE, TWO)


async def test_a_del_blanks_the_addresses(world: World) -> None:
    world.add("c1", ONE)
    await world.written()
    world.notes.deleted(container_id="c1")
    await world.written()
    assert (world.annotations[POD_IP], world.annotations[POD_IPS]) == ("", "")
    assert world.pod.addresses == ()


async def test_a_late_del_of_an_old_sandbox_blanks_nothing_of_the_new_one(world: World) -> None:
    world.add("c1", ONE)
    world.add("c2", TWO)
    world.notes.deleted(container_id="c1")
    await world.written()
    assert world.pod.addresses == (TWO,)


async def test_the_last_word_wins_however_slow_the_api_server_is(world: World) -> None:
    hold = world.store.hold("patch", Pod)
    world.add("c1", ONE)
    await hold.reached.wait()
    world.notes.deleted(container_id="c1")
    world.add("c2", TWO)
    hold.release()
    await world.written()
    assert world.pod.addresses == (TWO,)


async def test_an_absent_api_server_is_asked_again(world: World) -> None:
    world.store.go_away()
    world.add("c1", ONE)
    await eventually_async(lambda: world.notes.failures > 0, every_s=0.01)
    assert world.notes.pending == 1
    world.store.come_back()
    await world.written()
    assert world.pod.addresses == (ONE,)


async def test_an_api_server_that_has_not_read_its_roles_yet_is_asked_again(world: World) -> None:
    world.store.fail_next("patch", Pod, Forbidden(), times=2)
    world.add("c1", ONE)
    await world.written()
    assert world.pod.addresses == (ONE,)


async def test_another_pod_of_the_same_name_is_left_alone(world: World) -> None:
    world.add("c1", ONE, uid="of-an-older-pod")
    await world.written()
    assert world.annotations == {}


async def test_a_refused_note_is_not_written_again_and_again(world: World) -> None:
    world.store.fail_next("patch", Pod, Conflict())
    world.add("c1", ONE)
    await world.written()
    assert sum(1 for call in world.store.calls if call.verb == "patch") == 1


async def test_a_restarted_agent_blanks_what_a_del_left(world: World) -> None:
    world.add("c1", ONE)
    await world.written()
    restarted = PodNotes(world.store, own_pods=lambda: world.seen)
    restarted.follow(world.turn(pods={ONE: "cali1"}))
    assert restarted.pending == 0, "the pod lives"
    restarted.follow(world.turn(pods={}))
    await eventually_async(lambda: restarted.pending == 0, every_s=0.01)
    await world.written()
    assert world.pod.addresses == ()


async def test_a_clone_of_the_node_blanks_nothing_until_it_serves_the_node_itself(world: World) -> None:
    world.add("c1", ONE)
    await world.written()
    serves: list[str] = []
    clone = PodNotes(world.store, own_pods=lambda: world.seen, serves=lambda: bool(serves))
    turn = world.turn(pods={})
    clone.follow(turn)
    assert clone.pending == 0
    serves.append("the other machine is gone")
    clone.follow(turn)
    await eventually_async(lambda: clone.pending == 0, every_s=0.01)
    await world.written()
    assert world.pod.addresses == ()


async def test_a_pod_that_was_added_a_moment_ago_is_not_taken_for_a_dead_one(world: World) -> None:
    world.add("c1", ONE)
    await world.written()
    world.notes.follow(world.turn(pods={}))
    assert world.notes.pending == 0
    assert world.pod.addresses == (ONE,)


async def test_a_restarted_agent_blanks_at_del_what_its_predecessor_wrote(world: World) -> None:
    world.add("c1", ONE)
    await world.written()
    world.seen["shop/web"] = world.pod
    restarted = PodNotes(world.store, own_pods=lambda: world.seen)
    restarted.deleted(container_id="another")
    assert restarted.pending == 0
    restarted.deleted(container_id="c1")
    await eventually_async(lambda: restarted.pending == 0, every_s=0.01)
    await world.written()
    assert world.pod.addresses == ()
