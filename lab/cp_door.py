"""A door from the machine into a network namespace: what connects to a port here comes out over there.

What for: the control plane is a host of the fabric, in a namespace of its own, yet a person with kubectl sits outside.
A cable from the machine into the fabric would change the machine's routes; a door changes nothing.

Theory: a socket belongs to the namespace in which it was made. So the listening socket is made first, then the process
moves into the other namespace for good, and all that it connects to is there. Bytes are copied both ways, nothing is
understood; TLS stays between client and API server.

Invariants: listens on loopback only.

Called by: controlplane, as `python -m lab.cp_door NETNS LISTEN-PORT ADDRESS PORT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CHUNK_BYTES = 65536


def main() -> None:
    """Listen, move, serve until killed."""
    netns, listen_port, address, port = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", int(listen_port)))
    _enter(Path("/run/netns") / netns)
    asyncio.run(_serve(listener, address, int(port)))


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))
    finally:
        os.close(descriptor)


async def _serve(listener: socket.socket, address: str, port: int) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.transport.abort()  # a reset, as the client would see it over there
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    server = await asyncio.start_server(carry, sock=listener)
    async with server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    main()
