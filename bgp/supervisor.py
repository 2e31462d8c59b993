"""`tortie-speaker`: PID 1 of the speaker; keeps ExaBGP running and saying what is wanted.

Theory: ExaBGP may be restarted whole whenever in doubt, and peers keep our routes, IF it is back at once and knows
what to say. So this process never ends by itself, holds the wanted set in memory and on disk, and treats every way
in which ExaBGP fails (dies, hangs, drops a reload, answers nonsense) alike: kill it, start it, let `bgp.speaker`
tell it everything anew.

One thread, one loop; the thinking is in `bgp.speaker` (pure), the process in `bgp.exabgp_process`, the agent's
socket in `bgp.agent_door`; this file joins them. The relay's bytes are read as fast as they come, before anything else.

SIGTERM ends it without a word to the peers (an update of the speaker: graceful restart holds), unless a drain was
asked for (by the agent, or by SIGUSR2 before a planned shutdown of the node): then everything is withdrawn and seen
to go out first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bgp import exabgp_events as ev
from bgp import probe, wanted_file, wire
from bgp.agent_door import AgentDoor
from bgp.children import Children
from bgp.exabgp_process import Exabgp
from bgp.speaker import Speaker

log = logging.getLogger("tortie.speaker")

TICK_S: Final = 0.1
HEARTBEAT_S: Final = 5.0
SILENCE_MAX_S: Final = 20.0
"""ExaBGP answers a heartbeat in milliseconds, and after the longest line it may be given in a second or two."""
RELOAD_WAIT_S: Final = 60.0
RELOAD_RETRY_S: Final = 1.0
LEAVE_WAIT_S: Final = 3.0
DRAIN_WAIT_S: Final = 5.0
QUICK_DEATH_S: Final = 5.0


class Supervisor:
    """One speaker."""

    def __init__(self, *, agent_socket: Path, directory: Path, python: str = sys.executable) -> None:
        self.children = Children()
        self.speaker = Speaker()
        self.exabgp = Exabgp(directory, children=self.children, python=python)
        self.door = AgentDoor(
            agent_socket, program=f"tortie-speaker {version('tortie')}", whole=self._whole, on_message=self._ordered
        )
        self._directory = directory
        self._relay: asyncio.StreamWriter | None = None
        self._stop = asyncio.Event()
        self._look = asyncio.Event()
        self._installed = asyncio.Event()
        self._shown: ev.Shown | None = None
        self._shown_s = time.monotonic()
        self._disagreed = 0
        self._problem = ""
        self._configured = wire.Configured(revision=0, problem="nothing is wanted yet")

    async def run(self) -> None:
        """Until SIGTERM."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.children.watch()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR2, self._ordered, wire.Drain(reason="SIGUSR2"))
        held = wanted_file.load(self._directory / "wanted.json")
        if held is not None:
            self.speaker.want(held)
        self.exabgp.relay_socket.unlink(missing_ok=True)  # a file of a dead supervisor
        async with (
            await asyncio.start_unix_server(self._relay_came, str(self.exabgp.relay_socket)),
            await probe.serve(self._directory / "probe.sock", self.not_as_wanted),
        ):
            workers = [
                asyncio.create_task(work())
                for work in (self._keep_configured, self._keep_running, self._keep_alive, self.door.run)
            ]
            stopped = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([*workers, stopped], return_when=asyncio.FIRST_COMPLETED)
            await self._leave()
            for worker in workers:
                worker.cancel()
            for task in done - {stopped}:
                task.result()  # a duty that ends is a bug: let it be seen

    # -- orders and events

    def _ordered(self, message: wire.ToSpeaker) -> None:
        match message:
            case wire.Wanted():
                self.speaker.want(message)
                if self.speaker.wanted.complete:
                    wanted_file.save(self._directory / "wanted.json", self.speaker.wanted)
            case wire.Drain(reason=reason):
                log.info("drain reason=%r", reason)
                self.speaker.drain()
            case wire.Restart(reason=reason):
                self._restart(f"asked to: {reason}")
            case _:
                return
        self._look.set()
        self._pump()

    async def _relay_came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if not self.exabgp.owns(struct.unpack("3i", credentials)[0]):
            writer.close()
            return
        owner = self.exabgp.pid
        self._relay = writer
        decoder = ev.EventDecoder()
        self.speaker.ask_neighbors()
        self._pump()
        try:
            while data := await reader.read(1 << 20):
                for event in decoder.feed(data):
                    if isinstance(event, ev.Shown):
                        self._has_shown(event)
                    self.speaker.hear(event, now_s=time.time())
                self._pump()
        except ConnectionError:
            pass
        finally:
            if self._relay is writer:
                self._relay = None
            writer.close()
            if self.exabgp.pid == owner and not self._stop.is_set():
                # Answers and events are lost, and a relay killed in mid-write leaves ExaBGP dead inside: start anew.
                self._restart("its relay ended")

    def _has_shown(self, shown: ev.Shown) -> None:
        self._shown, self._shown_s = shown, time.monotonic()
        self._look.set()
        self._disagreed = 0 if self.speaker.agrees(shown) else self._disagreed + 1
        if self._disagreed >= 3:
            self._disagreed = 0
            self._restart("it lists other sessions as established than it told us")

    def _pump(self) -> None:
        """Whatever is to be said now, to either side."""
        if self._relay is not None:
            for line in self.speaker.take():
                self._relay.write(line.encode("ascii") + b"\n")
        for name, sentence in self.speaker.problems.items():
            log.warning("problem=%s %s", name, sentence)
            self._problem = sentence
        self.speaker.problems.clear()
        reports, self.speaker.reports = self.speaker.reports, []
        self.door.send(reports)

    def _whole(self) -> list[wire.ToAgent]:
        speaking = wire.Speaking(starts=self.exabgp.starts, pid=self.exabgp.pid, problem=self._problem)
        return [*self.speaker.whole(), self._configured, speaking]

    # -- duties

    async def _keep_running(self) -> None:
        quick = 0
        while True:
            await self._installed.wait()
            started_s = self._shown_s = time.monotonic()
            status = await self.exabgp.run()
            if self._stop.is_set():
                return
            self._shown = None
            self.speaker.exabgp_gone(now_s=time.time(), reason=f"our ExaBGP ended with status {status}")
            quick = quick + 1 if time.monotonic() - started_s < QUICK_DEATH_S else 0
            self._problem = f"ExaBGP ended with status {status}, start number {self.exabgp.starts}"
            log.warning("exabgp ended status=%d starts=%d quick=%d", status, self.exabgp.starts, quick)
            self._report_speaking()
            await asyncio.sleep(min(0.05 * 2**quick, 5.0) if quick > 2 else 0)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.door.catch_up()
            if self.exabgp.pid and time.monotonic() - self._shown_s > SILENCE_MAX_S:
                self._restart(f"it did not answer for {SILENCE_MAX_S:.0f} s")
                self._shown_s = time.monotonic()
            self.speaker.ask_neighbors()
            self._pump()

    async def _keep_configured(self) -> None:
        while True:
            self._look.clear()
            wanted = self.speaker.wanted
            if wanted.revision or wanted.complete or wanted.sessions:
                problem = await self._configure(wanted)
                self._report_configured(wire.Configured(revision=wanted.revision, problem=problem))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), HEARTBEAT_S)

    async def _configure(self, wanted: wire.Wanted) -> str:
        """Bring ExaBGP to run with the wanted sessions; the sentence why it does not."""
        rendered = self.exabgp.render(wanted.sessions)
        refused = "; ".join(rendered.refused)
        if self.exabgp.rendered is None or rendered.text != self.exabgp.rendered.text:
            await self._until(lambda: not self.speaker.leaving(), LEAVE_WAIT_S)
            try:
                problem = await self.exabgp.install(rendered)
            except OSError as error:
                problem = f"cannot write the configuration: {error}"
            if problem:
                return problem
            # Before ExaBGP reads the file: a neighbour that it then holds may be up before we hear that it does.
            self.speaker.expect(rendered.sessions, now_s=time.time())
            self._installed.set()
            if self.exabgp.pid:
                await self._until(lambda: not self.speaker.busy(), RELOAD_RETRY_S)
                self._reload()
        if not await self._confirmed(rendered.mark):
            self._restart("it does not take up its new configuration")
            return "ExaBGP does not take up its new configuration; it is being restarted"
        self.speaker.configured(rendered.sessions, now_s=time.time())
        self._pump()
        return refused

    async def _confirmed(self, mark: str) -> bool:
        """Wait until ExaBGP lists the mark. A reload may be lost without a word, so it is asked for again."""
        deadline_s = time.monotonic() + RELOAD_WAIT_S
        again_s = time.monotonic() + RELOAD_RETRY_S
        while True:
            if self._shown is not None and mark in {peer for peer, _ in self._shown.neighbors}:
                return True
            if self.exabgp.pid == 0:
                deadline_s = time.monotonic() + RELOAD_WAIT_S
            if time.monotonic() > deadline_s:
                return False
            if self._shown is not None and time.monotonic() > again_s and not self.speaker.busy():
                again_s = time.monotonic() + RELOAD_RETRY_S
                self._reload()
            if not self.speaker.waiting():
                self.speaker.ask_neighbors()
            self._pump()
            await asyncio.sleep(TICK_S / 2)

    def _reload(self) -> None:
        self._shown = None
        self.exabgp.reload()

    def _restart(self, reason: str) -> None:
        log.warning("restarting exabgp: %s", reason)
        self._problem = f"ExaBGP was restarted: {reason}"
        self.exabgp.kill()

    async def _leave(self) -> None:
        if self.speaker.draining:
            await self._until(self.speaker.drained, DRAIN_WAIT_S)
        await self.exabgp.stop()

    @staticmethod
    async def _until(condition: probe.Condition, wait_s: float) -> None:
        deadline_s = time.monotonic() + wait_s
        while not condition() and time.monotonic() < deadline_s:  # noqa: ASYNC110 (conditions of many sources)
            await asyncio.sleep(TICK_S / 5)

    # -- reports

    def _report_configured(self, configured: wire.Configured) -> None:
        if configured != self._configured:
            self._configured = configured
            if configured.problem:
                log.warning("configuration revision=%d problem=%s", configured.revision, configured.problem)
            self.door.send([configured])

    def _report_speaking(self) -> None:
        self._pump()
        self.door.send([wire.Speaking(starts=self.exabgp.starts, pid=self.exabgp.pid, problem=self._problem)])

    def not_as_wanted(self) -> tuple[str, ...]:
        """For the probe: what is not as it should be and is ours to mend. A peer that is away is not."""
        wanted = self.speaker.wanted
        if not (wanted.revision or wanted.complete):
            return ()
        found = list(self.speaker.not_as_wanted())
        if self._configured.revision != wanted.revision or self._configured.problem:
            found.append(self._configured.problem or f"revision {wanted.revision} is not yet in force")
        if not self.exabgp.pid:
            found.append("ExaBGP does not run")
        elif time.monotonic() - self._shown_s > SILENCE_MAX_S:
            found.append("ExaBGP does not answer")
        return tuple(found)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tortie-speaker", description="Keeps ExaBGP saying what the agent wants.")
    parser.add_argument("--run-dir", type=Path, default=Path("/run/tortie"), help="where the agent's socket is")
    parser.add_argument("--own-dir", type=Path, default=Path("/run/tortie-speaker"), help="own state and sockets")
    parser.add_argument(
        "--exabgp-python", default=sys.executable, help="interpreter for ExaBGP (may carry capabilities)"
    )
    parser.add_argument("--probe", action="store_true", help="ask the running speaker: are the sessions as wanted?")
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args()
    if options.probe:
        return probe.ask(options.own_dir / "probe.sock")
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    os.umask(0o077)
    supervisor = Supervisor(
        agent_socket=options.run_dir / "bgp.sock", directory=options.own_dir, python=options.exabgp_python
    )
    asyncio.run(supervisor.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
