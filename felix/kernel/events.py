"""The kernel's ear: "links, addresses or routes have changed, look again".

What changed is not read: the kernel may drop events when they come too fast (ENOBUFS), and then only looking again
helps, so that is what always happens. Our own route writes are filtered out inside the kernel by a three-line socket
filter on the sender's port; ten thousand routes of ours cause no event at all.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable

_RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER_BYTES = 2 << 20
_PORT_OFFSET = 12
"""Of nlmsg_pid in a message's header."""


class NetlinkEvents:
    """Events of the namespace in which this was made."""

    def __init__(self, *, own_port: int = 0) -> None:
        """`own_port`: netlink port whose writes are no news (NetlinkKernel.port); 0 = hear all."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        if own_port:
            self._attach_filter(own_port)
        self._socket.bind((0, _RTMGRP_LINK | _IPV4_IFADDR | _IPV4_ROUTE | _IPV6_IFADDR | _IPV6_ROUTE))
        self._loop: asyncio.AbstractEventLoop | None = None

    def _attach_filter(self, port: int) -> None:
        """Drop messages of `port`. The filter machine loads big-endian, the header is in host order."""
        (swapped,) = struct.unpack(">I", struct.pack("=I", port))
        program = b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in (
                (0x20, 0, 0, _PORT_OFFSET),  # load the word
                (0x15, 0, 1, swapped),  # equal: next; else: skip one
                (0x06, 0, 0, 0),  # drop
                (0x06, 0, 0, 0xFFFFFFFF),  # keep
            )
        )
        held = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 4, ctypes.addressof(held))
        )

    def start(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` in the running loop after each burst."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._drain, on_change)

    def _drain(self, on_change: Callable[[], None]) -> None:
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        on_change()

    def close(self) -> None:
        """Stop."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
