"""The route writer on a fake and a real kernel: whatever the history, the table ends as wanted; strangers' stay."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_network
from itertools import permutations

import pytest

from felix.calc.routes import RouteKey
from felix.dataplane.routes import KEEP_ALL, SWEEP_ALL, Origin, Plan, RouteWriter
from felix.kernel.fake import FakeKernel
from felix.kernel.netlink import NetlinkKernel, entered
from felix.kernel.protocols import LinkState, NextHop, PodKernel, Route, RouteKind, SetLink

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


def _fake() -> FakeKernel:
    kernel = FakeKernel()
    for name, address in (("eth0", "192.0.2.10/24"), ("eth1", "198.51.100.10/24"), ("cali5", "")):
        kernel.add_link(name)
        if address:
            kernel.add_address(name, address)
    return kernel


def _real(netns: Callable[..., str], stack: ExitStack) -> NetlinkKernel:
    node = netns("writer")
    for name, address in (("eth0", "192.0.2.10/24"), ("eth1", "198.51.100.10/24"), ("cali5", "")):
        for command in (
            f"link add {name} type veth peer name {name}-far",
            *([f"address add {address} dev {name}"] if address else []),
            f"link set {name}-far up",
            f"link set {name} up",
        ):
            subprocess.run(["ip", "-n", node, *command.split()], check=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    stack.callback(os.close, home)
    there = os.open(f"/run/netns/{node}", os.O_RDONLY)
    stack.callback(os.close, there)
    stack.enter_context(entered(there, home=home))
    kernel = NetlinkKernel()
    stack.callback(kernel.close)
    return kernel


@pytest.fixture(params=["fake", pytest.param("netns", marks=pytest.mark.root)])
def kernel(request: pytest.FixtureRequest) -> Iterator[PodKernel]:
    with ExitStack() as stack:
        kernel: PodKernel = _fake() if request.param == "fake" else _real(request.getfixturevalue("netns"), stack)
        assert kernel.put_routes([STRANGER]) == {}
        yield kernel


def ours(kernel: PodKernel) -> frozenset[Route]:
    return kernel.list_routes(protos=frozenset({80}))


@pytest.mark.parametrize("order", list(permutations([POD, HOLE, FAR, FAR_V6])))
def test_history_does_not_matter(kernel: PodKernel, order: tuple[Route, ...]) -> None:
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


def test_a_restarted_writer_adopts_what_it_finds(kernel: PodKernel) -> None:
    first = RouteWriter(kernel)
    first.apply(first.plan(wanted(POD, HOLE, FAR), sweep=SWEEP_ALL))
    assert RouteWriter(kernel).plan(wanted(POD, HOLE, FAR), sweep=SWEEP_ALL) == Plan()


def test_nothing_is_swept_before_its_source_is_in_sync(kernel: PodKernel) -> None:
    kernel.put_routes([POD, HOLE, FAR])
    writer = RouteWriter(kernel)
    assert writer.plan({}, sweep=KEEP_ALL) == Plan(kept=3)
    plan = writer.plan({}, sweep=frozenset({Origin.LOCAL}))
    assert (set(plan.drops), plan.puts, plan.kept) == ({POD, HOLE}, (), 1)
    writer.apply(plan)
    assert ours(kernel) == {FAR}
    writer.apply(writer.plan({}, sweep=SWEEP_ALL))
    assert ours(kernel) == frozenset()


def test_foreign_routes_are_left_alone(kernel: PodKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(HOLE), sweep=SWEEP_ALL))
    writer.apply(writer.plan({}, sweep=SWEEP_ALL))
    assert STRANGER in kernel.list_routes(protos=frozenset({3}))


def test_a_route_in_the_place_of_a_strangers_fails_alone(kernel: PodKernel) -> None:
    writer = RouteWriter(kernel)
    mine = Route(dst=STRANGER.dst, kind=RouteKind.BLACKHOLE, metric=1024)
    failed = writer.apply(writer.plan(wanted(mine, HOLE), sweep=SWEEP_ALL))
    assert list(failed) == [mine]
    assert ours(kernel) == {HOLE}


def test_what_failed_is_tried_again_when_told_to_and_not_before(kernel: PodKernel) -> None:
    kernel.run([SetLink(name="cali5", state=LinkState.DOWN)])
    writer = RouteWriter(kernel)
    assert list(writer.apply(writer.plan(wanted(POD), sweep=SWEEP_ALL))) == [POD]
    kernel.run([SetLink(name="cali5", state=LinkState.UP)])
    assert writer.plan(wanted(POD), sweep=SWEEP_ALL).empty
    writer.retry()
    assert writer.apply(writer.plan(wanted(POD), sweep=SWEEP_ALL)) == {}
    assert ours(kernel) == {POD}
    assert writer.failures == {}


def test_a_route_that_somebody_removed_comes_back_after_a_look(kernel: PodKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(HOLE), sweep=SWEEP_ALL))
    kernel.drop_routes([HOLE])
    writer.look_again()
    plan = writer.plan(wanted(HOLE), sweep=SWEEP_ALL)
    assert str(plan) == "+ blackhole 10.0.0.0/26 proto 80 metric 1024"
    writer.apply(plan)
    assert ours(kernel) == {HOLE}


def test_a_route_that_is_gone_already_counts_as_dropped(kernel: PodKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(HOLE), sweep=SWEEP_ALL))
    plan = writer.plan({}, sweep=SWEEP_ALL)
    kernel.drop_routes([HOLE])
    assert writer.apply(plan) == {}


def test_a_changed_next_hop_replaces_in_place(kernel: PodKernel) -> None:
    writer = RouteWriter(kernel)
    writer.apply(writer.plan(wanted(FAR), sweep=SWEEP_ALL))
    moved = Route(dst=FAR.dst, next_hops=(NextHop(gateway=IPv4Address("198.51.100.1"), device="eth1"),), metric=1024)
    plan = writer.plan(wanted(moved), sweep=SWEEP_ALL)
    assert (plan.puts, plan.drops) == ((moved,), ())
    writer.apply(plan)
    assert ours(kernel) == {moved}
