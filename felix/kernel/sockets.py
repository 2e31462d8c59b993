"""A socket to rtnetlink that asks in batches and collects the answers.

The kernel works off a request inside the send call, so an answer is there when `send` returns: nothing here waits for
others, and the receive time limit only guards against a bug.
Called by felix.kernel.netlink.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from felix.kernel.rawnl import NLMSG_DONE, NLMSG_ERROR, error_number, number, split

_SOL_NETLINK, _CAP_ACK, _GET_STRICT_CHK = 270, 10, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 4 << 20
_ANSWER_LIMIT_S = 10
_RECEIVE_BYTES = 1 << 15
"""What the kernel puts into one datagram of a dump at most. More would cost: Python allocates it anew each time."""


class NetlinkSocket:
    """Bound to the namespace in which it was made."""

    def __init__(self, protocol: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self.port: int = self._socket.getsockname()[0]
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        with contextlib.suppress(OSError):  # before Linux 4.20: dumps are unfiltered, decoding sorts out
            self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWER_LIMIT_S, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, requests: list[bytes]) -> tuple[list[bytes], dict[int, OSError]]:
        """Send as one batch. Returns the bodies of answers, and errors by position in the batch."""
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.send(number(requests, first=first))
        bodies: list[bytes] = []
        failed: dict[int, OSError] = {}
        while True:
            for kind, sequence, body in split(self._socket.recv(_RECEIVE_BYTES)):
                position = sequence - first
                if not 0 <= position < len(requests):
                    continue  # rest of an earlier answer that was given up
                if kind == NLMSG_ERROR:
                    code = error_number(body)
                    if code:
                        failed[position] = OSError(code, os.strerror(code))
                    if position == len(requests) - 1:
                        return bodies, failed
                elif kind == NLMSG_DONE:
                    return bodies, failed
                else:
                    bodies.append(body)

    def must(self, requests: list[bytes]) -> list[bytes]:
        """As `ask`; raises the first error."""
        bodies, failed = self.ask(requests)
        if failed:
            raise failed[min(failed)]
        return bodies
