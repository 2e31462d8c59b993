"""Requests to nfnetlink over a socket of their own, for conntrack and nftables.

A socket is opened for each use: both are rare and neither is in the path of an ADD.
Source: linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct

from felix.kernel.rawnl import F_ACK, F_REQUEST, HEADER, NLMSG_DONE, NLMSG_ERROR, error_number, split

_NETLINK_NETFILTER = 12
_ANSWER_LIMIT_S = 10


def message(kind: int, flags: int, *, family: int, body: bytes = b"", resource: int = 0, sequence: int = 0) -> bytes:
    """One nfnetlink message with its 4-byte header (family, version 0, resource in network byte order)."""
    payload = struct.pack(">BBH", family, 0, resource) + body
    return HEADER.pack(16 + len(payload), kind, F_REQUEST | flags, sequence, 0) + payload + bytes(-len(payload) & 3)


class NetfilterSocket:
    """Use as a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWER_LIMIT_S, 0))

    def __enter__(self) -> NetfilterSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def dump(self, request: bytes) -> list[bytes]:
        """Bodies of a dump."""
        self._socket.send(request)
        bodies: list[bytes] = []
        while True:
            for kind, _sequence, body in split(self._socket.recv(1 << 16)):
                if kind == NLMSG_DONE:
                    return bodies
                if kind == NLMSG_ERROR:
                    _raise(error_number(body))
                    return bodies
                bodies.append(body)

    def do(self, requests: bytes, *, acknowledged: int = 1) -> None:
        """Send; wait for as many acknowledgements as messages asked for; raise the first error."""
        self._socket.send(requests)
        while acknowledged:
            for kind, _sequence, body in split(self._socket.recv(1 << 16)):
                if kind == NLMSG_ERROR:
                    _raise(error_number(body))
                    acknowledged -= 1


def _raise(code: int) -> None:
    if code:
        raise OSError(code, os.strerror(code))


__all__ = ["F_ACK", "NetfilterSocket", "message"]
