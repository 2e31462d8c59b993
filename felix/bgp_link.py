"""The agent's ear for BGP: a Unix socket on which the speaker reports, and is told what is wanted.

Theory: agent and speaker live and die apart. The speaker connects, says hello, gives the whole table, then changes
without a gap; we hand it the whole wanted set whenever it connects or the set changes. While the speaker is away,
its routes stay as stale ones, as for a peer that restarts. Everything said goes into `rib`; the agent only hears
"look again".

Invariants: only root or the speaker's uid may connect; one speaker at a time (the newest wins); a broken line ends
the connection, never the agent.

Called by `felix.agent`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from bgp import wire
from bgp.rib import IPAddress, NeighborView, Rib
from bgp.sessions import Problem, SessionPlan

log = logging.getLogger("tortie.bgp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """For CLI, metrics and health."""

    connected: bool
    speaker: str
    """Program and version of the speaker, "" if it is away."""
    configured: bool
    """ExaBGP runs with exactly the sessions that are wanted."""
    problem: str
    """Why not, in one sentence."""
    starts: int
    """How often the speaker started ExaBGP."""
    synced: bool
    neighbors: tuple[NeighborView, ...]
    problems: tuple[Problem, ...]


class BgpLink:
    """The listening end. All methods belong to the loop in which `start` ran."""

    def __init__(
        self, path: Path, *, on_change: Callable[[], None], speaker_uid: int | None = None, hold_s: float = 0.05
    ) -> None:
        """`on_change` is called in the loop, at most once in `hold_s`, when `rib.best` or `rib.synced` may answer
        anew."""
        self.rib = Rib()
        self._path = path
        self._on_change = on_change
        self._uids = {0, os.geteuid(), *([] if speaker_uid is None else [speaker_uid])}
        self._hold_s = hold_s
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._wanted = wire.Wanted(revision=0, complete=False)
        self._draining = ""
        self._speaker = ""
        self._configured = wire.Configured(revision=0)
        self._speaking = wire.Speaking(starts=0)
        self._refusal = ""
        self._told_change: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Replaces a socket that a dead agent left."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._speaker_came, str(self._path), limit=1 << 24)
        # Anyone may knock: the kernel's word on who it is (SO_PEERCRED) decides, and the speaker is not root.
        self._path.chmod(0o666)

    async def stop(self) -> None:
        """Stop listening and hang up; the speaker keeps announcing what was wanted last."""
        for timer in (self._told_change, self._timer):
            if timer is not None:
                timer.cancel()
        self._told_change = self._timer = None
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def want(
        self,
        plan: SessionPlan,
        routes: tuple[wire.RouteGroup, ...],
        *,
        own_addresses: frozenset[IPAddress],
        complete: bool = True,
    ) -> None:
        """Sessions and routes from now on. Cheap when nothing changed. `complete=False` before the agent has seen
        all its sources: the speaker then takes nothing away and sends no End-of-RIB."""
        if self.rib.configure(plan.neighbors, own_addresses=own_addresses, now_s=self._now_s()):
            self._say(wire.Resync())
            self._changed()
        wanted = wire.Wanted(
            revision=self._wanted.revision,
            complete=complete,
            sessions=tuple(neighbor.session for neighbor in plan.neighbors),
            routes=routes,
        )
        if wanted != self._wanted or self._wanted.revision == 0:
            self._wanted = msgspec.structs.replace(wanted, revision=_next_revision(self._wanted.revision))
            self._draining = ""
            self._say(self._wanted)

    def drain(self, reason: str) -> None:
        """Withdraw everything: this node is going away. The next `want` that differs ends it."""
        self._draining = reason
        self._say(wire.Drain(reason=reason))

    def restart_exabgp(self, reason: str) -> None:
        """Have the speaker restart ExaBGP; graceful restart keeps the routes."""
        self._say(wire.Restart(reason=reason))

    def synced(self) -> bool:
        """`rib.synced` by the loop's clock; False as long as no speaker has given a whole table, or the sessions are
        not all known."""
        return self._wanted.complete and self.rib.synced(self._now_s())

    def status(self) -> LinkStatus:
        """What to show."""
        configured = self._configured.revision == self._wanted.revision and not self._configured.problem
        problem = self._configured.problem or self._speaking.problem
        if self._writer is None:
            problem = self._refusal or "no speaker is connected"
        return LinkStatus(
            connected=self._writer is not None,
            speaker=self._speaker,
            configured=self._writer is not None and configured,
            problem=problem,
            starts=self._speaking.starts,
            synced=self.synced(),
            neighbors=self.rib.neighbors(),
            problems=self.rib.problems(),
        )

    # -- the speaker

    async def _speaker_came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = struct.unpack("3i", credentials)[1]
        if uid not in self._uids:
            self._refusal = f"uid {uid} knocked, only {sorted(self._uids)} may speak"
            log.warning("speaker refused uid=%d", uid)
            writer.close()
            return
        try:
            await self._talk(reader, writer)
        except wire.Garbage as garbage:
            self._refusal = f"the speaker said something that is no message: {garbage}"
            log.warning("speaker dropped: %s", self._refusal)
        except ConnectionError:
            pass
        finally:
            if self._writer is writer:
                self._writer = None
                self.rib.speaker_gone(now_s=self._now_s())
                self._changed()
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = wire.for_agent()
        mine = wire.Hello(program=f"tortie-agent {version('tortie')}")
        while data := await reader.read(1 << 20):
            for message in decoder.feed(data):
                if isinstance(message, wire.Hello):
                    if not mine.speaks_with(message):
                        self._refusal = f"{message.program} speaks versions {message.oldest}..{message.version}"
                        return
                    self._greet(writer, mine, message)
                elif self._writer is writer:
                    self._heard(message)

    def _greet(self, writer: asyncio.StreamWriter, mine: wire.Hello, theirs: wire.Hello) -> None:
        if self._writer is not None:
            self._writer.close()
            self.rib.speaker_gone(now_s=self._now_s())
        self._writer, self._speaker, self._refusal = writer, theirs.program, ""
        log.info("speaker connected program=%r", theirs.program)
        self._say(mine)
        if self._wanted.revision:
            self._say(self._wanted)
        if self._draining:
            self._say(wire.Drain(reason=self._draining))

    def _heard(self, message: wire.ToAgent) -> None:
        match message:
            case wire.Configured():
                self._configured = message
                self._changed()
            case wire.Speaking():
                self._speaking = message
            case _:
                if isinstance(message, wire.PeerState):
                    log.info("neighbour=%s state=%s reason=%r", message.id, message.state.value, message.reason)
                if self.rib.apply(message, now_s=self._now_s()):
                    self._changed()

    def _say(self, message: wire.ToSpeaker) -> None:
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.write(wire.encode(message))

    # -- time

    def _changed(self) -> None:
        if self._told_change is None and self._server is not None:
            self._told_change = asyncio.get_running_loop().call_later(self._hold_s, self._tell_change)

    def _tell_change(self) -> None:
        self._told_change = None
        self._set_timer()
        if self.rib.lacks():
            self._say(wire.Resync())
        self._on_change()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_s = self.rib.next_deadline_s()
        if deadline_s is not None:
            self._timer = asyncio.get_running_loop().call_at(max(deadline_s, self._now_s() + 0.05), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.rib.tick(self._now_s()):
            self._changed()
        else:
            self._set_timer()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _next_revision(former: int) -> int:
    """A restarted agent must not repeat a number of its former life: begin with the clock."""
    return former + 1 if former else int(time.time() * 1000)
