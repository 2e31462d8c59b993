"""Requests to rtnetlink, packed: one function for each kind of message, values in, bytes out.

Interface indexes are arguments: looking them up is the socket's business (felix.kernel.netlink).
Source: linux/if_link.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv6Address

from felix.kernel.protocols import (
    CreateVeth,
    InterfaceAddress,
    IPAddress,
    LinkState,
    Neighbour,
    NextHop,
    Route,
    RouteKind,
    SetLink,
)
from felix.kernel.rawnl import F_CREATE, F_DUMP, F_EXCL, F_REPLACE, attr, message, text, u32

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
AF_INET, AF_INET6 = 2, 10

IFF_UP, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x80, 0x10000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 18, 20
IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 26, 27, 28, 29
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
SKIP_STATS = 1 << 3
"""RTEXT_FILTER_SKIP_STATS: a link's counters are most of its message."""

RT_TABLE_MAIN = 254
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH = 1, 4, 5, 6, 7, 9
RTA_TABLE, RTA_VIA = 15, 18
RTN_UNICAST, RTN_BLACKHOLE = 1, 6
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
RTNH_F_ONLINK = 4
RTM_F_FIB_MATCH = 0x2000

NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02

_IFINFO = struct.Struct("=BxHiII")
_ADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NEIGH = struct.Struct("=BxxxiHBB")
_NEXTHOP = struct.Struct("=HBBi")

# linux/ip.h, IPV4_DEVCONF_*
_QUIET_IPV4 = {
    4: 0,  # accept_redirects: a pod must not move our routes
    6: 0,  # send_redirects: two pods of one node are never on a shared link
    8: 1,  # rp_filter: strict; a second line behind the policy's own check
    9: 0,  # accept_source_route
    24: 0,  # proxy_arp_pvlan
}


def family(address: IPAddress) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


def _ifinfo(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def create_veth(step: CreateVeth, *, netns: int) -> bytes:
    """The pair, its other half made in the namespace behind descriptor `netns`.

    Making it here and moving it there would wait for RCU: 20 ms instead of 0.3. One queue each: the default allocates
    one for each processor. IFF_UP on the peer is refused by the kernel (ENOTCONN), so both begin down.
    """
    queues = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)
    peer = (
        _ifinfo()
        + text(IFLA_IFNAME, step.peer)
        + attr(IFLA_ADDRESS, step.peer_mac)
        + u32(IFLA_MTU, step.mtu)
        + u32(IFLA_NET_NS_FD, netns)
        + queues
    )
    info = attr(1, b"veth\0") + attr(2, attr(1, peer))  # IFLA_INFO_KIND, IFLA_INFO_DATA{VETH_INFO_PEER}
    body = (
        _ifinfo(flags=IFF_NOARP, change=IFF_NOARP)
        + text(IFLA_IFNAME, step.name)
        + attr(IFLA_ADDRESS, step.mac)
        + u32(IFLA_MTU, step.mtu)
        + u32(IFLA_GROUP, step.group)
        + queues
        + attr(IFLA_LINKINFO, info)
    )
    return message(RTM_NEWLINK, F_CREATE | F_EXCL, body)


def set_link(step: SetLink, *, index: int, with_ipv6: Callable[[], bool]) -> bytes:
    """Change a link. `quiet` sets IPv4 switches and keeps IPv6 from giving the link an address of its own."""
    flags = IFF_UP if step.state is LinkState.UP else 0
    body = _ifinfo(index, flags=flags, change=IFF_UP if step.state is not None else 0)
    if step.group is not None:
        body += u32(IFLA_GROUP, step.group)
    if step.alias is not None:
        body += attr(IFLA_IFALIAS, step.alias.encode())
    if step.quiet:
        switches = b"".join(u32(kind, value) for kind, value in _QUIET_IPV4.items())
        spec = attr(AF_INET, attr(1, switches))  # IFLA_INET_CONF
        if with_ipv6():
            spec += attr(AF_INET6, attr(8, b"\1"))  # IFLA_INET6_ADDR_GEN_MODE = none
        body += attr(IFLA_AF_SPEC, spec)
    return message(RTM_SETLINK, 0, body)


def delete_group(group: int) -> bytes:
    """All links of a group in one stroke."""
    return message(RTM_DELLINK, 0, _ifinfo() + u32(IFLA_GROUP, group))


def get_link(name: str) -> bytes:
    """Ask for one link by name."""
    return message(RTM_GETLINK, 0, _ifinfo() + text(IFLA_IFNAME, name) + u32(IFLA_EXT_MASK, SKIP_STATS))


def dump_links() -> bytes:
    """Ask for all links, without counters."""
    return message(RTM_GETLINK, F_DUMP, _ifinfo() + u32(IFLA_EXT_MASK, SKIP_STATS))


