"""What only a real kernel shows: events, connection tracking, bulk, and pyroute2 as a second reader of our bytes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from felix.kernel import messages
from felix.kernel.events import NetlinkEvents
from felix.kernel.names import BUILDING_GROUP, POD_MAC
from felix.kernel.netlink import NetlinkKernel, entered
from felix.kernel.protocols import CreateVeth, Neighbour, NextHop, Route
from felix.kernel.rawnl import F_REPLACE
from tests.eventually import eventually


@pytest.fixture
def kernel(netns: Callable[..., str]) -> Iterator[NetlinkKernel]:
    """A kernel of a namespace that this thread is in."""
    name = netns("k")
    subprocess.run(f"ip -n {name} link add up0 type veth peer name up1".split(), check=True)
    subprocess.run(f"ip -n {name} link set up0 up".split(), check=True)
    subprocess.run(f"ip -n {name} address add 192.0.2.1/24 dev up0".split(), check=True)
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    with entered(descriptor, home=home):
        real = NetlinkKernel()
        yield real
        real.close()
    os.close(descriptor)
    os.close(home)


def many(number: int) -> list[Route]:
    hop = NextHop(gateway=ip_address("192.0.2.2"), device="up0")
    return [Route(dst=ip_network((0x0A000000 + (i << 6), 26)), next_hops=(hop,), metric=1024) for i in range(number)]


def test_ten_thousand_routes_go_in_and_out(kernel: NetlinkKernel) -> None:
    routes = many(10_000)
    assert kernel.put_routes(routes) == {}
    assert kernel.list_routes(protos=frozenset({80})) == frozenset(routes)
    assert kernel.put_routes(routes) == {}, "again: all of them are there already"
    assert kernel.drop_routes(routes) == {}
    assert kernel.list_routes(protos=frozenset({80})) == frozenset()


async def test_strangers_changes_are_heard_and_our_own_are_not(kernel: NetlinkKernel) -> None:
    heard = asyncio.Event()
    events = NetlinkEvents(own_port=kernel.port)
    events.start(heard.set)
    kernel.put_routes(many(2000))
    await asyncio.to_thread(subprocess.run, ["true"])  # the loop has turned meanwhile
    assert not heard.is_set()
    await asyncio.to_thread(subprocess.run, ["ip", "route", "flush", "proto", "80"], check=True)
    await asyncio.wait_for(heard.wait(), 5)
    events.close()


async def test_a_burst_beyond_the_buffer_still_says_look_again(kernel: NetlinkKernel) -> None:
    """30,000 events while nobody reads: the kernel drops some, and the ear survives it."""
    heard = asyncio.Event()
    events = NetlinkEvents()
    for _ in range(2):
        kernel.put_routes(many(15_000))
        kernel.drop_routes(many(15_000))
    events.start(heard.set)
    await asyncio.wait_for(heard.wait(), 5)
    heard.clear()
    kernel.put_routes(many(1))
    await asyncio.wait_for(heard.wait(), 5)
    events.close()


def test_connections_of_an_address_are_forgotten_and_others_are_not(kernel: NetlinkKernel) -> None:
    rules = "table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for text in ("127.0.1.1", "127.0.1.2"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((text, 0))
            sender.sendto(b"x", ("127.0.0.1", 9))
    eventually(lambda: tracked() == {"127.0.1.1", "127.0.1.2"})
    kernel.forget_flows([ip_address("127.0.1.1"), ip_address("fd00::1")])
    assert tracked() == {"127.0.1.2"}
    kernel.forget_flows([ip_address("127.0.1.2")])
    assert tracked() == set()


def tracked() -> set[str]:
    """Original sources of the tracked connections of this namespace."""
    from felix.kernel.nfnl import NetfilterSocket, message
    from felix.kernel.rawnl import F_DUMP, attributes

    with NetfilterSocket() as sock:
        bodies = sock.dump(message(0x101, F_DUMP, family=socket.AF_INET))
    found = set()
    for body in bodies:
        original = attributes(attributes(body, after=4)[1], after=0)
        found.add(socket.inet_ntoa(attributes(original[1], after=0)[1]))
    return found


def test_the_guard_can_be_installed_again_and_again(kernel: NetlinkKernel) -> None:
    for _ in range(3):
        kernel.guard_neighbours()
    shown = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert shown.count("icmpv6 type") == 1
    assert 'iifname "cali*" icmpv6 type 133-137 drop' in shown or 'iifname "cali*" icmpv6 type { nd-' in shown


# a second reader


def test_pyroute2_reads_our_link_as_we_meant_it() -> None:
    step = CreateVeth(name="cali1", mac=POD_MAC, peer="eth0", peer_mac=b"\2abcde", mtu=1400, group=BUILDING_GROUP)
    read = ifinfmsg(messages.create_veth(step, netns=5))
    read.decode()
    assert read.get_attr("IFLA_IFNAME") == "cali1"
    assert read.get_attr("IFLA_GROUP") == BUILDING_GROUP
    peer = read.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_FD") == 5
    assert peer.get_attr("IFLA_ADDRESS") == "02:61:62:63:64:65"


@pytest.mark.parametrize("family", [4, 6])
def test_pyroute2_reads_our_multipath_route_as_we_meant_it(family: int) -> None:
    texts = ("192.0.2.2", "192.0.2.3") if family == 4 else ("2001:db8::2", "2001:db8::3")
    hops = tuple(NextHop(gateway=ip_address(text), device=f"up{i}") for i, text in enumerate(texts))
    net = ip_network("10.0.0.0/26" if family == 4 else "fd00::/122")
    route = Route(dst=net, next_hops=hops, metric=1024)
    packed = messages.put_route(route, flags=F_REPLACE, index_of=lambda name: int(name[-1]) + 10)
    read = rtmsg(packed)
    read.decode()
    assert (read["dst_len"], read["proto"], read.get_attr("RTA_PRIORITY")) == (net.prefixlen, 80, 1024)
    paths = [(path["oif"], path.get_attr("RTA_GATEWAY")) for path in read.get_attr("RTA_MULTIPATH")]
    assert paths == [(10, texts[0]), (11, texts[1])]


def test_pyroute2_reads_our_neighbour_as_we_meant_it() -> None:
    entry = Neighbour(device="x", address=ip_address("fe80::1"), mac=POD_MAC)
    read = ndmsg(messages.put_neighbour(entry, index=4))
    read.decode()
    assert (read["ifindex"], read["state"], read.get_attr("NDA_DST")) == (4, 0x80, "fe80::1")
    assert read.get_attr("NDA_LLADDR") == "ee:ee:ee:ee:ee:ee"
