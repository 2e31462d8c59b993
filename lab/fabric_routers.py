"""The routers of a lab: which text each one runs, and the few questions that commands and tests have for any of them.

What for: `routers` knows texts, `routers_run` knows processes; this joins the two for one topology.

Invariants: nothing is remembered here; every answer is asked of the router anew.

Called by: fabric, main, tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import routers
from lab.builder import namespace
from lab.cp_process import Daemon, Lifetime
from lab.routers_run import Bird, Frr
from lab.topology import Router, Topology


@dataclass(slots=True)
class FabricRouter:
    """One router of a lab. `directory` is its own on the host."""

    lab: str
    topology: Topology
    spec: Router
    directory: Path

    @property
    def name(self) -> str:
        """The router's name in the topology."""
        return self.spec.name

    @property
    def process(self) -> Bird | Frr:
        """The router as processes: `ask`, `configure`, `stop`, `kill`."""
        kind = Bird if self.spec.kind == "bird" else Frr
        netns = namespace(self.lab, self.name)
        return kind(name=self.name, directory=self.directory, netns=netns, lifetime=Lifetime.DETACHED)

    @property
    def text(self) -> str:
        """The configuration that follows from the topology."""
        write = routers.bird if self.spec.kind == "bird" else routers.frr
        return write(self.topology, self.spec)

    def start(self) -> None:
        """Start with the topology's configuration; returns when the router answers."""
        self.process.start(self.text)

    def stop(self) -> None:
        """End it in order: its routes go."""
        self.process.stop()

    def kill_bgp(self) -> None:
        """SIGKILL the BGP process alone. FRR's zebra lives on; BIRD is one process, and the kernel keeps its routes."""
        if self.spec.kind == "bird":
            self.process.kill()
        else:
            Daemon(name="bgpd", directory=self.directory, lifetime=Lifetime.DETACHED).stop(grace_s=0)

    def ask(self, *words: str) -> str:
        """birdc's or vtysh's answer."""
        return self.process.ask(*words) if self.spec.kind == "bird" else self.process.ask(" ".join(words))

    def routes(self) -> str:
        """The routes that it has from BGP, in its own format."""
        if self.spec.kind == "bird":
            return self.ask("show", "route", "where", "source", "=", "RTS_BGP")
        return self.ask("show ip route bgp") + self.ask("show ipv6 route bgp")

    def sessions(self) -> str:
        """Its BGP sessions, in its own format."""
        return self.ask("show", "protocols") if self.spec.kind == "bird" else self.ask("show bgp summary")

    def established(self) -> int:
        """How many of its sessions are up."""
        if self.spec.kind == "bird":
            return self.sessions().count("Established")
        return self.ask("show bgp neighbors").count("BGP state = Established")

    def alive(self) -> bool:
        """Whether all its processes run."""
        return all(pid is not None for pid in self.process.processes().values())
