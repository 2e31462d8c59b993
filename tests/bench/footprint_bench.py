"""What an agent costs a node: memory with 10,000 Pods watched, processor idle and while Pods change.

    python -m tests.bench.footprint_bench [footprint]

A real agent process in a network namespace, an API server that only serves (tests/bench/many_pods_api.py) in the same
namespace. Beside it BIRD, alone and idle, for those who ask what a routing daemon needs. The published figure for
Calico's agent with as many Pods is 136 MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.report import report
from tests.eventually import eventually
from tests.functional.agent_world import AgentWorld

PODS, NODES = 10_000, 200
PORT = 18080
WATCH_S = 10.0
CHANGES_S = 100.0
GOAL_MB = 80.0
CALICO_MB = 136.0
"""Felix with 10,000 Pods watched, measured on a machine of this size."""


def memory_mb(pid: int) -> float:
    """Resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def cluster(netns: str, *, changes_s: float) -> Iterator[None]:
    """The API server."""
    words = [str(PORT), str(PODS), str(NODES), str(changes_s)]
    command = ["ip", "netns", "exec", netns, sys.executable, "-m", "tests.bench.many_pods_api", *words]
    server = subprocess.Popen(command)
    try:
        yield
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def node() -> Iterator[AgentWorld]:
    """A namespace, no agent yet."""
    netns = f"tortie-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        home = Path(directory)
        subprocess.run(["ip", "netns", "add", netns], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", netns], check=True)
        kubeconfig = home / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                    "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{PORT}"}}],
                    "users": [{"name": "x", "user": {"token": "x"}}],
                }
            )
        )
        world = AgentWorld(netns=netns, node="node-0", directory=home, kubeconfig=kubeconfig)
        world.ip("link", "set", "lo", "up")
        world.uplink("192.0.0.0/16")
        stack.callback(world.end)
        yield world


def measure(*, changes_s: float) -> tuple[float, float, float]:
    """(resident MB, share of a core, seconds until ready)."""
    with node() as world, cluster(world.netns, changes_s=changes_s):
        began_s = time.monotonic()
        world.start()
        world.until_ready(within_s=60)
        ready_s = time.monotonic() - began_s
        assert world.process is not None
        pid = int(
            subprocess.run(
                ["pgrep", "-f", str(world.directory / "state")], capture_output=True, text=True, check=True
            ).stdout.split()[0]
        )
        seen = eventually(lambda: world.get("/metrics")[1], within_s=10)
        assert f"felix_cluster_num_workload_endpoints {float(PODS)}" in seen, "all Pods are watched"
        before_s, at_s = cpu_s(pid), time.monotonic()
        time.sleep(WATCH_S)
        share = (cpu_s(pid) - before_s) / (time.monotonic() - at_s)
        return memory_mb(pid), share, ready_s


def main() -> None:
    """All figures."""
    memory, idle, ready_s = measure(changes_s=0.0)
    report("footprint", "RSS, 10,000 Pods watched", ours=memory, peer=CALICO_MB, unit="MB", peer_name="calico-node")
    report("footprint", "CPU idle", ours=100 * idle, peer=None, unit="%")
    report("footprint", "start until ready", ours=ready_s, peer=None, unit="s")
    memory, busy, _ = measure(changes_s=CHANGES_S)
    report("footprint", "CPU, 100 Pod changes/s", ours=100 * busy, peer=None, unit="%")
    report("footprint", "RSS, 100 Pod changes/s", ours=memory, peer=None, unit="MB")
    if memory > GOAL_MB:
        print(f"goal missed: {memory:.0f} MB resident, at most {GOAL_MB:.0f} are allowed")


if __name__ == "__main__":
    main()
