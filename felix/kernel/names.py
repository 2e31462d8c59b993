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

import hashlib
import re

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
    r"tortie:(?P<container>[A-Za-z0-9_.\-]{1,200})/(?P<ifname>[^/\s:]{1,15})"
    r" ns=(?P<device>\d+):(?P<inode>\d+)"
)
ALIAS_MAX = 255
"""IFALIASZ is 256 with the closing NUL."""


def pod_interface(container_id: str, ifname: str) -> str:
    """Name of the host side. From the container, not from the pod: a late DEL of an old sandbox of a StatefulSet pod
    then never meets the new one's link. 44 bits: a collision on a node of 250 pods has odds of 1 in 5e8, and the
    alias tells the owner, so that even then nothing of a stranger is touched."""
    digest = hashlib.sha1(f"{container_id}\0{ifname}".encode(), usedforsecurity=False).hexdigest()
    return POD_PREFIX + digest[: INTERFACE_NAME_MAX - len(POD_PREFIX)]


def pod_alias(*, container_id: str, ifname: str, netns: tuple[int, int]) -> str:
    """The alias of a pod's host side: owner and the namespace (device, inode) that its other half was made in."""
    alias = f"tortie:{container_id}/{ifname} ns={netns[0]}:{netns[1]}"
    if len(alias) > ALIAS_MAX:
        raise ValueError(f"container ID of {len(container_id)} characters is too long for an interface alias")
    return alias


def parse_pod_alias(alias: str) -> tuple[str, str, tuple[int, int]] | None:
    """(container ID, interface in the pod, (device, inode)) or None if the alias is not one of ours."""
    match = _ALIAS.fullmatch(alias)
    if match is None:
        return None
    return match["container"], match["ifname"], (int(match["device"]), int(match["inode"]))
