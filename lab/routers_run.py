"""Runs BIRD and FRR from the cache, as if they were installed, seen by nobody else.

What for: the fabric's routers are real ones, yet the machine must not get a routing daemon, nor a user `frr`.

Theory: a router runs in the network namespace it is given and in a mount namespace of its own, in which the unpacked
packages are laid over /usr and /etc by a read-only overlay (so FRR finds its libraries, YANG models and PAM file where
it was compiled to look), with the groups that FRR insists on added to /etc/group; and /run is a directory of the
router. So nothing here knows which libraries the packages need. Each daemon stays in the foreground under a
`Daemon`; whoever asks it something joins its mount namespace.

Invariants: nothing outside the router's directory is written; the machine's /etc, /usr and /run are untouched, and stay
so when the router dies, for its mounts die with it.

    bird = Bird(name="tor1", directory=state / "tor1", netns="tortie-x-tor1", lifetime=Lifetime.DETACHED)
    bird.start(text)                      # returns when it answers
    bird.ask("show", "protocols")         # birdc
    bird.configure(text)                  # new text, sessions that did not change stay
    frr = Frr(...)                        # the same, with zebra and bgpd under it
    frr.ask("show bgp summary json")      # vtysh -c

Called by: fabric, tests.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lab.cp_process import Daemon, Lifetime
from lab.packages import routers

ANSWERS_WITHIN_S = 20.0
_ANSWER_EVERY_S = 0.05

_LAY_OVER = """
set -e
mount --bind "$1/tmp" /var/tmp
mount -t overlay -o "ro,lowerdir=$2/usr:/usr" overlay /usr
mount -t overlay -o "ro,lowerdir=$1/etc:$2/etc:/etc" overlay /etc
mount --bind "$1/run" /run  # last: the router's own directory may lie below /run
shift 2
exec "$@"
"""


class RouterFailed(RuntimeError):
    """A router did not start, or refused what it was told; the text has its own words."""


class RouterProcess(Protocol):
    """What Bird and Frr have in common."""

    def start(self, text: str) -> None:
        """Start with this configuration; returns when it answers, RouterFailed when it does not."""

    def configure(self, text: str) -> None:
        """Change to this configuration; sessions that it does not change stay up. RouterFailed leaves the old one."""

    def ask(self, *words: str) -> str:
        """A command of its own command line; the answer."""

    def stop(self) -> None:
        """End it in order; its routes leave the namespace's table as it would do on a real router."""

    def kill(self) -> None:
        """SIGKILL: nothing is withdrawn, nobody is told."""

    def processes(self) -> Mapping[str, int | None]:
        """Daemon and pid; None for one that does not run."""


@dataclass(slots=True, kw_only=True)
class _Home:
    """A router's directory: `run` is its /run, `etc` what differs in its /etc."""

    directory: Path
    tree: Path = field(default_factory=routers)

    def make(self) -> None:
        for name in ("run/frr", "tmp", "etc"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        # FRR looks up user and group "frr" and group "frrvty" even when told to stay root.
        for name, lines in (("group", "frr:x:0:\nfrrvty:x:0:\n"), ("passwd", "frr:x:0:0::/:/usr/sbin/nologin\n")):
            shutil.copyfile(Path("/etc") / name, self.directory / "etc" / name)
            with (self.directory / "etc" / name).open("a") as file:
                file.write(lines)

    def command(self, *command: str) -> list[str]:
        """`command` with the packages laid over, exec'ed, so the pid stays."""
        prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _LAY_OVER, "router"]
        return [*prefix, str(self.directory), str(self.tree), *command]


@dataclass(slots=True, kw_only=True)
class Bird:
    """BIRD 2 in a network namespace."""

    name: str
    directory: Path
    netns: str
    lifetime: Lifetime = Lifetime.PARENT
    _home: _Home = field(init=False, repr=False)
    _daemon: Daemon = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._home = _Home(directory=self.directory)
        self._daemon = Daemon(name="bird", directory=self.directory, netns=self.netns, lifetime=self.lifetime)

    def start(self, text: str) -> None:
        """Start BIRD with this bird.conf; returns when birdc answers."""
        self._home.make()
        (self.directory / "run" / "bird.conf").write_text(text)
        files = ["-c", "/run/bird.conf", "-s", "/run/bird.ctl"]
        recover = ["-R"] if self._crashed.exists() else []
        self._crashed.unlink(missing_ok=True)
        self._daemon.start(self._home.command("/usr/sbin/bird", "-f", *recover, *files))
        _wait_for(self, "show", "status", daemons=[self._daemon])

    def configure(self, text: str) -> None:
        """`configure` with a new bird.conf, checked beforehand."""
        candidate = self.directory / "run" / "bird.conf.new"
        candidate.write_text(text)
        answer = self.ask("configure", "check", '"/run/bird.conf.new"')
        if "Configuration OK" not in answer:
            raise RouterFailed(f"{self.name}: bird refuses its configuration: {answer.strip()}")
        candidate.replace(self.directory / "run" / "bird.conf")
        self.ask("configure")

    def ask(self, *words: str) -> str:
        """`birdc WORDS`."""
        return _inside(self.name, self._daemon, ["/usr/sbin/birdc", "-s", "/run/bird.ctl", *words])

    def stop(self) -> None:
        """SIGTERM: sessions are closed, routes leave the table."""
        self._daemon.stop()

    def kill(self) -> None:
        """SIGKILL; the next start is a graceful restart's, which keeps what the kernel has and tells the peers so."""
        self._crashed.touch()
        self._daemon.stop(grace_s=0)

    @property
    def _crashed(self) -> Path:
        return self.directory / "run" / "crashed"

    def processes(self) -> Mapping[str, int | None]:
        """`{"bird": pid}`."""
        return {"bird": self._daemon.pid}


