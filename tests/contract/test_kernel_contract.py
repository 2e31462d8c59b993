"""One body, two worlds: what FakeKernel promises is what the kernel does, in a namespace of its own."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from felix.kernel.fake import FakeKernel
from felix.kernel.names import BUILDING_GROUP, DEAD_GROUP
from felix.kernel.netlink import NetlinkKernel, entered
from felix.kernel.protocols import (
    LinkState,
    Neighbour,
    Netns,
    NextHop,
    PodKernel,
    PutNeighbour,
    PutRoute,
    Route,
    RouteKind,
    SetLink,
)
from felix.podnet import PodNet, RefusedNamespace, Wiring, pod_steps

OURS = frozenset({80})
GATEWAYS = {
    4: (ip_address("192.0.2.2"), ip_address("192.0.2.3")),
    6: (ip_address("2001:db8::2"), ip_address("2001:db8::3")),
}
NETS = {
    4: (ip_network("10.1.0.0/26"), ip_network("10.1.0.64/26")),
    6: (ip_network("fd01::/122"), ip_network("fd02::/122")),
}
INSIDE = {4: ip_address("10.1.0.5"), 6: ip_address("fd01::5")}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
WIRING = Wiring(container_id="c1", ifname="eth0", addresses=(ip_address("10.9.0.7"), ip_address("fd09::7")))


@dataclass
class World:
    """A node with an uplink `up0`, and a pod's namespace."""

    kernel: PodKernel
    pod_descriptor: int
    own_descriptor: int

    def pod(self) -> Netns:
        return PodNet(self.kernel).open_netns(self.pod_descriptor)


def _fake() -> World:
    kernel = FakeKernel()
    kernel.add_link("up0")
    kernel.add_address("up0", "192.0.2.1/24")
    kernel.add_address("up0", "2001:db8::1/64")
    kernel.new_netns(7)
    kernel.namespaces[8] = kernel
    return World(kernel=kernel, pod_descriptor=7, own_descriptor=8)


def _real(netns: Callable[..., str], stack: ExitStack) -> World:
    node, pod, tor = netns("node"), netns("pod"), netns("tor")
    for command in (
        f"ip -n {node} link add up0 type veth peer name down0 netns {tor}",
        f"ip -n {tor} link set down0 up",
        f"ip -n {node} link set up0 up",
        f"ip -n {node} address add 192.0.2.1/24 dev up0",
        f"ip -n {node} address add 2001:db8::1/64 dev up0 nodad",
    ):
        subprocess.run(command.split(), check=True)
    descriptors = [
        os.open(path, os.O_RDONLY) for path in (f"/run/netns/{node}", f"/run/netns/{pod}", "/proc/self/ns/net")
    ]
    for descriptor in descriptors:
        stack.callback(os.close, descriptor)
    stack.enter_context(entered(descriptors[0], home=descriptors[2]))
    kernel = NetlinkKernel()
    stack.callback(kernel.close)
    return World(kernel=kernel, pod_descriptor=descriptors[1], own_descriptor=descriptors[0])


