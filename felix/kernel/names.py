"""Every name and number that Tortie puts on a kernel object, with the kernel's limits.

A restarted agent has no memory: it knows its own things by these marks alone.

=================  ==========================================  =============================
object             mark                                        limit
=================  ==========================================  =============================
pod's host side    `cali` + 11 hex digits; alias says whose     IFNAMSIZ: 15 characters
half-built link    link group BUILDING_GROUP                    32 bits
deleted link       link group DEAD_GROUP                        32 bits
route              protocol FELIX_PROTO                         8 bits
nftables guard     table `tortie-guard` of family ip6           255 characters
=================  ==========================================  =============================

Called by felix.podnet, the route writer and both kernels.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

FELIX_PROTO = 80
"""Routing protocol number of every route of ours (Calico uses the same; BIRD's is 12, FRR's 186 and up)."""

POD_PREFIX = "cali"
INTERFACE_NAME_MAX = 15
POD_MAC = bytes([0xEE] * 6)
"""MAC of every host side: one value, so a pod's neighbour entry stays true when its link is made again."""

BUILDING_GROUP = 0x7091_0001
"""Links whose ADD has not ended; none lives when an agent starts, so those found then are debris."""

DEAD_GROUP = 0x7091_0002
"""Links whose DEL has been answered; the reaper deletes them together (one link alone costs 20 ms of RCU waiting)."""

GUARD_TABLE = "tortie-guard"

_ALIAS = re.compile(
    r"tortie:(?P<container>[A-Za-z0-9_.\-]{1,128})/(?P<ifname>[^/\s:]{1,15})"
    r" ns=(?P<device>\d+):(?P<inode>\d+) ip=(?P<addresses>[0-9a-f.:,]+)"
)
ALIAS_MAX = 255
"""IFALIASZ is 256 with the closing NUL. The longest mark: 128 + 15 + 2 x 20 + 15 + 39 and some words."""


def pod_interface(container_id: str, ifname: str) -> str:
    """Name of the host side. From the container, not from the pod: a late DEL of an old sandbox of a StatefulSet pod
    then never meets the new one's link. 44 bits: a collision on a node of 250 pods has odds of 1 in 5e8, and the
    alias tells the owner, so that even then nothing of a stranger is touched."""
    digest = hashlib.sha1(f"{container_id}\0{ifname}".encode(), usedforsecurity=False).hexdigest()
    return POD_PREFIX + digest[: INTERFACE_NAME_MAX - len(POD_PREFIX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMark:
    """What a host side's alias says: owner, the namespace of its other half as (device, inode), addresses."""

    container_id: str
    ifname: str
    netns: tuple[int, int]
    addresses: tuple[IPv4Address | IPv6Address, ...]

    def __str__(self) -> str:
        addresses = ",".join(str(address) for address in self.addresses)
        return f"tortie:{self.container_id}/{self.ifname} ns={self.netns[0]}:{self.netns[1]} ip={addresses}"


@functools.lru_cache(maxsize=4096)
def parse_mark(alias: str) -> PodMark | None:
    """The mark in an alias, or None if it is not one of ours. Remembered: each look at the kernel asks for all."""
    match = _ALIAS.fullmatch(alias)
    if match is None:
        return None
    try:
        addresses = tuple(ip_address(text) for text in match["addresses"].split(","))
    except ValueError:
        return None
    return PodMark(
        container_id=match["container"],
        ifname=match["ifname"],
        netns=(int(match["device"]), int(match["inode"])),
        addresses=addresses,
    )
