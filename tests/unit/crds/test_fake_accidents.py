"""The accidents that FakeStore can be told to have, so that tests of others may trust them."""

from __future__ import annotations

import asyncio

import pytest

from crds.errors import Conflict, NotFound
from crds.fake_faults import Call, Moment
from crds.fake_store import FakeStore
from crds.meta import Condition, ObjectMeta, Status
from crds.pools import IPPool, IPPoolSpec
from crds.store import Added, Bookmark


def pool(name: str) -> IPPool:
    return IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr="10.0.0.0/16"))


async def test_a_failure_comes_once_and_writes_nothing() -> None:
    store = FakeStore()
    store.fail_next("create", IPPool, Conflict("told to"))
    with pytest.raises(Conflict, match="told to"):
        await store.create(pool("a"))
    with pytest.raises(NotFound):
        await store.get(IPPool, "a")
    await store.create(pool("a"))


async def test_a_lost_answer_was_written() -> None:
    store = FakeStore()
    store.fail_next("create", None, ConnectionError("lost"), moment=Moment.AFTER)
    with pytest.raises(ConnectionError):
        await store.create(pool("a"))
    assert (await store.get(IPPool, "a")).name == "a"


async def test_a_failure_may_come_several_times() -> None:
    store = FakeStore(pool("a"))
    store.fail_next("get", IPPool, TimeoutError(), times=2)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await store.get(IPPool, "a")
    await store.get(IPPool, "a")


async def test_a_held_call_waits_until_it_is_released() -> None:
    store = FakeStore()
    hold = store.hold("create", IPPool)
    task = asyncio.create_task(store.create(pool("a")))
    await hold.reached.wait()
    assert (await store.list(IPPool)).items == ()
    hold.release()
    assert (await task).name == "a"
    await store.create(pool("b"))


async def test_an_api_server_that_is_away_breaks_watches_and_calls() -> None:
    store = FakeStore(pool("a"))
    stream = store.watch(IPPool, resource_version="")
    assert isinstance(await anext(stream), Added)
    store.go_away()
    with pytest.raises(ConnectionError):
        await anext(stream)
    with pytest.raises(ConnectionError):
        await store.get(IPPool, "a")
    store.come_back()
    await store.get(IPPool, "a")


async def test_the_server_may_close_a_watch_and_send_bookmarks() -> None:
    store = FakeStore(pool("a"))
    version = (await store.list(IPPool)).resource_version
    stream = store.watch(IPPool, resource_version="")
    assert isinstance(await anext(stream), Added)
    assert store.watching == 1
    store.bookmark()
    assert await anext(stream) == Bookmark(version)
    store.end_watches()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert store.watching == 0


async def test_put_stores_status_and_deletion_as_given() -> None:
    status = Status(conditions=(Condition(type="Allocatable", status="True"),))
    meta = ObjectMeta(name="a", finalizers=("x/y",), deletion_timestamp="2026-01-01T00:00:00Z")
    store = FakeStore(IPPool(metadata=meta, spec=IPPoolSpec(cidr="10.0.0.0/16"), status=status))
    stored = await store.get(IPPool, "a")
    assert stored.status == status
    assert stored.deleting
    again = store.put(pool("a"))
    assert again.spec.cidr == "10.0.0.0/16"


async def test_calls_are_counted() -> None:
    store = FakeStore(pool("a"))
    await store.get(IPPool, "a")
    await store.list(IPPool)
    assert store.calls == [Call("get", IPPool, "a"), Call("list", IPPool, "")]
