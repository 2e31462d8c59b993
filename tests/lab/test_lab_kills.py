"""Whatever dies, pods talk on: each part of Tortie is killed under traffic, and nobody notices.

Two nodes are hit at once, one behind a BIRD, one behind an FRR router, so that every case is seen by both. The last
test is the control: with graceful restart turned off the same kill must cost probes, or the others have shown nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from lab import routers
from lab.fabric import Lab
from lab.node import LightNode
from lab.pods import RunningPod
from lab.routers_run import Bird
from tests.eventually import eventually
from tests.lab.failure_watch import RouteWatch, identity, next_hops, owned, settle, starts, traffic

KILLS = 8


@dataclass(frozen=True)
class Stage:
    """A pod in each rack, and the two nodes that will be hit."""

    lab: Lab
    a: RunningPod
    b: RunningPod

    @property
    def victims(self) -> tuple[LightNode, LightNode]:
        return self.a.node, self.b.node

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.victims]

    @property
    def blocks(self) -> set[str]:
        return owned(self.lab, *self.names)


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Iterator[Stage]:
    a, b = lab.run_pod("kills-a", "n1"), lab.run_pod("kills-b", "n3")
    settle(lab)
    yield Stage(lab, a, b)
    a.delete()
    b.delete()


def _kill_on(nodes: tuple[LightNode, ...], component: str) -> None:
    """SIGKILL on every one of these nodes, and return when another process plays the part."""
    replaced = [(node, identity(node, component)) for node in nodes]
    for node in nodes:
        node.kill(component)
    for node, is_replaced in replaced:
        eventually(is_replaced, within_s=20, what=f"{component} runs again on {node.name}")


@pytest.mark.parametrize("component", ["agent", "exabgp", "relay", "speaker", "kubelet"])
def test_a_killed_component_costs_no_probe_and_no_route(stage: Stage, component: str) -> None:
    with RouteWatch(stage.lab, stage.blocks) as watch, traffic(stage.lab, stage.a, stage.b) as seen:
        _kill_on(stage.victims, component)
        settle(stage.lab, nodes=stage.names)
    assert seen.untouched, seen
    assert watch.quiet, watch.__dict__


def test_eight_speaker_kills_in_a_row_cost_nothing_with_the_agent_there_or_away(stage: Stage) -> None:
    without = stage.victims[1]
    without.hold("agent")
    try:
        with RouteWatch(stage.lab, stage.blocks) as watch, traffic(stage.lab, stage.a, stage.b) as seen:
            before = [starts(node, "speaker") for node in stage.victims]
            for _ in range(KILLS):
                _kill_on(stage.victims, "speaker")
                settle(stage.lab, nodes=stage.names, without_agent=[without.name])
            assert [starts(node, "speaker") for node in stage.victims] == [count + KILLS for count in before]
    finally:
        without.release("agent")
    assert seen.untouched, seen
    assert watch.quiet, watch.__dict__
    settle(stage.lab)


def test_an_operator_that_is_killed_costs_nothing(stage: Stage) -> None:
    keeper = stage.lab.operator.pid
    with RouteWatch(stage.lab, stage.blocks) as watch, traffic(stage.lab, stage.a, stage.b) as seen:
        before = _only_child(keeper)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: _only_child(keeper) not in {0, before}, within_s=20)
        settle(stage.lab, nodes=stage.names)
    assert seen.untouched, seen
    assert watch.quiet, watch.__dict__


def _only_child(pid: int | None) -> int:
    return int((Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0])


def test_an_api_server_that_is_killed_costs_nothing_not_even_with_agent_and_speaker_dying_meanwhile(
    stage: Stage,
) -> None:
    with RouteWatch(stage.lab, stage.blocks) as watch, traffic(stage.lab, stage.a, stage.b) as seen:
        stage.lab.control_plane.kill_apiserver()
        try:
            for component in ("agent", "speaker", "kubelet"):
                _kill_on(stage.victims, component)
        finally:
            stage.lab.control_plane.start_apiserver()
        settle(stage.lab, nodes=stage.names)
    assert seen.untouched, seen
    assert watch.quiet, watch.__dict__


# --- the control: the watchers do see loss


@pytest.fixture
def forgetful_tor(stage: Stage) -> Iterator[Bird]:
    """tor1 without graceful restart: a session that ends takes its routes along at once."""
    tor = stage.lab.router("tor1")
    process = tor.process
    assert isinstance(process, Bird)
    topology = stage.lab.topology
    hasty = replace(topology, bgp=replace(topology.bgp, graceful_restart=False))
    process.configure(routers.bird(hasty, tor.spec))
    _whole_again(stage)
    yield process
    process.configure(tor.text)
    _whole_again(stage)


def _whole_again(stage: Stage) -> None:
    """Both sides' routes are back after the sessions were made anew."""
    settle(stage.lab)
    for node, others in zip(stage.victims, reversed(stage.victims), strict=True):
        for prefix in owned(stage.lab, others.name):
            eventually(partial(next_hops, node, prefix), within_s=30, what=f"{prefix} known")


@pytest.mark.parametrize("component", ["exabgp", "speaker"])
def test_the_same_kill_without_graceful_restart_does_cost_probes_and_routes(
    stage: Stage, forgetful_tor: Bird, component: str
) -> None:
    with RouteWatch(stage.lab, stage.blocks) as watch, traffic(stage.lab, stage.a, stage.b) as seen:
        _kill_on(stage.victims[:1], component)
        settle(stage.lab)
    _whole_again(stage)
    assert seen.lost > 0
    assert {machine for machine, _ in watch.removed} >= {"tor1", "spine"}
