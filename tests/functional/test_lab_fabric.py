"""The bare fabric, without Kubernetes: kernel objects and routers of both topologies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import builder, cabling, topology
from lab.builder import NETNS_DIRECTORY, namespace
from lab.fabric_routers import FabricRouter
from lab.pods import PROBE
from tests.eventually import eventually

pytestmark = pytest.mark.root

LAB = f"f{os.getpid()}"


class Fabric:
    """Namespaces and running routers of one topology."""

    def __init__(self, which: str, directory: Path) -> None:
        self.topology = topology.load(topology.find(which))
        self.plan = cabling.plan(self.topology)
        self.routers = [FabricRouter(LAB, self.topology, r, directory / r.name) for r in self.topology.routers]

    def reaches(self, source: str, *addresses: object) -> bool:
        """Whether every address answers a ping from a machine."""
        command = ["nsenter", f"--net={NETNS_DIRECTORY / namespace(LAB, source)}", sys.executable, str(PROBE), "ping"]
        done = subprocess.run([*command, *map(str, addresses)], capture_output=True, text=True, check=True)
        return None not in json.loads(done.stdout).values()


@pytest.fixture(scope="module", params=["default", "dual-tor"])
def fabric(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    made = Fabric(request.param, tmp_path_factory.mktemp("routers"))
    try:
        builder.build(made.plan, lab=LAB)
        for router in made.routers:
            router.start()
        yield made
    finally:
        for router in made.routers:
            router.stop()
        builder.destroy(lab=LAB)


def _link_addresses(fabric: Fabric) -> list[object]:
    """An address of every node that the fabric knows without any node's help."""
    nodes = fabric.topology.nodes
    plain = [address for node in nodes if node.segment for address in (node.v4, node.v6)]
    return plain + [cabling.pair(net)[1] for node in nodes for up in node.uplinks for net in (up.v4, up.v6)]


def test_client_and_control_plane_reach_every_node_over_the_spine_in_both_families(fabric: Fabric) -> None:
    control = fabric.topology.host(fabric.topology.control_plane)
    targets = [*_link_addresses(fabric), control.v4, control.v6]
    eventually(lambda: fabric.reaches("client", *targets), within_s=20, what="the routers converge")
    assert fabric.reaches("cp", *_link_addresses(fabric))


def test_every_router_has_a_session_for_each_family_with_each_fellow(fabric: Fabric) -> None:
    for router in fabric.routers:
        fellows = sum(router.name in link.ends for link in fabric.topology.links)
        eventually(lambda r=router, n=fellows: r.established() == 2 * n, within_s=20, what=f"{router.name} peers")


def test_a_cut_cable_stops_traffic_and_a_healed_one_carries_it_again(fabric: Fabric) -> None:
    cable = fabric.plan.cable("spine", "client")
    gateway = fabric.topology.segment("outside")
    eventually(lambda: fabric.reaches("client", gateway.v4.ip, gateway.v6.ip))
    builder.cut(cable, lab=LAB)
    assert builder.is_cut(cable, lab=LAB)
    assert not fabric.reaches("client", gateway.v4.ip)
    builder.heal(cable, lab=LAB)
    assert not builder.is_cut(cable, lab=LAB)
    eventually(lambda: fabric.reaches("client", gateway.v4.ip, gateway.v6.ip), within_s=20)


def test_destroying_leaves_no_namespace_and_may_be_repeated() -> None:
    lab = f"{LAB}x"
    plan = cabling.plan(topology.load(topology.find("default")))
    builder.build(plan, lab=lab)
    assert builder.destroy(lab=lab) == sorted(namespace(lab, name) for name in plan.machines)
    assert builder.namespaces(lab) == []
    assert builder.destroy(lab=lab) == []
