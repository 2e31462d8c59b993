"""10,000 routes from BGP into the kernel's table: our speaker and agent beside BIRD, on the same feed.

    python -m tests.bench.routes_bench [routes]

One router (BIRD) has a session with a node of ours and one with a BIRD that writes its kernel's table. It announces
10,000 prefixes first to the one and then to the other, withdraws them again, and so on in turn. Measured from the
router's command to the last change of the node's table; the processor time is that of everything that takes part on the
node: ExaBGP, relay, supervisor and agent, or the one BIRD.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.routers_run import Bird
from tests.bench.footprint_bench import PORT, cpu_s
from tests.bench.report import report
from tests.eventually import eventually
from tests.functional.agent_world import AgentWorld, in_netns
from tests.functional.bgp_fabric import SpeakerProcess, cable

ROUTES = 10_000
ROUNDS = 3
EVERY_S = 0.005
LIMIT_S = 120.0
PROJECT = "projectcalico.org/v3"
OURS, PEER = "10.77.0", "10.78.0"


def prefixes() -> Iterator[str]:
    """So many /26."""
    for number in range(ROUTES):
        yield f"10.{100 + (number >> 10)}.{number >> 2 & 255}.{(number & 3) * 64}/26"


def tor_text() -> str:
    """The router that announces: a protocol of static routes for each side, off at first."""
    routes = "\n".join(f"route {prefix} blackhole;" for prefix in prefixes())
    sides = "".join(
        f"""
protocol static {name}_routes {{ disabled; ipv4; {routes} }}
protocol bgp {name} {{
  local {network}.2 as 65002; neighbor {network}.1 as 65001; connect retry time 1; connect delay time 1;
  error wait time 1, 2; ipv4 {{ import none; export where proto = "{name}_routes"; }};
}}
"""
        for name, network in (("ours", OURS), ("peer", PEER))
    )
    return f"log stderr all; router id {OURS}.2; protocol device {{}}\n{sides}"


PEER_TEXT = f"""
log stderr all; router id {PEER}.1; protocol device {{}}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol bgp tor {{
  local {PEER}.1 as 65001; neighbor {PEER}.2 as 65002; connect retry time 1; connect delay time 1;
  error wait time 1, 2; ipv4 {{ import all; export none; }};
}}
"""


def objects() -> dict[str, list[dict[str, object]]]:
    """What the node of ours finds in the API: itself, a pool for everything, the router as only peer."""

    def thing(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
        return {
            "apiVersion": PROJECT,
            "kind": kind,
            "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
            "spec": spec,
        }

    address = {"type": "InternalIP", "address": f"{OURS}.1"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-0", "uid": "node-0", "resourceVersion": "1"},
        "status": {"addresses": [address]},
    }
    never: dict[str, object] = {"cidr": "10.96.0.0/11", "nodeSelector": "!all()"}
    mesh: dict[str, object] = {"nodeToNodeMeshEnabled": False, "asNumber": 65001}
    return {
        "nodes": [node],
        "ippools": [thing("IPPool", "all", never)],
        "bgpconfigurations": [thing("BGPConfiguration", "default", mesh)],
        "bgppeers": [thing("BGPPeer", "tor", {"peerIP": f"{OURS}.2", "asNumber": 65002})],
    }


class Side:
    """One of the two that take the feed."""

    def __init__(self, name: str, *, netns: str, tor: Bird, pids: Callable[[], list[int]]) -> None:
        self.name = name
        self._netns, self._tor, self._pids = netns, tor, pids
        self._rest = self._count()

    def round(self) -> tuple[float, float, float, float]:
        """(seconds to take all, processor seconds for that, seconds to drop all, processor seconds for that)."""
        return (*self._change("enable", self._rest + ROUTES), *self._change("disable", self._rest))

    def until_up(self) -> None:
        """Wait for the session."""
        eventually(lambda: "Established" in self._tor.ask("show", "protocols", self.name), within_s=60)

    def _change(self, verb: str, wanted: int) -> tuple[float, float]:
        pids = self._pids()
        before_s, began_s = sum(cpu_s(pid) for pid in pids), time.monotonic()
        self._tor.ask(verb, f"{self.name}_routes")
        eventually(lambda: self._count() == wanted, within_s=LIMIT_S, every_s=EVERY_S, what=f"{self.name} {verb}")
        took_s = time.monotonic() - began_s
        settle_s = time.monotonic() + 0.5  # what is still worked off belongs to it
        eventually(lambda: time.monotonic() > settle_s)
        return took_s, sum(cpu_s(pid) for pid in pids) - before_s

    def _count(self) -> int:
        """Prefixes in the main table, from the kernel's own counter: no dump that would take its time."""
        text = in_netns(self._netns, lambda: Path("/proc/thread-self/net/fib_triestat").read_text())
        main = text.split("Main:")[1] if "Main:" in text else text
        return int(next(line for line in main.splitlines() if "Prefixes" in line).split()[1])


