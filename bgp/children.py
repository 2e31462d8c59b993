"""Child processes of PID 1: start them, hear of their end, and bury what others left behind.

As PID 1 of its container the supervisor inherits every orphan. asyncio's own child watcher waits for the children it
knows and no others, so it is not used: one SIGCHLD handler waits for all.

Called by `bgp.supervisor`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence


class Children:
    """All children of this process."""

    def __init__(self) -> None:
        self._ends: dict[int, asyncio.Future[int]] = {}

    def watch(self) -> None:
        """From now on, in this loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._bury)

    def start(self, command: Sequence[str], *, environment: Mapping[str, str]) -> tuple[int, asyncio.Future[int]]:
        """A child with nothing on stdin; its pid, and its exit status to come (negative: the signal that killed it)."""
        pid = os.posix_spawn(
            command[0],
            list(command),
            dict(environment),
            file_actions=((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),),
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP),
        )
        self._ends[pid] = asyncio.get_running_loop().create_future()
        return pid, self._ends[pid]

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._ends.pop(pid, None)
            if ended is not None and not ended.done():
                ended.set_result(os.waitstatus_to_exitcode(status))