@dataclass(slots=True, kw_only=True)
class Frr:
    """FRR (zebra and bgpd) in a network namespace."""

    name: str
    directory: Path
    netns: str
    lifetime: Lifetime = Lifetime.PARENT
    _home: _Home = field(init=False, repr=False)
    _zebra: Daemon = field(init=False, repr=False)
    _bgpd: Daemon = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._home = _Home(directory=self.directory)
        self._zebra = Daemon(name="zebra", directory=self.directory, netns=self.netns, lifetime=self.lifetime)
        self._bgpd = Daemon(name="bgpd", directory=self.directory, netns=self.netns, lifetime=self.lifetime)

    def start(self, text: str) -> None:
        """Start zebra and bgpd, or the one of them that does not run, with this frr.conf; returns when both answer."""
        self._home.make()
        run = self.directory / "run" / "frr"
        (run / "frr.conf").write_text(text)
        # bgpd reads the whole text; zebra has no use for any line of it, and would complain about most.
        (run / "zebra.conf").write_text("log stdout informational\n")
        root = ["-u", "root", "-g", "root", "-P", "0"]  # port 0: no telnet
        zebra = [*root, "-f", "/run/frr/zebra.conf", "-i", "/run/frr/zebra.pid"]
        bgpd = [*root, "-f", "/run/frr/frr.conf", "-i", "/run/frr/bgpd.pid"]
        if self._zebra.pid is None:
            self._zebra.start(self._home.command("/usr/lib/frr/zebra", *zebra))
        _wait_for(self, "show zebra", daemons=[self._zebra])
        self._bgpd.start(self._home.command("/usr/lib/frr/bgpd", *bgpd))
        _wait_for(self, "show bgp summary", daemons=[self._zebra, self._bgpd])

    def configure(self, text: str) -> None:
        """Add the lines of `text` to what runs, as `vtysh -f` does: what is no longer said stays."""
        (self.directory / "run" / "frr" / "frr.conf.new").write_text(text)
        answer = _inside(self.name, self._zebra, ["/usr/bin/vtysh", "-f", "/run/frr/frr.conf.new"])
        if "%" in answer:
            raise RouterFailed(f"{self.name}: FRR refuses its configuration: {answer.strip()}")

    def ask(self, *words: str) -> str:
        """`vtysh -c WORD -c WORD`: each argument is a whole command."""
        commands = [part for word in words for part in ("-c", word)]
        return _inside(self.name, self._zebra, ["/usr/bin/vtysh", *commands])

    def stop(self) -> None:
        """SIGTERM: sessions are closed, routes leave the table."""
        self._bgpd.stop()
        self._zebra.stop()

    def kill(self) -> None:
        """SIGKILL to both."""
        self._bgpd.stop(grace_s=0)
        self._zebra.stop(grace_s=0)

    def processes(self) -> Mapping[str, int | None]:
        """`{"zebra": pid, "bgpd": pid}`."""
        return {"zebra": self._zebra.pid, "bgpd": self._bgpd.pid}


def _inside(name: str, daemon: Daemon, command: list[str]) -> str:
    """Run a command in the mount and network namespaces of a daemon."""
    pid = daemon.pid
    if pid is None:
        raise RouterFailed(f"{name}: {daemon.name} does not run; the end of {daemon.log}:\n{daemon.last_words()}")
    done = subprocess.run(
        ["nsenter", f"--target={pid}", "--mount", "--net", *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RouterFailed(f"{name}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _wait_for(router: RouterProcess, *question: str, daemons: list[Daemon]) -> None:
    deadline_s = time.monotonic() + ANSWERS_WITHIN_S
    while True:
        try:
            answer = router.ask(*question)
            if "not running" not in answer:
                return
        except RouterFailed:
            if any(daemon.pid is None for daemon in daemons) or time.monotonic() > deadline_s:
                raise
        time.sleep(_ANSWER_EVERY_S)
