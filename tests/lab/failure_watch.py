"""What tests of failures share: traffic that must not notice, routes that must not move, and being whole again.

Traffic and route watching are gapless, each in its way: every probe is numbered, and a netlink socket in each router
and node keeps every removal of a route until it is read. Router tables are polled besides, for a route may leave a
table for a moment without the kernel's being told.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.builder import NETNS_DIRECTORY, namespace
from lab.fabric import Lab
from lab.node import LightNode
from lab.pods import RunningPod
from tests.eventually import eventually

Json = dict[str, Any]

RTM_DELROUTE = 25
RTA_DST, RTA_TABLE = 1, 15
RTMGRP_ROUTES = 0x40 | 0x400
SO_RCVBUFFORCE = 33
MAIN_TABLE = 254
LOOK_EVERY_S = 0.2
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


# --- traffic


@dataclass
class Traffic:
    """What the probers counted; whole once the `with` block is over."""

    results: list[Json] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Probes lost, in all directions together."""
        return sum(result["lost"] for result in self.results)

    @property
    def sent(self) -> int:
        """Probes sent."""
        return sum(result["sent"] for result in self.results)

    @property
    def untouched(self) -> bool:
        """No probe lost or refused, each stream in one piece and unspoilt."""
        flaws = ("lost", "send_errors", "tcp_bad_blocks", "tcp_breaks")
        return bool(self.results) and all(
            result["final"] and result["tcp_blocks"] > 0 and not any(result[flaw] for flaw in flaws)
            for result in self.results
        )


@contextlib.contextmanager
def traffic(lab: Lab, here: RunningPod, there: RunningPod) -> Iterator[Traffic]:
    """200 probes a second and a TCP stream each way between two pods: IPv4 there, IPv6 back."""
    seen = Traffic()
    forth = lab.probing(here, there, to=there.addresses[0])
    back = lab.probing(there, here, to=here.addresses[-1])
    with forth as one, back as other:
        yield seen
    seen.results = [one.result, other.result]


# --- routes


def owned(lab: Lab, *nodes: str) -> set[str]:
    """The blocks that nodes hold, as text."""
    listing = lab.api.get("/apis/projectcalico.org/v3/blockaffinities")
    return {
        item["spec"]["cidr"]
        for item in listing["items"]
        if item["spec"]["node"] in nodes and item["spec"].get("state") == "confirmed"
    }