@contextlib.contextmanager
def namespaces(*hints: str) -> Iterator[list[str]]:
    """Network namespaces with loopback up, gone afterwards."""
    names = [f"tortie-bench-{os.getpid()}-{hint}" for hint in hints]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextlib.contextmanager
def our_node(netns: str, home: Path) -> Iterator[tuple[AgentWorld, SpeakerProcess]]:
    """API server, agent, speaker."""
    more = home / "objects.json"
    more.write_text(json.dumps(objects()))
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
    words = [str(PORT), "0", "2", "0", str(more)]
    command = ["ip", "netns", "exec", netns, sys.executable, "-m", "tests.bench.many_pods_api", *words]
    server = subprocess.Popen(command)
    world = AgentWorld(netns=netns, node="node-0", directory=home, kubeconfig=kubeconfig)
    speaker = SpeakerProcess(netns=netns, run_dir=home / "run", own_dir=home / "speaker")
    try:
        world.start()
        world.until_ready(within_s=60)
        speaker.start()
        yield world, speaker
    finally:
        speaker.stop()
        world.end()
        server.kill()
        server.wait()


def main() -> None:
    """All rounds, medians."""
    with (
        tempfile.TemporaryDirectory() as directory,
        namespaces("tor", "ours", "peer") as (tor_ns, our_ns, peer_ns),
        contextlib.ExitStack() as stack,
    ):
        home = Path(directory)
        cable(our_ns, tor_ns, network=OURS, interface="eth0")
        cable(peer_ns, tor_ns, network=PEER, interface="eth1")
        tor = Bird(name="tor", directory=home / "tor", netns=tor_ns)
        peer = Bird(name="peer", directory=home / "peer", netns=peer_ns)
        for bird, text in ((tor, tor_text()), (peer, PEER_TEXT)):
            bird.start(text)
            stack.callback(bird.kill)
        (home / "ours").mkdir()
        world, speaker = stack.enter_context(our_node(our_ns, home / "ours"))
        assert world.process is not None
        agent = world.process.pid

        def our_pids() -> list[int]:
            return [agent, speaker.pid, speaker.exabgp(), speaker.relay()]

        def peer_pids() -> list[int]:
            return [pid for pid in peer.processes().values() if pid]

        eventually(speaker.exabgp, within_s=20)
        sides = [
            Side("ours", netns=our_ns, tor=tor, pids=our_pids),
            Side("peer", netns=peer_ns, tor=tor, pids=peer_pids),
        ]
        for side in sides:
            side.until_up()
        rounds = [[side.round() for side in sides] for _ in range(ROUNDS)]
    names = ("10,000 into the table", "CPU for that", "10,000 out of the table", "CPU for that too")
    for index, name in enumerate(names):
        ours, theirs = (statistics.median(round_[number][index] for round_ in rounds) for number in (0, 1))
        report("routes", name, ours=ours, peer=theirs, unit="s", peer_name="bird")


if __name__ == "__main__":
    main()
