"""What makes a BGPPeer usable, as far as the object itself can tell: one set of rules for all who read it.

The agent follows a peer and the operator writes its condition, and they must never differ: a condition that says "in
use" of a peer that every agent leaves out sends people looking in the wrong place. What needs more than the object (is
the Secret there, which node has that address) is asked by each where it knows.

Pure. Called by `bgp.peering` and `ipam.operator_status`.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final

from crds.bgp_kinds import BGPPeerSpec
from crds.errors import BadObject
from crds.selector import parse_selector
from crds.values import IPAddress, parse_duration

KEEPALIVE_S: Final = (1, 21845)
"""Three keepalives make the hold time, which has 16 bits (RFC 4271)."""
RESTART_S: Final = (0, 4095)
"""12 bits (RFC 4724)."""
_V4_PORT = re.compile(r"([0-9.]+):([0-9]{1,5})", re.ASCII)
_V6_PORT = re.compile(r"\[(?=[^\]]*:)([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]{1,15})?)\](?::([0-9]{1,5}))?", re.ASCII)


def check_peer(spec: BGPPeerSpec) -> None:
    """Raises BadObject for what no node could follow."""
    if spec.local_workload_selector:
        raise BadObject("spec.localWorkloadSelector", "cannot be followed yet; leave it empty")
    if spec.reachable_by:
        raise BadObject(
            "spec.reachableBy", "cannot be followed yet; route to the peer outside Tortie and leave it empty"
        )
    if bool(spec.peer_ip) == bool(spec.peer_selector):
        raise BadObject("spec.peerIP", "must be given, or else spec.peerSelector, and not both")
    if spec.node and spec.node_selector:
        raise BadObject("spec.nodeSelector", "must be empty where spec.node is given")
    if spec.source_address not in {"", "UseNodeIP", "None"}:
        raise BadObject("spec.sourceAddress", f"must be UseNodeIP or None, is {spec.source_address!r}")
    if not 0 <= (spec.ttl_security or 0) <= 255:
        raise BadObject("spec.ttlSecurity", f"must lie in 0..255, is {spec.ttl_security}")
    parse_selector(spec.node_selector, field="spec.nodeSelector")
    if spec.peer_ip:
        parse_peer_ip(spec.peer_ip, field="spec.peerIP")
    else:
        parse_selector(spec.peer_selector, field="spec.peerSelector")
    keepalive_s(spec)
    restart_s(spec)


def parse_peer_ip(text: str, *, field: str) -> tuple[IPAddress, str, int]:
    """Address, interface ("" but for link-local ones) and port (0: not given). Raises BadObject."""
    found = _V4_PORT.fullmatch(text) or _V6_PORT.fullmatch(text)
    host, port = (found[1], int(found[2] or 0)) if found else (text, 0)
    try:
        address = ip_address(host)
    except ValueError:
        allowed = "an address such as 192.0.2.1, 192.0.2.1:1790, 2001:db8::1 or [2001:db8::1]:1790"
        raise BadObject(field, f"must be {allowed}, is {text!r}") from None
    if port > 65535 or (found and found[2] and port == 0):
        raise BadObject(field, f"must have a port in 1..65535, is {text!r}")
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise BadObject(field, f"must be an address that a router can have, is {text!r}")
    interface = ""
    if isinstance(address, IPv6Address):
        interface = address.scope_id or ""
        address = IPv6Address(int(address))
        if address.is_link_local != bool(interface):
            raise BadObject(field, f"must name the interface of a link-local address, and only of one: {text!r}")
    return address, interface, port


def keepalive_s(spec: BGPPeerSpec) -> int:
    """Seconds between keepalives. Raises BadObject."""
    return _seconds(spec.keepalive_time, "spec.keepaliveTime", default=30, allowed=KEEPALIVE_S)


def restart_s(spec: BGPPeerSpec) -> int:
    """Graceful restart time in seconds. Raises BadObject."""
    return _seconds(spec.max_restart_time, "spec.maxRestartTime", default=120, allowed=RESTART_S)


def _seconds(text: str | None, field: str, *, default: int, allowed: tuple[int, int]) -> int:
    if not text:
        return default
    found = round(parse_duration(text, field=field))
    low, high = allowed
    if not low <= found <= high:
        raise BadObject(field, f"must lie in {low}s..{high}s, is {text!r}")
    return found