class RouteWatch:
    """Looks at some routes everywhere while a `with` block runs.

    `removed`: which machine's kernel removed which of them, every time; `missing`: which router's table lacked which.
    """

    def __init__(self, lab: Lab, prefixes: Iterable[str], *, tors: Iterable[str] = ("tor1", "tor2")) -> None:
        self.prefixes = frozenset(str(ip_network(prefix)) for prefix in prefixes)
        self.removed: list[tuple[str, str]] = []
        self.missing: set[tuple[str, str]] = set()
        self.looks = 0
        self._lab = lab
        self._tors = tuple(lab.router(name) for name in tors)
        self._ears: dict[str, socket.socket] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def quiet(self) -> bool:
        """Nothing was removed and nothing missing, and somebody looked."""
        return self.looks > 1 and not self.removed and not self.missing

    def _look(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            for tor in self._tors:
                shown = tor.routes()
                self.missing |= {(tor.name, prefix) for prefix in self.prefixes if f"{prefix} " not in shown}
            self.looks += 1

    def __enter__(self) -> RouteWatch:
        machines = [*(r.name for r in self._lab.topology.routers), *(n.name for n in self._lab.topology.nodes)]
        self._ears = {name: _ear(namespace(self._lab.name, name)) for name in machines}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        for name, ear in self._ears.items():
            with ear:
                self.removed += [(name, prefix) for prefix in _heard(ear) if prefix in self.prefixes]


def _ear(netns: str) -> socket.socket:
    """A socket that hears of every change of routes in a namespace from now on."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(NETNS_DIRECTORY / netns, os.O_RDONLY)
    try:
        _enter(there)
        ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        ear.bind((0, RTMGRP_ROUTES))
    finally:
        _enter(home)
        os.close(home)
        os.close(there)
    return ear


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _heard(ear: socket.socket) -> Iterator[str]:
    """Prefixes that left the main table. An overflow (ENOBUFS) raises: then nothing has been shown."""
    while True:
        try:
            data = ear.recv(1 << 16)
        except BlockingIOError:
            return
        while len(data) >= 16:
            length, kind = struct.unpack_from("=IH", data)
            if kind == RTM_DELROUTE and (prefix := _main_prefix(data[16:length])):
                yield prefix
            data = data[(length + 3) & ~3 :]


def _main_prefix(body: bytes) -> str:
    """Destination of a route message (rtnetlink(7): rtmsg, then attributes), '' outside the main table."""
    bits, table, rest = body[1], body[4], body[12:]
    destination = b""
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        if kind == RTA_DST:
            destination = rest[4:length]
        elif kind == RTA_TABLE:
            table = struct.unpack_from("=I", rest, 4)[0]
        rest = rest[max(4, (length + 3) & ~3) :]
    return f"{ip_address(destination)}/{bits}" if destination and table == MAIN_TABLE else ""


# --- being whole


def settle(lab: Lab, *, within_s: float = 40.0, without_agent: Iterable[str] = ()) -> None:
    """Return when each node's agent and speaker are as wanted, and no router keeps routes for somebody gone."""
    for node in lab.nodes:
        if node.name not in set(without_agent):
            eventually(lambda node=node: agent_is_ready(node), within_s=within_s, what=f"{node.name}'s agent is ready")
        eventually(lambda node=node: speaker_is_well(node), within_s=within_s, what=f"{node.name}'s speaker is well")
    for router in lab.routers:
        wanted = sessions_wanted(lab, router.name)
        eventually(
            lambda router=router, wanted=wanted: router.established() >= wanted,
            within_s=within_s,
            what=f"{router.name} has its {wanted} sessions",
        )
        eventually(lambda name=router.name: not stale(lab, name), within_s=within_s, what=f"{router.name}: none stale")


def sessions_wanted(lab: Lab, router: str) -> int:
    """How many sessions a router has when all is well, both families."""
    fellows = sum(router in link.ends for link in lab.topology.links)
    racks = {segment.name for segment in lab.topology.segments if segment.router == router}
    nodes = sum(node.segment in racks for node in lab.topology.nodes if node.segment)
    uplinks = sum(uplink.router == router for node in lab.topology.nodes for uplink in node.uplinks)
    return 2 * (fellows + nodes + uplinks)


def stale(lab: Lab, router: str) -> bool:
    """Whether a router keeps routes of a peer that has not yet said them again."""
    asked = lab.router(router)
    if asked.spec.kind == "bird":
        return " stale" in asked.ask("show", "route", "all")
    shown = asked.ask("show bgp ipv4 unicast json") + asked.ask("show bgp ipv6 unicast json")
    return '"stale":true' in shown.replace(" ", "")


def agent_is_ready(node: LightNode) -> bool:
    """Whether /readyz says so."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9099/readyz', timeout=2).status)"
    return node.exec([sys.executable, "-I", "-c", ask]).stdout.strip() == "200"


def speaker_is_well(node: LightNode) -> bool:
    """Whether its own probe says so: the sessions are those that the agent wants, and those that answer are told."""
    return node.exec([sys.executable, "-m", "bgp.supervisor", "--probe"]).returncode == 0


def identity(node: LightNode, component: str) -> Callable[[], bool]:
    """A condition: another process than now plays this part."""
    before = {process.pid for process in node.find(component)}

    def replaced() -> bool:
        with contextlib.suppress(LookupError):
            return not before & {process.pid for process in node.find(component)}
        return False

    return replaced


def starts(node: LightNode, component: str) -> int:
    """How often process 1 of the node has started a component."""
    return int(node.components()[component]["starts"])


def fib(node: LightNode, prefix: str) -> str:
    """The node's route to exactly this prefix, '' for none."""
    family = "-6" if ":" in prefix else "-4"
    return node.exec(["ip", family, "route", "show", "exact", prefix]).stdout.strip()


def next_hops(node: LightNode, prefix: str) -> set[str]:
    """The gateways of that route."""
    return set(re.findall(r"via (\S+)", fib(node, prefix)))


def log_of(node: LightNode, component: str) -> str:
    """All that a component has said."""
    return Path(node.log(component)).read_text(errors="replace")
