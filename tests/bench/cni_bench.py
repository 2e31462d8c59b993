"""How long a pod's network takes: exec of the plugin to its answer, beside Debian's ptp with host-local.

    python -m tests.bench.cni_bench [cni-add] [cni-del] [pod-burst]

Both plugins run on one node (a network namespace) that holds 110 pods of each; ADDs, then DELs, are interleaved pair by
pair, so what else the machine does hits both alike. Ours is the whole agent as felix.main composes it, with its synced
journal and its writes to an API server behind the answers (tests/bench/cni_node.py says what that one is).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cni.conflist import NETWORK
from tests.bench.cni_node import BenchAgent, cni_node
from tests.bench.report import report
from tests.functional.cni_world import inside

HELD = 110
SAMPLES = 60
SETTLE_S = 1.5
BURST, AT_ONCE = 250, 8
PEER = "ptp+host-local"
PEER_PROGRAM = Path("/usr/lib/cni/ptp")


class Bench:
    """A node with both plugins, and as many pod namespaces as asked for."""

    def __init__(self, node: BenchAgent, *, names: Sequence[str], state: Path) -> None:
        self.node = node
        self._names = iter(names)
        self._made: list[str] = []
        network = {"cniVersion": "1.0.0", "name": NETWORK, "type": "tortie"}
        self.ours = json.dumps({**network, "ipam": {"type": "tortie", "assign_ipv4": True}}).encode()
        self.peers = json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": "peer",
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(state / "host-local"),
                    "ranges": [[{"subnet": "10.66.0.0/22"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ).encode()

    def netns(self) -> str:
        name = next(self._names)
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._made.append(name)
        return name

    def clear(self) -> None:
        batch = "".join(f"netns delete {name}\n" for name in self._made)
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=False)

    def run(self, program: Path, config: bytes, *, command: str, pod: str) -> float:
        """Milliseconds from exec to the end of the plugin."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/usr/lib/cni",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}",
        }
        read_end, write_end = os.pipe()
        os.write(write_end, config)
        os.close(write_end)
        begin = time.perf_counter()
        process = os.posix_spawn(
            program,
            [str(program)],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 0), (os.POSIX_SPAWN_DUP2, QUIET, 1)],
        )
        _, status = os.waitpid(process, 0)
        took_ms = (time.perf_counter() - begin) * 1e3
        os.close(read_end)
        if status:
            raise SystemExit(f"{program} {command} {pod} failed with {status}\n{self.node.log[-1000:]}")
        return took_ms

    def our(self, command: str, pod: str) -> float:
        return self.run(self.node.shim, self.ours, command=command, pod=pod)

    def peer(self, command: str, pod: str) -> float:
        return self.run(PEER_PROGRAM, self.peers, command=command, pod=pod)


QUIET = os.open("/dev/null", os.O_WRONLY)


@contextlib.contextmanager
def world() -> Iterator[Bench]:
    """A node with the agent running; gone afterwards."""
    names = [f"tortie-b-{os.getpid()}-{number}" for number in range(2 * (HELD + max(SAMPLES, BURST)))]
    with cni_node(names) as node, tempfile.TemporaryDirectory(prefix="tortie-bench-peer-") as state:
        bench = Bench(node, names=names, state=Path(state))
        try:
            with inside(node.netns):
                yield bench
        finally:
            bench.clear()


def p50(samples: list[float]) -> float:
    return statistics.median(samples)


def p99(samples: list[float]) -> float:
    return sorted(samples)[min(len(samples) - 1, round(len(samples) * 0.99))]


def pair_by_pair(
    bench: Bench, command: str, pods: list[tuple[str, str]]
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """(ours, peer's) for each pair: wall clock in ms; and the processor time of one operation in ms, ours with all that
    the agent did until it was quiet again."""
    samples, ours_s, peers_s = [], -bench.node.cpu_s(), 0.0
    for ours, peers in pods:
        at_s = children_s()
        our_ms = bench.our(command, ours)
        between_s = children_s()
        samples.append((our_ms, bench.peer(command, peers)))
        ours_s += between_s - at_s
        peers_s += children_s() - between_s
    time.sleep(SETTLE_S)
    ours_s += bench.node.cpu_s()
    return samples, (1e3 * ours_s / len(pods), 1e3 * peers_s / len(pods))


def children_s() -> float:
    """Processor time of the programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one_by_one(bench: Bench, wanted: set[str]) -> None:
    """cni-add and cni-del."""
    for _ in range(HELD):
        bench.our("ADD", bench.netns())
        bench.peer("ADD", bench.netns())
    pods = [(bench.netns(), bench.netns()) for _ in range(SAMPLES)]
    added, add_cpu = pair_by_pair(bench, "ADD", pods)
    deleted, del_cpu = pair_by_pair(bench, "DEL", pods)
    for name, samples, cpu, goal in (("cni-add", added, add_cpu, 5.0), ("cni-del", deleted, del_cpu, 20.0)):
        if name not in wanted:
            continue
        ours, peers = [pair[0] for pair in samples], [pair[1] for pair in samples]
        report(name, f"p50, {HELD} pods held", ours=p50(ours), peer=p50(peers), unit="ms", peer_name=PEER, goal=goal)
        report(name, f"p99, {HELD} pods held", ours=p99(ours), peer=p99(peers), unit="ms", peer_name=PEER)
        report(name, "CPU, work behind included", ours=cpu[0], peer=cpu[1], unit="ms", peer_name=PEER)


def burst(bench: Bench) -> None:
    """pod-burst: 250 pods, 8 at a time."""
    rates = {}
    for name, run in (("ours", bench.our), ("peer", bench.peer)):
        pods = [bench.netns() for _ in range(BURST)]
        for command in ("ADD", "DEL"):
            with ThreadPoolExecutor(AT_ONCE, initializer=_join, initargs=(bench.node.netns,)) as pool:
                begin = time.perf_counter()
                list(pool.map(lambda pod, command=command, run=run: run(command, pod), pods))
                rates[name, command] = BURST / (time.perf_counter() - begin)
    for command, goal in (("ADD", 4.0), ("DEL", None)):
        report(
            "pod-burst",
            f"{BURST} {command}s, {AT_ONCE} at once",
            ours=rates["ours", command],
            peer=rates["peer", command],
            unit="pods/s",
            peer_name=PEER,
            better="more",
            goal=goal,
        )


_JOINED: list[contextlib.AbstractContextManager[None]] = []


def _join(netns: str) -> None:
    """A worker thread enters the node for good: children inherit the namespace of the thread that starts them."""
    entering = inside(netns)
    entering.__enter__()
    _JOINED.append(entering)


def main() -> None:
    """Run what is named, or all."""
    wanted = set(sys.argv[1:]) or {"cni-add", "cni-del", "pod-burst"}
    if not PEER_PROGRAM.exists():
        raise SystemExit(f"{PEER_PROGRAM} is missing: apt-get install containernetworking-plugins")
    if wanted & {"cni-add", "cni-del"}:
        with world() as bench:
            one_by_one(bench, wanted)
    if "pod-burst" in wanted:
        with world() as bench:
            burst(bench)


if __name__ == "__main__":
    main()
