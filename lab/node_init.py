"""Process 1 of a light node: makes the node's mounts, then keeps its components running.

What for: the part that systemd and a kubelet's DaemonSet handling play on a real node, in one page: start kubelet,
agent and speaker, start them again when they die, and take everything along when the node goes down.

Theory: it is PID 1 of its own PID namespace, so its death ends every process of the node, pods included. A component
that dies is started again after its back-off, which doubles while it keeps dying young. A component whose
name stands as a file in `stopped/` is held back: that is how a test takes the agent away for a while. SIGHUP means
"look at `stopped/` again".

Invariants: standard library only. `components.json` always names what runs now, with pids of this PID namespace.

Called by: node (through `unshare`), as `python -m lab.node_init SPEC.json`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab import node_mounts

STATE = Path("/var/lib/tortie-node")
"""Inside the node; on the host it is below the lab's run directory."""

LONGEST_BACKOFF_S = 5.0
YOUNG_S = 2.0
"""A component that lived shorter than this is crash-looping."""

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Component:
    """One supervised program. `backoff_s` is the wait after its first death."""

    name: str
    command: list[str]
    env: dict[str, str]
    backoff_s: float
    child: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    due_s: float = 0.0
    wait_s: float = 0.0
    starts: int = 0
    last_exit: int | None = field(default=None)

    def start(self, *, now_s: float) -> None:
        """Start it, in a session of its own, output to the node's log directory."""
        with (STATE / "log" / f"{self.name}.log").open("ab") as output:
            self.child = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()),  # noqa: PLW1509 one thread only
            )
        self.started_s = now_s
        self.starts += 1

    def died(self, *, code: int, now_s: float) -> None:
        """Work out when it may start again."""
        young = now_s - self.started_s < YOUNG_S
        self.wait_s = min(max(self.wait_s * 2, self.backoff_s, 0.05), LONGEST_BACKOFF_S) if young else self.backoff_s
        self.due_s = now_s + self.wait_s
        self.child, self.last_exit = None, code


def main() -> None:
    """Become the node described by the file named in the first argument; returns when told to stop."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    socket.sethostname(spec["name"])
    node_mounts.prepare(Path(spec["directory"]), needed=[Path(p) for p in spec["needed"]])
    # As on any machine: its own name needs no DNS, which there is none of here.
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {spec['name']}\n")
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").write_text("")
    for path, (owner, mode) in spec["own_directories"].items():
        Path(path).mkdir(parents=True, exist_ok=True)
        os.chown(path, owner, owner)
        Path(path).chmod(int(mode, 8))
    for part in ("log", "stopped"):
        (STATE / part).mkdir(parents=True, exist_ok=True)
    run([Component(**component) for component in spec["components"]])


def run(components: list[Component]) -> None:
    """The loop: reap, restart what is due, sleep until a signal or the next restart."""
    while True:
        now_s = time.monotonic()
        _reap(components, now_s=now_s)
        for component in components:
            held = (STATE / "stopped" / component.name).exists()
            if held and component.child is not None:
                component.child.kill()
            elif not held and component.child is None and now_s >= component.due_s:
                component.start(now_s=now_s)
        _write_state(components)
        waits = [c.due_s - time.monotonic() for c in components if c.child is None]
        got = signal.sigtimedwait(_SIGNALS, max(0.01, min([1.0, *waits])))
        if got is not None and got.si_signo == signal.SIGTERM:
            _stop(components)
            return


def _reap(components: list[Component], *, now_s: float) -> None:
    """Collect all dead children: our components, and orphans, which in a PID namespace are ours too."""
    by_pid = {c.child.pid: c for c in components if c.child is not None}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        component = by_pid.get(pid)
        if component is not None and component.child is not None:
            code = os.waitstatus_to_exitcode(status)
            component.child.returncode = code  # so that Popen does not wait for it again
            component.died(code=code, now_s=now_s)


def _write_state(components: list[Component]) -> None:
    state = {
        c.name: {"pid": c.child.pid if c.child else 0, "starts": c.starts, "last_exit": c.last_exit} for c in components
    }
    text = json.dumps(state)
    path = STATE / "components.json"
    if not path.exists() or path.read_text() != text:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(path)


def _stop(components: list[Component]) -> None:
    """An orderly shutdown, kubelet last alive: three seconds for all, then the end of PID 1 kills the rest."""
    running = [c.child for c in components if c.child is not None]
    for child in running:
        child.terminate()
    deadline_s = time.monotonic() + 3.0
    while any(child.poll() is None for child in running) and time.monotonic() < deadline_s:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