@pytest.fixture(params=["fake", pytest.param("netns", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield _fake() if request.param == "fake" else _real(request.getfixturevalue("netns"), stack)


def via(family: int, *numbers: int) -> tuple[NextHop, ...]:
    return tuple(NextHop(gateway=GATEWAYS[family][number], device="up0") for number in numbers)


@FAMILIES
def test_what_was_put_is_listed_and_what_was_dropped_is_not(world: World, family: int) -> None:
    one, two = NETS[family]
    routes = {
        Route(dst=one, next_hops=via(family, 0), metric=1024),
        Route(dst=two, next_hops=via(family, 1, 0), metric=1024),
        Route(dst=one.supernet(), kind=RouteKind.BLACKHOLE, metric=1024),
        Route(dst=ip_network(INSIDE[family]), next_hops=(NextHop(device="up0"),)),
    }
    assert world.kernel.put_routes(routes) == {}
    assert world.kernel.list_routes(protos=OURS) == routes
    assert world.kernel.list_routes(protos=OURS) == routes, "also when asked again"
    assert world.kernel.drop_routes(routes) == {}
    assert world.kernel.list_routes(protos=OURS) == frozenset()


@FAMILIES
def test_putting_again_replaces_our_own(world: World, family: int) -> None:
    one = NETS[family][0]
    for hops in (via(family, 0), via(family, 1), via(family, 0, 1), via(family, 1)):
        route = Route(dst=one, next_hops=hops, metric=1024)
        assert world.kernel.put_routes([route]) == {}
        assert world.kernel.list_routes(protos=OURS) == {route}
    hole = Route(dst=one, kind=RouteKind.BLACKHOLE, metric=1024)
    assert world.kernel.put_routes([hole]) == {}
    assert world.kernel.list_routes(protos=OURS) == {hole}


@FAMILIES
def test_a_strangers_route_is_neither_replaced_nor_dropped(world: World, family: int) -> None:
    stranger = Route(dst=NETS[family][0], next_hops=via(family, 0), proto=99, metric=1024)
    assert world.kernel.put_routes([stranger]) == {}
    ours = Route(dst=stranger.dst, next_hops=via(family, 1), metric=1024)
    assert world.kernel.put_routes([ours])[ours].errno == errno.EEXIST
    assert world.kernel.drop_routes([ours])[ours].errno == errno.ESRCH
    assert world.kernel.list_routes(protos=frozenset({99})) == {stranger}
    assert world.kernel.list_routes(protos=OURS) == frozenset()


@FAMILIES
def test_one_refused_route_does_not_hold_up_the_rest(world: World, family: int) -> None:
    good = Route(dst=NETS[family][0], next_hops=via(family, 0), metric=1024)
    absent = Route(dst=NETS[family][1], next_hops=(NextHop(device="nowhere0"),), metric=1024)
    failed = world.kernel.put_routes([absent, good])
    assert {route: error.errno for route, error in failed.items()} == {absent: errno.ENODEV}
    assert world.kernel.list_routes(protos=OURS) == {good}


@FAMILIES
def test_a_next_hop_resolves_by_longest_match(world: World, family: int) -> None:
    gateway, other = GATEWAYS[family]
    assert world.kernel.resolve(gateway) == (NextHop(gateway=gateway, device="up0"),)
    assert world.kernel.resolve(INSIDE[family]) == ()
    far = Route(dst=NETS[family][0], next_hops=via(family, 0, 1), proto=99, metric=5)
    world.kernel.put_routes([far])
    assert set(world.kernel.resolve(INSIDE[family])) == set(far.next_hops)
    assert world.kernel.resolve(ip_address("192.0.2.1" if family == 4 else "2001:db8::1")) == (), "this host itself"
    assert other != gateway


@FAMILIES
def test_a_next_hop_never_hangs_on_a_learned_route(world: World, family: int) -> None:
    wide = Route(dst=NETS[family][0].supernet(), next_hops=via(family, 0), proto=99, metric=5)
    learned = Route(dst=NETS[family][0], next_hops=via(family, 1), metric=1024)
    world.kernel.put_routes([wide, learned])
    assert world.kernel.resolve(INSIDE[family]) == wide.next_hops
    world.kernel.drop_routes([wide])
    assert world.kernel.resolve(INSIDE[family]) == ()


def test_a_pod_is_made_checked_and_deleted(world: World) -> None:
    net, pod = PodNet(world.kernel), world.pod()
    net.build(WIRING, netns=pod)
    link = world.kernel.find_link(WIRING.interface)
    assert link is not None
    assert (link.state, link.group, link.noarp) == (LinkState.DOWN, BUILDING_GROUP, True)
    assert net.live() == ()
    net.raise_up(WIRING, netns=pod)
    assert net.check(WIRING, netns=pod) == ()
    assert [found.mark for found in net.live()] == [WIRING.mark(pod.identity)]
    mark = net.delete(container_id="c1", ifname="eth0")
    assert mark == WIRING.mark(pod.identity)
    assert world.kernel.list_routes(protos=OURS) == frozenset()
    assert net.delete(container_id="c1", ifname="eth0") is None
    world.kernel.delete_group(DEAD_GROUP)
    world.kernel.delete_group(DEAD_GROUP)
    assert world.kernel.find_link(WIRING.interface) is None
    assert pod.find_link("eth0") is None


def test_an_add_that_fails_leaves_no_link(world: World) -> None:
    net, pod = PodNet(world.kernel), world.pod()
    net.build(WIRING, netns=pod)
    other = Wiring(container_id="c2", ifname="eth0", addresses=WIRING.addresses)
    with pytest.raises(FileExistsError):
        net.build(other, netns=pod)
    net.undo(WIRING)
    net.undo(other)
    world.kernel.delete_group(DEAD_GROUP)
    assert [link.name for link in world.kernel.list_links() if link.name.startswith("cali")] == []


def test_steps_in_the_wrong_order_are_refused(world: World) -> None:
    entry = Neighbour(device="cali0", address=ip_address("10.9.0.7"), mac=bytes(6))
    pod = world.pod()
    for steps in ((PutNeighbour(neighbour=entry),), (SetLink(name="cali0", state=LinkState.UP),)):
        with pytest.raises(OSError, match="No such device"):
            world.kernel.run(steps)
    with pytest.raises(OSError, match="No such device"):
        pod.run(pod_steps(WIRING))


def test_a_route_over_a_link_that_is_down_is_refused(world: World) -> None:
    pod = world.pod()
    PodNet(world.kernel).build(WIRING, netns=pod)
    route = Route(dst=ip_network("10.9.0.7/32"), next_hops=(NextHop(device=WIRING.interface),))
    with pytest.raises(OSError, match="Network is down"):
        world.kernel.run((PutRoute(route=route),))


def test_our_own_namespace_is_refused(world: World) -> None:
    with pytest.raises(RefusedNamespace, match="host's own"):
        PodNet(world.kernel).open_netns(world.own_descriptor)


def test_what_is_no_namespace_is_refused(world: World) -> None:
    with open(os.devnull) as nothing, pytest.raises(RefusedNamespace, match="not a network namespace"):  # noqa: PTH123
        PodNet(world.kernel).open_netns(nothing.fileno())
