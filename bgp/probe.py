"""The speaker's probe: are the sessions as wanted?

Theory: a process that exists says nothing; ExaBGP can live on with every session stopped. The probe asks the
supervisor over a socket, and prints what is not as wanted, a sentence a line; exit status 1 then, and 1 as well if
nobody answers.

Called by `bgp.supervisor`, both ends.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path

Condition = Callable[[], bool]


async def serve(path: Path, not_as_wanted: Callable[[], tuple[str, ...]]) -> asyncio.Server:
    """Answer on this socket."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("".join(f"{sentence}\n" for sentence in not_as_wanted()).encode())
        writer.close()

    path.unlink(missing_ok=True)  # noqa: ASYNC240 (tmpfs, once)
    return await asyncio.start_unix_server(answer, str(path))


def ask(path: Path) -> int:
    """Ask the supervisor; the exit status of the command."""
    said = b""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(path))
            while data := link.recv(65536):
                said += data
    except OSError as error:
        print(f"the speaker does not answer: {error}", file=sys.stderr)
        return 1
    print(said.decode(errors="replace"), end="")
    return 1 if said else 0
