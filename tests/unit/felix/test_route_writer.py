"""The route writer on the fake kernel: whatever the history, the table ends as wanted; strangers' routes stay."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from itertools import permutations

import pytest

from felix.calc.routes import RouteKey
from felix.dataplane.routes import KEEP_ALL, SWEEP_ALL, Origin, Plan, RouteWriter
from felix.kernel.fake import FakeKernel
from felix.kernel.protocols import LinkState, NextHop, Route, RouteKind, SetLink

TOR = IPv4Address("192.0.2.1")
POD = Route(dst=ip_network("10.0.0.5/32"), next_hops=(NextHop(device="cali5"),))
HOLE = Route(dst=ip_network("10.0.0.0/26"), kind=RouteKind.BLACKHOLE, metric=1024)
FAR = Route(dst=ip_network("10.0.1.0/26"), next_hops=(NextHop(gateway=TOR, device="eth0"),), metric=1024)
FAR_V6 = Route(
    dst=ip_network("2001:db8:1::/122"),
    next_hops=(NextHop(gateway=ip_network("fe80::1").network_address, device="eth0"),),
)
STRANGER = Route(dst=ip_network("10.0.2.0/26"), next_hops=(NextHop(gateway=TOR, device="eth0"),), proto=3, metric=1024)


def wanted(*routes: Route) -> dict[RouteKey, Route]:
    return {(route.dst, route.metric): route for route in routes}


@pytest.fixture
def kernel() -> FakeKernel:
    kernel = FakeKernel()
    kernel.add_link("eth0")
    kernel.add_link("cali5")
    kernel.add_address("eth0", "192.0.2.10/24")
    assert kernel.put_routes([STRANGER]) == {}
    return kernel


def ours(kernel: FakeKernel) -> frozenset[Route]:
    return kernel.list_routes(protos=frozenset({80}))


@pytest.mark.parametrize("order", list(permutations([POD, HOLE, FAR, FAR_V6])))
def test_history_does_not_matter(kernel: FakeKernel, order: tuple[Route, ...]) -> None:
    writer = RouteWriter(kernel)
    have: list[Route] = []
    for route in order:
        have.append(route)
        assert writer.apply(writer.plan(wanted(*have), sweep=SWEEP_ALL)) == {}
    assert ours(kernel) == {POD, HOLE, FAR, FAR_V6}
    for route in order:
        have.remove(route)
        assert writer.apply(writer.plan(wanted(*have), sweep=SWEEP_ALL)) == {}
        assert ours(kernel) == set(have)


def test_a_restarted_writer_adopts_what_it_finds(kernel: FakeKernel) -> None:
    first = RouteWriter(kernel)
    first.apply(first.plan(wanted(POD, HOLE, FAR), sweep=SWEEP_ALL))
    assert RouteWriter(kernel).plan(wanted(POD, HOLE, FAR), sweep=SWEEP_ALL) == Plan()


def test_nothing_is_swept_before_its_source_is_in_sync(kernel: FakeKernel) -> None:
    kernel.put_routes([POD, HOLE, FAR])
    writer = RouteWriter(kernel)
    assert writer.plan({}, sweep=KEEP_ALL) == Plan(kept=3)
    plan = writer.plan({}, sweep=frozenset({Origin.LOCAL}))
    assert (set(plan.drops), plan.puts, plan.kept) == ({POD, HOLE}, (), 1)
    writer.apply(plan)
    assert ours(kernel) == {FAR}
    writer.apply(writer.plan({}, sweep=SWEEP_ALL))
    assert ours(kernel) == frozenset()


def test_foreign_routes_are_left_alone(kernel: FakeKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(HOLE), sweep=SWEEP_ALL))
    writer.apply(writer.plan({}, sweep=SWEEP_ALL))
    assert STRANGER in kernel.list_routes(protos=frozenset())


def test_a_route_in_the_place_of_a_strangers_fails_alone(kernel: FakeKernel) -> None:
    writer = RouteWriter(kernel)
    mine = Route(dst=STRANGER.dst, kind=RouteKind.BLACKHOLE, metric=1024)
    failed = writer.apply(writer.plan(wanted(mine, HOLE), sweep=SWEEP_ALL))
    assert list(failed) == [mine]
    assert ours(kernel) == {HOLE}


def test_what_failed_is_tried_again_when_told_to_and_not_before(kernel: FakeKernel) -> None:
    kernel.run([SetLink(name="cali5", state=LinkState.DOWN)])
    writer = RouteWriter(kernel)
    assert list(writer.apply(writer.plan(wanted(POD), sweep=SWEEP_ALL))) == [POD]
    kernel.run([SetLink(name="cali5", state=LinkState.UP)])
    assert writer.plan(wanted(POD), sweep=SWEEP_ALL).empty
    writer.retry()
    assert writer.apply(writer.plan(wanted(POD), sweep=SWEEP_ALL)) == {}
    assert ours(kernel) == {POD}
    assert writer.failures == {}


def test_a_route_that_somebody_removed_comes_back_after_a_look(kernel: FakeKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(HOLE), sweep=SWEEP_ALL))
    kernel.drop_routes([HOLE])
    writer.look_again()
    plan = writer.plan(wanted(HOLE), sweep=SWEEP_ALL)
    assert str(plan) == "+ blackhole 10.0.0.0/26 proto 80 metric 1024"
    writer.apply(plan)
    assert ours(kernel) == {HOLE}


def test_a_route_that_is_gone_already_counts_as_dropped(kernel: FakeKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(HOLE), sweep=SWEEP_ALL))
    plan = writer.plan({}, sweep=SWEEP_ALL)
    kernel.drop_routes([HOLE])
    assert writer.apply(plan) == {}


def test_a_changed_next_hop_replaces_in_place(kernel: FakeKernel) -> None:
    kernel.add_link("eth1")
    kernel.add_address("eth1", "198.51.100.10/24")
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(FAR), sweep=SWEEP_ALL))
    moved = Route(dst=FAR.dst, next_hops=(NextHop(gateway=IPv4Address("198.51.100.1"), device="eth1"),), metric=1024)
    plan = writer.plan(wanted(moved), sweep=SWEEP_ALL)
    assert (plan.puts, plan.drops) == ((moved,), ())
    writer.apply(plan)
    assert ours(kernel) == {moved}
