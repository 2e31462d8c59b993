"""ExaBGP's child: carries bytes between ExaBGP's pipes and the supervisor's Unix socket, and decides nothing.

Theory: ExaBGP blocks, keepalives included, whenever its helper does not read; so stdin is always drained, into
memory if the supervisor is slow. And a helper that dies while ExaBGP writes to it takes every session with it; so
this one lives exactly as long as its two ends: it exits when ExaBGP closes the pipe, and when the supervisor is gone
it ends ExaBGP first (graceful restart keeps the routes; the next supervisor starts a new one). It never reconnects
and never tries again: five deaths in a minute end ExaBGP.

Standard library only, so that it starts in a few milliseconds. Run as `python -I relay.py SOCKET`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Final

CHUNK: Final = 1 << 20
HELD_MAX_BYTES: Final = 512 << 20
"""More than this waiting for the supervisor, and it is stuck for good: restart everything."""


def main() -> int:
    """Runs until an end closes; the exit status is of no interest to anyone."""
    os.umask(0o077)
    parent = os.getppid()
    with contextlib.suppress(OSError):
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, CHUNK)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(sys.argv[1])
        carry(link)
    except OSError as error:
        print(f"relay: supervisor is gone: {error}", file=sys.stderr, flush=True)
        _end(parent)
    return 0


def carry(link: socket.socket) -> None:
    """Until stdin ends (returns) or the link does (OSError)."""
    link.settimeout(0)
    for pipe in (0, 1):
        os.set_blocking(pipe, False)
    up, down = bytearray(), bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(link, selectors.EVENT_READ)
        while True:
            _watch_write(ready, link, up)
            _watch_write(ready, 1, down)
            for key, events in ready.select():
                if key.fileobj == 0:
                    data = _read_pipe()
                    if data == b"":
                        return
                    up += data or b""
                elif key.fileobj is link and events & selectors.EVENT_READ:
                    down += _read_link(link)
            if len(up) > HELD_MAX_BYTES:
                raise OSError(f"it left {len(up)} bytes unread")
            _write(link, up)
            if not _write_pipe(down):
                return


def _watch_write(ready: selectors.BaseSelector, where: socket.socket | int, waiting: bytearray) -> None:
    read = selectors.EVENT_READ if where != 1 else 0
    events = read | (selectors.EVENT_WRITE if waiting else 0)
    if events and where in {key.fileobj for key in ready.get_map().values()}:
        ready.modify(where, events)
    elif events:
        ready.register(where, events)
    elif where in {key.fileobj for key in ready.get_map().values()}:
        ready.unregister(where)


def _read_pipe() -> bytes | None:
    try:
        return os.read(0, CHUNK)
    except BlockingIOError:
        return None


def _read_link(link: socket.socket) -> bytes:
    try:
        data = link.recv(CHUNK)
    except BlockingIOError:
        return b""
    if not data:
        raise OSError("it hung up")
    return data


def _write(link: socket.socket, waiting: bytearray) -> None:
    with contextlib.suppress(BlockingIOError):
        while waiting:
            sent = link.send(memoryview(waiting)[:CHUNK])
            del waiting[:sent]


def _write_pipe(waiting: bytearray) -> bool:
    """Whether ExaBGP still listens."""
    try:
        while waiting:
            sent = os.write(1, bytes(waiting[:65536]))
            del waiting[:sent]
    except BlockingIOError:
        pass
    except BrokenPipeError:
        return False
    return True


def _end(parent: int) -> None:
    """End ExaBGP, if it is still our parent and is what we think it is."""
    if parent <= 1 or os.getppid() != parent:
        return
    with contextlib.suppress(OSError):
        if b"exabgp" in Path(f"/proc/{parent}/cmdline").read_bytes():
            os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
