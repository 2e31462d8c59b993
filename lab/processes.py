"""What runs in a lab, seen from outside: processes by namespace, named for ever by pid and start time.

What for: `down` must find what no pid file names (a child of a child, a start cut short between fork and note, a
prober of a test that was killed), and `kill` must find one program among those of a node.

Theory: a pid alone may be reused; a pid and its start time name one process for ever. Whatever escaped still sits in
one of the lab's network namespaces.

Invariants: `end` never signals a pid whose start time differs, and never ourselves.

Called by: fabric, node, sandbox.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process for ever: `start_ticks` is field 22 of /proc/PID/stat."""

    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return self.start_ticks >= 0 and start_ticks(self.pid) == self.start_ticks

    @property
    def command(self) -> list[str]:
        """Its command line; empty when it is gone."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
        return []

    def send(self, number: int) -> None:
        """Signal it, if it is still itself."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start_ticks(pid: int) -> int:
    """Start time of a running process in clock ticks since boot; -1 for none, and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def inside(namespaces: Iterable[Path]) -> list[Process]:
    """Processes, but not ourselves, whose namespace (network, PID, …) is one of these files."""
    wanted: dict[str, set[int]] = {}
    for path in namespaces:
        with contextlib.suppress(OSError):
            kind = "net" if path.parent.name == "netns" else path.name
            wanted.setdefault(kind, set()).add(path.stat().st_ino)
    return [process for process in _all() if any(_inode(process.pid, kind) in inos for kind, inos in wanted.items())]


def end(processes: Iterable[Process], *, grace_s: float = 2.0) -> None:
    """Ask, then insist. Returns when none of them runs any more."""
    living = [process for process in processes if process.alive]
    for process in living:
        process.send(signal.SIGTERM)
    deadline_s = time.monotonic() + grace_s
    while any(p.alive for p in living) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    for process in living:
        process.send(signal.SIGKILL)
    while any(p.alive for p in living):
        time.sleep(0.01)


def _all() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield Process(int(entry.name), start_ticks(int(entry.name)))


def _inode(pid: int, kind: str) -> int:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    return -1
