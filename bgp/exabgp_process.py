"""ExaBGP as a process: its file, its start, its reload, its end.

Theory: a file is validated by ExaBGP itself before it takes the place of the one in use, for a reload that fails to
parse makes every later reload fail too. A stuck ExaBGP does not hear SIGTERM, so SIGKILL follows.

Called by `bgp.supervisor`; only this module starts exabgp.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import socket
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec

from bgp import config, relay, wanted_file, wire
from bgp.children import Children

STOP_GRACE_S: Final = 2.0


class Exabgp:
    """At most one process at a time."""

    def __init__(self, directory: Path, *, children: Children, python: str = sys.executable) -> None:
        self.pid = 0
        self.starts = 0
        self.rendered: config.Rendered | None = None
        """What the file says."""
        self.relay_socket = directory / "relay.sock"
        self._file = directory / "exabgp.conf"
        self._python = python
        self._children = children
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **{name: os.environ[name] for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ},
            **config.environment(user=_user_name()),
        }

    def render(self, sessions: Iterable[wire.Session]) -> config.Rendered:
        """The file for these sessions, as this machine can hold them."""
        relay_command = (self._python, "-I", str(Path(relay.__file__).resolve()), str(self.relay_socket))
        return config.render([_bindable(session) for session in sessions], relay=relay_command)

    async def install(self, rendered: config.Rendered) -> str:
        """Make it the file, if ExaBGP understands it; else the sentence why not. Raises OSError."""
        candidate = self._file.with_name("exabgp.candidate")
        wanted_file.replace(candidate, rendered.text.encode("ascii"))
        command = (self._python, "-m", "bgp.exabgp_program", "validate", "-n", str(candidate))
        _, ended = self._children.start(command, environment=self._environment)
        status = await ended
        if status != 0:
            return f"exabgp validate refuses the configuration (exit status {status}); its log says why"
        candidate.rename(self._file)
        self.rendered = rendered
        return ""

    async def run(self) -> int:
        """Start it and wait for its end; the exit status."""
        command = (self._python, "-m", "bgp.exabgp_program", "server", str(self._file))
        self.pid, ended = self._children.start(command, environment=self._environment)
        self.starts += 1
        try:
            return await ended
        finally:
            self.pid = 0

    def reload(self) -> None:
        """Ask it to read its file again. It may not: confirm."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it at once; the sessions close without a word, so that graceful restart holds."""
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End it, politely first."""
        pid = self.pid
        self._signal(signal.SIGTERM)
        deadline_s = asyncio.get_running_loop().time() + STOP_GRACE_S
        while self.pid == pid != 0:
            if asyncio.get_running_loop().time() > deadline_s:
                self.kill()
            await asyncio.sleep(0.02)

    def owns(self, pid: int) -> bool:
        """Whether this process is a child of the ExaBGP that runs: a relay of a former one must not be let in."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            return self.pid != 0 and int(stat.rpartition(")")[2].split()[1]) == self.pid
        return False

    def _signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _user_name() -> str:
    """ExaBGP wants a name that is in passwd, also where it has nothing to drop."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "nobody"


def _bindable(session: wire.Session) -> wire.Session:
    """Without its listener where the local address is not on this machine: ExaBGP exits if it cannot bind, and one
    wrong session would end all. It is tried again whenever the file is made anew."""
    if not session.listen_port or not session.id.local:
        return session
    try:
        family = socket.AF_INET if ip_address(session.id.local).version == 4 else socket.AF_INET6
        with socket.socket(family) as trial:
            trial.bind((session.id.local, 0))
    except (OSError, ValueError):
        return msgspec.structs.replace(session, listen_port=0)
    return session
