"""The speaker's end of the socket to the agent.

Theory: the agent listens, for it is the one with the rights; the speaker dials, again and again, since the agent may
be away for as long as it likes. At each connection the agent gets the whole table, then changes. If it does not
read, changes are not kept for ever: past `HELD_MAX_BYTES` they are thrown away, and once it has read on it gets the
whole table again.

Called by `bgp.supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from bgp import wire

RETRY_S: Final = 0.25
HELD_MAX_BYTES: Final = 32 << 20


class AgentDoor:
    """A connection to the agent that comes and goes."""

    def __init__(
        self,
        path: Path,
        *,
        program: str,
        whole: Callable[[], Iterable[wire.ToAgent]],
        on_message: Callable[[wire.ToSpeaker], None],
    ) -> None:
        self._path = path
        self._program = program
        self._whole = whole
        self._on_message = on_message
        self._writer: asyncio.StreamWriter | None = None
        self._behind = False
        self.problem = ""

    async def run(self) -> None:
        """For ever: connect, listen, start again."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(str(self._path))
                try:
                    await self._talk(reader, writer)
                except wire.Garbage as garbage:
                    self.problem = f"the agent said something that is no message: {garbage}"
                finally:
                    self._writer = None
                    writer.close()
            await asyncio.sleep(RETRY_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = wire.for_speaker()
        mine = wire.Hello(program=self._program)
        writer.write(wire.encode(mine))
        while data := await reader.read(1 << 20):
            for message in decoder.feed(data):
                if isinstance(message, wire.Hello):
                    if not mine.speaks_with(message):
                        self.problem = f"agent speaks versions {message.oldest}..{message.version}, we {mine.version}"
                        return
                    self.problem = ""
                    self._writer = writer
                    self.send_whole()
                elif isinstance(message, wire.Resync):
                    self.send_whole()
                elif self._writer is not None:
                    self._on_message(message)

    def send_whole(self) -> None:
        """The whole table."""
        self._behind = False
        if self._writer is not None:
            self._writer.writelines([wire.encode(message) for message in self._whole()])

    def send(self, messages: list[wire.ToAgent]) -> None:
        """Changes; thrown away while nobody listens, for the next connection starts with the whole table."""
        if self._writer is None or self._writer.transport.is_closing():
            return
        held = self._writer.transport.get_write_buffer_size()
        if held > HELD_MAX_BYTES:
            self._behind = True
        elif self._behind and held == 0:
            self.send_whole()
        elif not self._behind:
            self._writer.writelines([wire.encode(message) for message in messages])

    def catch_up(self) -> None:
        """To be called now and then, so that an agent that was behind is helped also when nothing changes."""
        if self._behind:
            self.send([])
