"""Forget the tracked connections of an address before another pod gets it.

Theory: an entry of a dead pod would hand its reply packets, NAT and "established" verdict to the next owner of the
address. A pod's flows carry its address as source of the original direction (it called) or of the reply direction (it
was called, by itself or behind a service): two sweeps for each address. The kernel filters the dump, so only entries
that must go come up to us, and each is deleted by its tuple.

Sweeping walks the whole table, so this is the reaper's work; the address cools down meanwhile (ipam).
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from felix.kernel.messages import family
from felix.kernel.nfnl import F_ACK, NetfilterSocket, message
from felix.kernel.protocols import IPAddress
from felix.kernel.rawnl import F_DUMP, NESTED, attr, attributes

_CT_GET, _CT_DELETE = 0x101, 0x102
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_TUPLE_IP, _CTA_FILTER = 1, 2, 1, 25
_FILTER_IP_SRC = 1
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def forget(addresses: Iterable[IPAddress]) -> None:
    """Delete the entries of these addresses. Without connection tracking in the kernel there are none."""
    try:
        if _COUNT.read_text(encoding="ascii").strip() == "0":
            return
    except OSError:
        return
    with NetfilterSocket() as sock:
        for address in addresses:
            for direction in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY):
                _sweep(sock, address, direction)


def _filter(address: IPAddress, direction: int) -> bytes:
    source = attr(1 if address.version == 4 else 3, address.packed)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
    ip = attr(_CTA_TUPLE_IP | NESTED, source)
    flags = attr(direction, struct.pack("=I", _FILTER_IP_SRC))  # CTA_FILTER_ORIG_FLAGS = 1, _REPLY_FLAGS = 2
    return attr(direction | NESTED, ip) + attr(_CTA_FILTER | NESTED, flags)


def _sweep(sock: NetfilterSocket, address: IPAddress, direction: int) -> None:
    wanted = _filter(address, direction)
    dump = message(_CT_GET, F_DUMP, family=family(address), body=wanted)
    for body in sock.dump(dump):
        original = attributes(body, after=4).get(_CTA_TUPLE_ORIG)
        if original is None:
            continue
        request = attr(_CTA_TUPLE_ORIG | NESTED, original)
        with suppress(FileNotFoundError):  # it ended by itself
            _delete(sock, address, request)


def _delete(sock: NetfilterSocket, address: IPAddress, request: bytes) -> None:
    try:
        sock.do(message(_CT_DELETE, F_ACK, family=family(address), body=request))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
