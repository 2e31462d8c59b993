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
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.builder import NETNS_DIRECTORY, namespace
from lab.fabric import Lab
from lab.fabric_routers import FabricRouter
from lab.node import LightNode
from lab.pods import Probing, RunningPod
from tests.eventually import eventually

Json = dict[str, Any]

RTM_DELROUTE = 25
RTA_DST, RTA_TABLE = 1, 15
RTMGRP_ROUTES = 0x40 | 0x400
SO_RCVBUFFORCE = 33
MAIN_TABLE = 254
AGENT_HEALTH_PORT = 9099
LOOK_EVERY_S = 0.2
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


# --- traffic


@dataclass
class Traffic:
    """What the probers counted; whole once the `with` block is over."""

    results: list[Json] = field(default_factory=list)
    probers: list[Probing] = field(default_factory=list, repr=False)

    @property
    def lost_so_far(self) -> list[int]:
        """Probes lost until now, by direction; those of the last second are not counted yet."""
        return [prober.so_far()["lost"] for prober in self.probers]

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
        seen.probers = [one, other]
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
            self._look_once()

    def _look_once(self) -> None:
        for tor in self._tors:
            shown = tor.routes()
            self.missing |= {(tor.name, prefix) for prefix in self.prefixes if f"{prefix} " not in shown}
        self.looks += 1

    def __enter__(self) -> RouteWatch:
        machines = [*(r.name for r in self._lab.topology.routers), *(n.name for n in self._lab.topology.nodes)]
        self._ears = {name: _ear(namespace(self._lab.name, name)) for name in machines}
        self._look_once()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._look_once()  # what goes wrong sooner than the first look is over must not pass as quiet
        for name, ear in self._ears.items():
            with ear:
                self.removed += [(name, prefix) for prefix in _heard(ear) if prefix in self.prefixes]


def _ear(netns: str) -> socket.socket:
    """A socket that hears of every change of routes in a namespace from now on."""
    ear = _socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
    ear.bind((0, RTMGRP_ROUTES))
    return ear


def _socket_in(netns: str, family: int, kind: int) -> socket.socket:
    """A socket that belongs to a network namespace for ever, whoever uses it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(NETNS_DIRECTORY / netns, os.O_RDONLY)
    try:
        _enter(there)
        return socket.socket(family, kind)
    finally:
        _enter(home)
        os.close(home)
        os.close(there)


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


def settle(lab: Lab, *, nodes: Iterable[str] = (), without_agent: Iterable[str] = (), within_s: float = 40.0) -> None:
    """Return when the agents and speakers of these nodes (of all, if none is named) are as wanted, and no router lacks
    a session or keeps routes of a peer that has not said them again."""
    names = set(nodes) or {node.name for node in lab.nodes}
    for name in sorted(names):
        node = lab.node(name)
        if name not in set(without_agent):
            eventually(partial(agent_is_ready, node), within_s=within_s, what=f"{name}'s agent is ready")
        eventually(partial(speaker_is_well, node), within_s=within_s, what=f"{name}'s speaker is well")
    for router in lab.routers:
        eventually(partial(is_whole, lab, router), within_s=within_s, what=f"{router.name} is whole")


def is_whole(lab: Lab, router: FabricRouter) -> bool:
    """Whether a router has all its sessions, and keeps nothing for a peer that was away."""
    return router.established() >= sessions_wanted(lab, router.name) and not stale(router)


def sessions_wanted(lab: Lab, router: str) -> int:
    """How many sessions a router has when all is well, both families."""
    fellows = sum(router in link.ends for link in lab.topology.links)
    racks = {segment.name for segment in lab.topology.segments if segment.router == router}
    nodes = sum(node.segment in racks for node in lab.topology.nodes if node.segment)
    uplinks = sum(uplink.router == router for node in lab.topology.nodes for uplink in node.uplinks)
    return 2 * (fellows + nodes + uplinks)


def stale(router: FabricRouter) -> bool:
    """Whether a router keeps routes of a peer that has not yet said them again."""
    if router.spec.kind == "bird":
        return " stale" in router.ask("show", "route", "all")
    shown = router.ask("show bgp ipv4 unicast json") + router.ask("show bgp ipv6 unicast json")
    return '"stale":true' in shown.replace(" ", "")


def agent_is_ready(node: LightNode) -> bool:
    """Whether /readyz says so."""
    with _socket_in(namespace(node.lab, node.name), socket.AF_INET, socket.SOCK_STREAM) as link:
        link.settimeout(2)
        try:
            link.connect(("127.0.0.1", AGENT_HEALTH_PORT))
            link.sendall(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
            return b" 200 " in link.recv(64).partition(b"\r\n")[0]
        except OSError:
            return False


def speaker_is_well(node: LightNode) -> bool:
    """Whether its own probe says so: the sessions are those that the agent wants, and those that answer are told."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(2)
        try:
            init = next(process.pid for process in node.find("speaker"))
            link.connect(f"/proc/{init}/root/run/tortie-speaker/probe.sock")
            return link.recv(64) == b""
        except (OSError, LookupError):
            return False


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
