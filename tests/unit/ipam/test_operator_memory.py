"""What the operator remembers: sightings, the latest objects, debts of the watches, and who leads."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest

from crds.core import Lease, Node
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta
from ipam.operator_leader import LEASE_NAME, NAMESPACE, Election, LeaderTimes, Role
from ipam.operator_patience import Patience
from ipam.operator_seen import Seen
from ipam.operator_world import Hearing


def test_a_finding_ripens_only_unchanged_and_seen_twice() -> None:
    patience = Patience()
    ripe = []
    for now_s, version in ((0.0, "1"), (5.0, "1"), (9.0, "2"), (14.0, "2"), (19.0, "2")):
        patience.begin(now_s=now_s)
        ripe.append(patience.ripe(("x",), (version,), after_s=10.0))
        patience.end()
    assert ripe == [False, False, False, False, True]


def test_a_finding_never_ripens_at_first_sight() -> None:
    patience = Patience()
    patience.begin(now_s=1e6)
    assert not patience.ripe(("x",), ("1",), after_s=0.0)
    patience.end()
    patience.begin(now_s=1e6)
    assert patience.ripe(("x",), ("1",), after_s=0.0)


def test_what_a_pass_does_not_ask_about_is_forgotten() -> None:
    patience = Patience()
    for now_s, asked in ((0.0, True), (5.0, False), (20.0, True)):
        patience.begin(now_s=now_s)
        if asked:
            assert not patience.ripe(("x",), ("1",), after_s=10.0)
        patience.end()


def test_the_loop_is_told_when_the_next_finding_ripens() -> None:
    patience = Patience()
    patience.begin(now_s=0.0)
    patience.ripe(("x",), ("1",), after_s=10.0)
    patience.ripe(("y",), ("1",), after_s=3.0)
    assert patience.end() == 3.0
    patience.begin(now_s=1.0)
    assert patience.end() == float("inf")


def node(name: str, version: int) -> Node:
    return Node(metadata=ObjectMeta(name=name, resource_version=str(version)))


NEWS = ("old", "new", "gone", "list")


@pytest.mark.parametrize("order", list(permutations(NEWS)))
def test_the_order_of_news_does_not_matter(order: tuple[str, ...]) -> None:
    seen: Seen[Node] = Seen()
    for news in order:
        match news:
            case "old":
                seen.put(node("a", 1))
            case "new":
                seen.put(node("a", 3))
            case "gone":
                seen.drop("a", resource_version="5")
            case _:
                seen.relist([node("a", 1), node("b", 2)], resource_version="2")
    assert {name: n.metadata.resource_version for name, n in seen.objects.items()} == {"b": "2"}


def test_a_list_drops_what_is_no_more_and_names_what_events_did_not_tell() -> None:
    seen: Seen[Node] = Seen()
    seen.put(node("a", 1))
    seen.put(node("b", 2))
    seen.put(node("young", 9))
    assert seen.relist([node("b", 2), node("c", 3)], resource_version="5") == {"a", "c"}
    assert set(seen.objects) == {"b", "c", "young"}


def test_a_watch_that_owes_too_long_is_deaf() -> None:
    hearing = Hearing(grace_s=60.0)
    hearing.owe("nodes", "a", version=5, now_s=0.0)
    hearing.owe("nodes", "b", version=5, now_s=0.0)
    hearing.owe("ippools", "p", version=7, now_s=0.0)
    hearing.heard("nodes", "a", version=6)
    hearing.forgive("nodes", "b")
    hearing.heard("ippools", "p", version=6)
    assert hearing.deaf(now_s=60.0) == ()
    assert hearing.deaf(now_s=61.0) == ("ippools",)


class Hand:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def election(store: FakeStore, name: str, clock: Hand) -> Election:
    stamps = (f"2026-01-01T00:00:{number // 1000000:02d}.{number % 1000000:06d}Z" for number in range(10**7))
    return Election(
        store=store, identity=name, times=LeaderTimes(), monotonic_s=clock, wall_stamp=lambda: f"{name}-{next(stamps)}"
    )


async def test_only_a_lease_that_stood_still_is_taken() -> None:
    store, clock = FakeStore(), Hand()
    a, b = election(store, "a", clock), election(store, "b", clock)
    assert await a.step() is Role.LEADER
    for _ in range(20):
        clock.now_s += 10.0
        assert await a.step() is Role.LEADER
        assert await b.step() is Role.CANDIDATE
    clock.now_s += 14.9
    assert await b.step() is Role.CANDIDATE
    clock.now_s += 0.2
    assert await b.step() is Role.LEADER
    assert await a.step() is Role.CANDIDATE, "what was taken is not taken back"


async def test_the_holder_knows_that_it_is_overdue_before_another_may_lead() -> None:
    store, clock = FakeStore(), Hand()
    a, b = election(store, "a", clock), election(store, "b", clock)
    await a.step()
    await b.step()
    clock.now_s = 10.1
    assert a.is_overdue()
    assert await b.step() is Role.CANDIDATE


async def test_a_stamp_from_the_future_changes_nothing() -> None:
    store, clock = FakeStore(), Hand()
    b = election(store, "b", clock)
    await election(store, "a", clock).step()
    lease = await store.get(Lease, LEASE_NAME, namespace=NAMESPACE)
    spec = msgspec.structs.replace(lease.spec, renew_time="2099-01-01T00:00:00.000000Z")
    await store.replace(msgspec.structs.replace(lease, spec=spec))
    assert await b.step() is Role.CANDIDATE
    clock.now_s = 15.0
    assert await b.step() is Role.LEADER


async def test_a_lease_that_is_given_back_is_free_at_once() -> None:
    store, clock = FakeStore(), Hand()
    a, b = election(store, "a", clock), election(store, "b", clock)
    await a.step()
    await b.step()
    await a.release()
    assert await b.step() is Role.LEADER
