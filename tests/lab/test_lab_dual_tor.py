"""Two links a node, one to each router: either may go, and everything on the node stays reachable.

A probe that is on its way into a cable when the cable is cut is lost, and so are those that routers send after it until
they have noticed: that is bounded here by a number of probes. A link that comes back costs at most a handful.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from lab.cabling import pair
from lab.fabric import Lab
from lab.node import LightNode
from lab.pods import RunningPod
from tests.eventually import eventually
from tests.lab.failure_watch import RouteWatch, fib, identity, next_hops, owned, settle, traffic
from tests.lab.world import ping

CUT_COSTS_MAX = 400
"""Probes of 200 a second that one direction may lose when a link is cut: what is lost while routers notice."""
HEAL_COSTS_MAX = 40
"""The same when it is plugged in again."""


@dataclass(frozen=True)
class Rack:
    """A pod on each of the two nodes."""

    lab: Lab
    a: RunningPod
    b: RunningPod

    @property
    def node(self) -> LightNode:
        """The one whose links are cut."""
        return self.a.node

    @property
    def far_blocks(self) -> set[str]:
        """What the other node holds."""
        return owned(self.lab, self.b.node.name)

    def gateways(self, version: int, *tors: str) -> set[str]:
        """The node's next hops at these routers."""
        uplinks = [uplink for uplink in self.node.spec.uplinks if uplink.router in tors]
        return {str(pair(uplink.v4 if version == 4 else uplink.v6)[0]) for uplink in uplinks}

    def goes_over(self, *tors: str) -> bool:
        """Whether the node's routes to the other one's blocks lead over just these routers."""
        blocks = self.far_blocks
        return bool(blocks) and all(
            next_hops(self.node, block) == self.gateways(6 if ":" in block else 4, *tors) for block in blocks
        )


@pytest.fixture(scope="module")
def rack(dual_lab: Lab) -> Iterator[Rack]:
    a, b = dual_lab.run_pod("dual-a", "n1"), dual_lab.run_pod("dual-b", "n2")
    settle(dual_lab)
    yield Rack(dual_lab, a, b)
    a.delete()
    b.delete()


@pytest.fixture(autouse=True)
def whole(rack: Rack) -> Iterator[None]:
    """Every test finds both links in use, and leaves no cable cut."""
    eventually(partial(rack.goes_over, "tor1", "tor2"), within_s=60, what="both links are in use")
    yield
    rack.lab.heal()


def test_routes_go_over_both_links_and_the_nodes_own_address_is_known_as_a_host_route(rack: Rack) -> None:
    for spec in rack.lab.topology.nodes:
        for tor in ("tor1", "tor2"):
            shown = rack.lab.router(tor).routes()
            assert f"{spec.v4}/32 " in shown, tor
            assert f"{spec.v6}/128 " in shown, tor
    own = rack.node.spec
    assert str(own.v4) in rack.node.exec(["ip", "address", "show", "dev", "lo"]).stdout
    assert {f"src {own.v6 if ':' in block else own.v4}" in fib(rack.node, block) for block in rack.far_blocks} == {True}


def test_killed_agent_and_speaker_cost_nothing_on_either_router(rack: Rack) -> None:
    hosts = {f"{rack.node.spec.v4}/32", f"{rack.node.spec.v6}/128"}
    with RouteWatch(rack.lab, owned(rack.lab, "n1") | hosts) as watch, traffic(rack.lab, rack.a, rack.b) as seen:
        for component in ("speaker", "agent"):
            replaced = identity(rack.node, component)
            rack.node.kill(component)
            eventually(replaced, within_s=20)
            settle(rack.lab)
    assert seen.untouched, seen
    assert watch.quiet, watch.__dict__


@pytest.mark.parametrize(("cut", "left"), [("tor1", "tor2"), ("tor2", "tor1")])
def test_with_either_link_cut_pods_kubelet_and_api_stay_reachable(rack: Rack, cut: str, left: str) -> None:
    lab = rack.lab
    with _from_outside(rack) as outside, traffic(lab, rack.a, rack.b) as between:
        lab.cut(cut, "n1")
        eventually(partial(rack.goes_over, left), within_s=5, what=f"the routes of n1 leave the link to {cut}")
        # kubelet, agent and API server find each other over the other link: a pod comes and goes
        made = lab.run_pod(f"dual-during-{cut}", "n1", within_s=60)
        with lab.probing(made, rack.b) as beyond:
            pass
        made.delete(within_s=60)
    assert all(result["lost"] <= CUT_COSTS_MAX for result in (*between.results, *outside)), (between, outside)
    assert not any(result["tcp_breaks"] or result["tcp_bad_blocks"] for result in (*between.results, *outside))
    assert beyond.result["lost"] == 0

    with _from_outside(rack) as outside, traffic(lab, rack.a, rack.b) as between:
        lab.heal(cut, "n1")
        eventually(partial(rack.goes_over, "tor1", "tor2"), within_s=60, what="both links are in use again")
    assert all(result["lost"] <= HEAL_COSTS_MAX for result in (*between.results, *outside)), (between, outside)
    assert not any(result["tcp_breaks"] for result in (*between.results, *outside))


def test_with_both_links_cut_the_probers_do_see_it(rack: Rack) -> None:
    with traffic(rack.lab, rack.a, rack.b) as seen:
        for tor in ("tor1", "tor2"):
            rack.lab.cut(tor, "n1")
        eventually(lambda: min(seen.lost_so_far) > 200, within_s=20)
        rack.lab.heal()
        eventually(partial(rack.goes_over, "tor1", "tor2"), within_s=60, what="both links are in use again")
    settle(rack.lab, within_s=60)


@pytest.mark.parametrize("tor", ["tor1", "tor2"])
def test_a_router_cut_off_from_the_spine_is_gone_around(rack: Rack, tor: str) -> None:
    lab = rack.lab
    places = {rack.a.ip, str(rack.node.spec.v4), rack.a.addresses[-1], str(rack.node.spec.v6)}

    def answer_to(machine: str) -> bool:
        return ping(lab.network(machine), sorted(places)) == places

    with _from_outside(rack) as outside, traffic(lab, rack.a, rack.b) as between:
        lab.cut("spine", tor)
        for machine in ("client", lab.topology.control_plane):
            eventually(partial(answer_to, machine), within_s=30)
        lab.heal("spine", tor)
        settle(lab, within_s=60)
    assert between.untouched, between
    assert all(result["lost"] <= CUT_COSTS_MAX for result in outside), outside
    assert not any(result["tcp_breaks"] for result in outside)


@contextlib.contextmanager
def _from_outside(rack: Rack) -> Iterator[list[dict[str, Any]]]:
    """Probes from the client to the pod and to the node's own address, counted when the block is over."""
    results: list[dict[str, Any]] = []
    node = str(rack.node.spec.v4)
    with rack.lab.probing("client", rack.a) as to_pod, rack.lab.probing("client", "n1", to=node) as to_node:
        yield results
    results += [to_pod.result, to_node.result]