def put_address(address: InterfaceAddress, *, index: int) -> bytes:
    """Add or replace an address; IPv6 without duplicate address detection: the link has two ends, both ours."""
    packed = address.address.packed
    header = _ADDR.pack(family(address.address), address.prefix_len, 0, 0, index)
    body = header + attr(IFA_LOCAL, packed) + attr(IFA_ADDRESS, packed)
    if address.address.version == 6:
        body += u32(IFA_FLAGS, IFA_F_NODAD)
    return message(RTM_NEWADDR, F_CREATE | F_REPLACE, body)


def dump_addresses() -> bytes:
    """Ask for all addresses, both families."""
    return message(RTM_GETADDR, F_DUMP, _ADDR.pack(0, 0, 0, 0, 0))


def put_neighbour(entry: Neighbour, *, index: int) -> bytes:
    """Add or replace a permanent neighbour."""
    header = _NEIGH.pack(family(entry.address), index, NUD_PERMANENT, 0, 0)
    body = header + attr(NDA_DST, entry.address.packed) + attr(NDA_LLADDR, entry.mac)
    return message(RTM_NEWNEIGH, F_CREATE | F_REPLACE, body)


def dump_neighbours(*, index: int) -> bytes:
    """Ask for the neighbours on one interface."""
    return message(RTM_GETNEIGH, F_DUMP, _NEIGH.pack(0, 0, 0, 0, 0) + u32(8, index))  # NDA_IFINDEX


def put_route(route: Route, *, flags: int, index_of: Callable[[str], int]) -> bytes:
    """Add (F_EXCL) or replace (F_REPLACE) a route."""
    return message(RTM_NEWROUTE, F_CREATE | flags, _route_body(route, index_of=index_of))


def drop_route(route: Route) -> bytes:
    """Remove a route by destination, metric and protocol: a stranger's is never hit."""
    kind = RTN_UNICAST if route.kind is RouteKind.UNICAST else RTN_BLACKHOLE
    scope = SCOPE_NOWHERE if route.dst.version == 4 else SCOPE_UNIVERSE
    return message(RTM_DELROUTE, 0, _route_head(route, kind=kind, scope=scope, flags=0))


def _route_head(route: Route, *, kind: int, scope: int, flags: int) -> bytes:
    dst = route.dst
    header = _RTMSG.pack(
        AF_INET if dst.version == 4 else AF_INET6, dst.prefixlen, 0, 0, RT_TABLE_MAIN, route.proto, scope, kind, flags
    )
    body = header + attr(RTA_DST, dst.network_address.packed) if dst.prefixlen else header
    return body + u32(RTA_PRIORITY, route.metric) if route.metric else body


def _route_body(route: Route, *, index_of: Callable[[str], int]) -> bytes:
    hops = route.next_hops
    if route.kind is RouteKind.BLACKHOLE:
        return _route_head(route, kind=RTN_BLACKHOLE, scope=SCOPE_UNIVERSE, flags=0)
    direct = route.dst.version == 4 and any(hop.gateway is None for hop in hops)
    scope = SCOPE_LINK if direct else SCOPE_UNIVERSE
    flags = RTNH_F_ONLINK if len(hops) == 1 and hops[0].onlink else 0
    body = _route_head(route, kind=RTN_UNICAST, scope=scope, flags=flags)
    if route.source is not None:
        body += attr(RTA_PREFSRC, route.source.packed)
    if len(hops) == 1:
        return body + _gateway(hops[0], version=route.dst.version) + u32(RTA_OIF, index_of(hops[0].device))
    parts = []
    for hop in hops:
        gateway = _gateway(hop, version=route.dst.version)
        onlink = RTNH_F_ONLINK if hop.onlink else 0
        parts.append(_NEXTHOP.pack(8 + len(gateway), onlink, 0, index_of(hop.device)) + gateway)
    return body + attr(RTA_MULTIPATH, b"".join(parts))


def _gateway(hop: NextHop, *, version: int) -> bytes:
    if hop.gateway is None:
        return b""
    if hop.gateway.version == version:
        return attr(RTA_GATEWAY, hop.gateway.packed)
    if isinstance(hop.gateway, IPv6Address):  # IPv4 over an IPv6 next hop, RFC 8950
        return attr(RTA_VIA, struct.pack("=H", AF_INET6) + hop.gateway.packed)
    raise ValueError(f"an IPv6 route cannot go over the IPv4 gateway {hop.gateway}")


def dump_routes(*, version: int, proto: int) -> bytes:
    """Ask for the main table; `proto` 0 = all. The filter works on a socket with strict checking."""
    header = _RTMSG.pack(AF_INET if version == 4 else AF_INET6, 0, 0, 0, RT_TABLE_MAIN, proto, 0, 0, 0)
    return message(RTM_GETROUTE, F_DUMP, header + u32(RTA_TABLE, RT_TABLE_MAIN))


def match_route(address: IPAddress) -> bytes:
    """Ask which route a packet to `address` takes: the whole route, not the path that a hash picks."""
    header = _RTMSG.pack(family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    return message(RTM_GETROUTE, 0, header + attr(RTA_DST, address.packed))
