"""A node and its router for BGP tests: a real speaker under a real BIRD or FRR, and a real BgpLink in the agent's
place."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from bgp import wire
from bgp.import_policy import ImportPolicy
from bgp.rib import IPAddress
from bgp.sessions import Neighbor, PeerKind, SessionPlan
from felix.bgp_link import BgpLink
from lab.routers_run import Bird, Frr, RouterFailed
from tests.eventually import eventually

T = TypeVar("T")
NODE, TOR = "10.77.0.1", "10.77.0.2"
EVERYTHING = ImportPolicy(pools=frozenset({ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")}))


def cable(node: str, tor: str, *, network: str = "10.77.0", interface: str = "eth0") -> None:
    """A veth pair, node .1, router .2."""
    batch = f"link add name {interface} netns {node} type veth peer name {interface} netns {tor}\n"
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
    for name, address in ((node, f"{network}.1/24"), (tor, f"{network}.2/24")):
        subprocess.run(["ip", "-n", name, "address", "add", address, "dev", interface], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", interface, "up"], check=True)


def bird_text(*, md5: str = "", graceful: bool = True, extra: str = "", routes: str = "") -> str:
    """A ToR in BIRD's words."""
    restart = "graceful restart on; graceful restart time 60;" if graceful else "graceful restart off;"
    password = f'password "{md5}";' if md5 else ""
    return f"""
log stderr all; router id {TOR};
protocol device {{}}
protocol static hosts {{ ipv4; {routes or "route 10.200.0.0/24 blackhole;"} }}
protocol bgp node {{
  local {TOR} as 65002; neighbor {NODE} as 65001; hold time 9; connect delay time 1; connect retry time 1;
  error wait time 1, 2; {restart} {password}
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
{extra}
"""


def frr_text(*, md5: str = "") -> str:
    """A ToR in FRR's words."""
    password = f" neighbor {NODE} password {md5}\n" if md5 else ""
    return f"""
router bgp 65002
 bgp router-id {TOR}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart restart-time 60
 neighbor {NODE} remote-as 65001
 neighbor {NODE} timers 3 9
 neighbor {NODE} timers connect 1
{password} address-family ipv4 unicast
  network 10.200.0.0/24
 exit-address-family
"""


def neighbor(*, peer: str = TOR, local: str = NODE, **changes: Any) -> Neighbor:
    """The session with the router."""
    limit = changes.pop("prefix_limit", 10_000)
    values: dict[str, Any] = {
        "name": f"tor-{peer}",
        "peer_as": 65002,
        "local_as": 65001,
        "router_id": NODE,
        "families": (wire.Family.IPV4,),
        "hold_time_s": 9,
        "restart_time_s": 60,
        "listen_port": 179,
        **changes,
    }
    session = wire.Session(id=wire.NeighborId(peer, local), **values)
    return Neighbor(session=session, kind=PeerKind.NODE, source="BGPPeer test", prefix_limit=limit)


def blocks(count: int, *, first: str = "10.1") -> tuple[str, ...]:
    """So many /26 of ours."""
    return tuple(f"{first}.{number // 4}.{number % 4 * 64}/26" for number in range(count))


def routes(prefixes: tuple[str, ...]) -> tuple[wire.RouteGroup, ...]:
    """Announced with next hop self."""
    return (wire.RouteGroup(family=wire.Family.IPV4, prefixes=prefixes),)


class Agent:
    """A BgpLink in a loop of its own, as the agent would hold one."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.changes = 0
        self.link = BgpLink(path, on_change=self._count)
        asyncio.run_coroutine_threadsafe(self.link.start(), self._loop).result(5)

    def _count(self) -> None:
        self.changes += 1

    def do(self, call: Callable[[], T]) -> T:
        """Call it in the loop."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def want(self, *neighbors: Neighbor, announced: tuple[wire.RouteGroup, ...] = (), complete: bool = True) -> None:
        own: frozenset[IPAddress] = frozenset()
        plan = SessionPlan(neighbors=neighbors)
        self.do(lambda: self.link.want(plan, announced, own_addresses=own, complete=complete))

    def best(self) -> dict[str, set[str]]:
        """Prefix to next hops."""
        found = self.do(lambda: self.link.rib.best(EVERYTHING))
        return {str(prefix): {str(hop) for hop in route.next_hops} for prefix, route in found.items()}

    def states(self) -> dict[str, wire.State]:
        return {str(view.neighbor.id.peer): view.state for view in self.do(self.link.rib.neighbors)}

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.link.stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@dataclass
class SpeakerProcess:
    """`tortie-speaker` in a network namespace."""

    netns: str
    run_dir: Path
    own_dir: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "bgp.supervisor",
            "--run-dir",
            str(self.run_dir),
            "--own-dir",
            str(self.own_dir),
        ]
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / "speaker.log").open("ab") as log:
            self.process = subprocess.Popen(["ip", "netns", "exec", self.netns, *command], stderr=log, stdout=log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def exabgp(self) -> int:
        """The pid of ExaBGP, 0 if there is none."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return next((int(pid) for pid in children if b"server" in _command_line(pid)), 0)

    def relay(self) -> int:
        """The pid of ExaBGP's child, 0 if there is none."""
        exabgp = self.exabgp()
        children = Path(f"/proc/{exabgp}/task/{exabgp}/children")
        return int((children.read_text().split() or ["0"])[0]) if exabgp and children.exists() else 0

    def probe(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bgp.supervisor", "--probe", "--own-dir", str(self.own_dir)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def kill_exabgp(self) -> None:
        os.kill(eventually(self.exabgp), signal.SIGKILL)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def learned(router: Bird | Frr) -> set[str]:
    """The prefixes that the router has from the node."""
    try:
        if isinstance(router, Bird):
            text = router.ask("show", "route", "protocol", "node")
        else:
            text = router.ask("show bgp ipv4 unicast neighbors 10.77.0.1 routes")
    except RouterFailed:
        return set()
    return set(re.findall(r"(10\.[1-9]\d?\.\d+\.\d+/\d+)", text))


class Watch:
    """Looks at the router's table all the time: how few routes were ever seen there."""

    def __init__(self, router: Bird | Frr) -> None:
        self.fewest = 1 << 30
        self.looks = 0
        self._router = router
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stop.is_set():
            self.fewest = min(self.fewest, len(learned(self._router)))
            self.looks += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
