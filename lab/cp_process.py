"""A daemon that we start: it ends when we say so, when its parent dies if asked, and it is never mistaken for another.

What for: etcd, the API server and their like must leave nothing behind, whether a test is interrupted, a parent is
killed, or a lab is taken down by a later process than the one that started it.

Theory: what identifies a process is its pid *and* its start time; both stand in a file, so a recycled pid is never
signalled. Signals and waiting go through a pidfd, which works for children and for strangers alike and needs no
polling. `Lifetime.PARENT` sets PR_SET_PDEATHSIG (by `setpriv`, which execs; no code runs between fork and exec): the
kernel ends the daemon when the *thread* that started it ends, so start such a daemon from the main thread.

Invariants: `stop` is idempotent and returns only when the process is gone; only what the file names is signalled.

Called by: controlplane, and whatever of the lab runs a daemon.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_GRACE_S = 10.0
"""How long a daemon may take over SIGTERM before SIGKILL. The API server drains connections for a few seconds."""


class Lifetime(enum.Enum):
    """Until when a daemon runs."""

    PARENT = "until its parent ends"
    DETACHED = "until it is stopped"


@dataclass(slots=True, kw_only=True)
class Daemon:
    """One process with its log and its pid file in `directory`; `netns` names a network namespace, "" is ours."""

    name: str
    directory: Path
    netns: str = ""
    lifetime: Lifetime = Lifetime.PARENT
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """Where its stdout and stderr go; appended to, so a restart keeps what led to it."""
        return self.directory / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """JSON `[pid, start time in clock ticks since boot]`."""
        return self.directory / f"{self.name}.pid"

    def start(self, arguments: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> int:
        """Start it and return its pid. RuntimeError when it runs already; OSError when there is no such program."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already with pid {self.pid}")
        command = [*self._wrapping(), *(str(part) for part in arguments)]
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                # A session of its own: Ctrl-C at the terminal reaches us, and we end it in order.
                start_new_session=True,
            )
        pid = self._child.pid
        self.pid_file.write_text(json.dumps([pid, _start_time(pid)]))
        return pid

    @property
    def pid(self) -> int | None:
        """Its pid while it runs, else None."""
        if self._child is not None and self._child.poll() is not None:
            return None
        try:
            pid, started = json.loads(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if _start_time(pid) == started else None

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """End it and wait until it is gone; SIGKILL after `grace_s`, at once when that is 0."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._end(pid, grace_s)
        if self._child is not None:
            self._child.wait()
            self._child = None
        self.pid_file.unlink(missing_ok=True)

    def last_words(self, *, lines: int = 15) -> str:
        """The end of its log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _wrapping(self) -> list[str]:
        """Both programs exec what follows, so the pid stays the daemon's own."""
        command = ["setpriv", "--pdeathsig", "SIGKILL"] if self.lifetime is Lifetime.PARENT else []
        return [*command, "nsenter", f"--net=/run/netns/{self.netns}"] if self.netns else command

    def _end(self, pid: int, grace_s: float) -> None:
        descriptor = os.pidfd_open(pid)
        try:
            gone = select.poll()
            gone.register(descriptor, select.POLLIN)
            if grace_s > 0:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                if gone.poll(grace_s * 1000):
                    return
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            gone.poll()
        finally:
            os.close(descriptor)


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when it is gone or a zombie. The name may hold spaces and brackets: skip it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
