"""Answers of rtnetlink, decoded into the values of felix.kernel.protocols.

Only what Tortie asks about is read. A message of a kind that we do not know how to express (an unreachable route, say)
decodes to None and is left alone.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from felix.kernel import messages as m
from felix.kernel.protocols import (
    InterfaceAddress,
    IPAddress,
    IPNetwork,
    Link,
    LinkState,
    Neighbour,
    NextHop,
    Route,
    RouteKind,
)
from felix.kernel.rawnl import attributes

_U32 = struct.Struct("=I")
_IFINFO = struct.Struct("=BxHiII")
_NEXTHOP = struct.Struct("=HBBi")


def _number(data: bytes | None) -> int:
    return _U32.unpack(data)[0] if data else 0


def _text(data: bytes | None) -> str:
    return data.rstrip(b"\0").decode(errors="replace") if data else ""


def _ip(data: bytes) -> IPAddress:
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)


def link_name(body: bytes) -> tuple[int, str]:
    """(index, name) of a link, when nothing else matters."""
    return _IFINFO.unpack_from(body)[2], _text(attributes(body, after=16).get(m.IFLA_IFNAME))


def link(body: bytes) -> Link:
    """A whole link."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = attributes(body, after=16)
    info = attributes(found.get(m.IFLA_LINKINFO, b""), after=0)
    return Link(
        index=index,
        name=_text(found.get(m.IFLA_IFNAME)),
        kind=_text(info.get(1)),
        state=LinkState.UP if flags & m.IFF_UP else LinkState.DOWN,
        carrier=bool(flags & m.IFF_LOWER_UP),
        noarp=bool(flags & m.IFF_NOARP),
        mac=found.get(m.IFLA_ADDRESS, b""),
        mtu=_number(found.get(m.IFLA_MTU)),
        group=_number(found.get(m.IFLA_GROUP)),
        alias=_text(found.get(m.IFLA_IFALIAS)),
    )


def address(body: bytes, *, names: Mapping[int, str]) -> InterfaceAddress | None:
    """An address; None if its interface went away meanwhile."""
    prefix_len, index = body[1], _U32.unpack_from(body, 4)[0]
    found = attributes(body, after=8)
    packed = found.get(m.IFA_LOCAL) or found.get(m.IFA_ADDRESS)
    name = names.get(index)
    if packed is None or name is None:
        return None
    return InterfaceAddress(device=name, address=_ip(packed), prefix_len=prefix_len)


def neighbour(body: bytes, *, device: str) -> Neighbour | None:
    """A neighbour; None for what has no address."""
    (state,) = struct.unpack_from("=H", body, 8)
    found = attributes(body, after=12)
    packed = found.get(m.NDA_DST)
    if packed is None or len(packed) not in (4, 16):
        return None
    return Neighbour(
        device=device,
        address=_ip(packed),
        mac=found.get(m.NDA_LLADDR, b""),
        permanent=bool(state & m.NUD_PERMANENT),
    )


def route_proto(body: bytes) -> int:
    """Routing protocol number, cheap enough to skip by."""
    return body[5]


def route_length(body: bytes) -> int:
    """Prefix length of its destination."""
    return body[1]


def route_metric(body: bytes) -> int:
    """Its metric."""
    return _number(attributes(body, after=12).get(m.RTA_PRIORITY))


def route(body: bytes, *, names: Mapping[int, str]) -> Route | None:
    """A route of the main table, or None for what Tortie cannot express (and so never touches)."""
    version, prefix_len, kind = (4 if body[0] == m.AF_INET else 6), body[1], body[7]
    if kind not in (m.RTN_UNICAST, m.RTN_BLACKHOLE):
        return None
    found = attributes(body, after=12)
    packed = found.get(m.RTA_DST)
    dst: IPNetwork
    if version == 4:
        dst = IPv4Network((packed or bytes(4), prefix_len))
    else:
        dst = IPv6Network((packed or bytes(16), prefix_len))
    hops: tuple[NextHop, ...] = ()
    if kind == m.RTN_UNICAST:
        read = _next_hops(body, found, names=names)
        if read is None:
            return None
        hops = read
    source = found.get(m.RTA_PREFSRC)
    return Route(
        dst=dst,
        kind=RouteKind.UNICAST if kind == m.RTN_UNICAST else RouteKind.BLACKHOLE,
        next_hops=hops,
        proto=body[5],
        metric=_number(found.get(m.RTA_PRIORITY)),
        source=_ip(source) if source else None,
    )


def _next_hops(body: bytes, found: Mapping[int, bytes], *, names: Mapping[int, str]) -> tuple[NextHop, ...] | None:
    """None if a hop has no interface that we know."""
    multipath = found.get(m.RTA_MULTIPATH)
    if multipath is None:
        (flags,) = _U32.unpack_from(body, 8)
        hop = _hop(found, index=_number(found.get(m.RTA_OIF)), flags=flags, names=names)
        return None if hop is None else (hop,)
    hops = []
    at = 0
    while at + 8 <= len(multipath):
        length, flags, _weight, index = _NEXTHOP.unpack_from(multipath, at)
        if length < 8:
            return None
        hop = _hop(attributes(multipath[at : at + length], after=8), index=index, flags=flags, names=names)
        if hop is None:
            return None
        hops.append(hop)
        at += (length + 3) & ~3
    return tuple(hops) or None


def _hop(found: Mapping[int, bytes], *, index: int, flags: int, names: Mapping[int, str]) -> NextHop | None:
    name = names.get(index)
    if name is None:
        return None
    gateway: IPAddress | None = None
    if m.RTA_GATEWAY in found:
        gateway = _ip(found[m.RTA_GATEWAY])
    elif m.RTA_VIA in found:
        gateway = _ip(found[m.RTA_VIA][2:])
    return NextHop(gateway=gateway, device=name, onlink=bool(flags & m.RTNH_F_ONLINK))
