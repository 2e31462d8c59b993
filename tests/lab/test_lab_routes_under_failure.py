"""Routes that come and go while something is broken: a dead agent, a silent peer, a cut cable, a dead router.

What must stay stays (no probe lost, nothing withdrawn); what has really gone is told to the others, and forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from lab.fabric import Lab
from lab.pods import RunningPod
from lab.routers_run import Bird
from tests.eventually import eventually
from tests.lab.failure_watch import (
    RouteWatch,
    Traffic,
    agent_is_ready,
    fib,
    next_hops,
    owned,
    settle,
    speaker_is_well,
    traffic,
)
from tests.lab.world import Json, applied, calico, delete, inconsistencies, ping, running

NOBODY = "10.1.1.99"
"""An address in rack1 that no machine has."""
RACK1 = {"nodeSelector": "rack == 'rack1'", "asNumber": 65101}


@pytest.fixture(autouse=True)
def fabric_as_it_was(lab: Lab) -> Iterator[None]:
    """Cables whole, nodes and routers running with their own configuration."""
    yield
    lab.heal()
    for node in lab.nodes:
        for component in ("agent", "speaker"):
            node.release(component)
        if not node.running:
            node.start()
    settle(lab, within_s=60)


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, RunningPod]]:
    """A pod on each of three nodes, two of them in one rack."""
    with running(lab, {"n1": "n1", "n2": "n2", "n3": "n3"}) as made:
        yield made


# --- an agent that is away while the world moves on


class Churn:
    """Routes inside the pools that the spine says, or no longer: blocks of nodes that come and go."""

    def __init__(self, lab: Lab) -> None:
        self._spine = lab.router("spine")

    def say(self, *prefixes: str) -> None:
        """From now on the spine originates these alone."""
        process = self._spine.process
        assert isinstance(process, Bird)
        routes = "".join(f" route {prefix} blackhole;" for prefix in prefixes)
        process.configure(f"{self._spine.text}\nprotocol static churn {{ ipv4;{routes} }}\n")


@dataclass(frozen=True)
class Departed:
    """How traffic of a node fared whose agent died while routes changed and a peer was dead for good."""

    seen: Traffic
    watch: RouteWatch
    came: str
    stayed: str
    went: str


@pytest.fixture(scope="module")
def departed(lab: Lab, pods: dict[str, RunningPod]) -> Iterator[Departed]:
    """Node n2 throughout, for the kills of other tests must not disturb it: its sweep waits for the dead peer."""
    churn, node = Churn(lab), lab.node("n2")
    stayed, went, came = "10.244.248.0/26", "10.244.249.0/26", "10.244.250.0/26"
    dead = calico("BGPPeer", "nobody", {"node": "n2", "peerIP": NOBODY, "asNumber": 65199})
    with applied(lab, dead):
        churn.say(stayed, went)
        eventually(lambda: next_hops(node, stayed) and next_hops(node, went), within_s=30)
        settle(lab)
        kept = owned(lab, "n2", "n3")
        with RouteWatch(lab, {*kept, stayed}) as watch, traffic(lab, pods["n2"], pods["n3"]) as seen:
            node.hold("agent")
            eventually(lambda: not agent_is_ready(node))
            with running(lab, {"churn": "n4"}) as others:  # its block may be new, its address is
                churn.say(stayed, came)
                node.release("agent")
                eventually(partial(agent_is_ready, node), within_s=30)
                node.kill("agent")
                eventually(partial(next_hops, node, came), within_s=30, what="a route that came meanwhile")
                assert ping(pods["n2"].network(), others["churn"].addresses) == set(others["churn"].addresses)
            settle(lab)
        yield Departed(seen, watch, came, stayed, went)
        churn.say()
        eventually(lambda: not fib(node, came), within_s=30)
    lab.router("spine").process.configure(lab.router("spine").text)


def test_an_agent_that_is_killed_while_routes_change_and_a_peer_is_dead_loses_nothing(departed: Departed) -> None:
    assert departed.seen.untouched, departed.seen
    assert departed.watch.quiet, departed.watch.__dict__


# --- cables and routers


@contextlib.contextmanager
def quick_hold(lab: Lab) -> Iterator[None]:
    """Sessions of rack1 that notice a silent end within nine seconds instead of ninety."""
    found = lab.api.get("/apis/projectcalico.org/v3/bgppeers")["items"]
    names = [item["metadata"]["name"] for item in found if item["metadata"]["name"].startswith("rack1-")]
    for keepalive in ("3s", None):
        for name in names:
            lab.api.patch(f"/apis/projectcalico.org/v3/bgppeers/{name}", {"spec": {"keepaliveTime": keepalive}})
        _sessions_are_new(lab)
        if keepalive:
            yield


def _sessions_are_new(lab: Lab) -> None:
    """Configured as wanted now, up again, and every rack1 block known in the other rack."""
    settle(lab, within_s=60)
    for prefix in owned(lab, "n1", "n2"):
        eventually(partial(next_hops, lab.node("n3"), prefix), within_s=30, what=f"n3 knows {prefix}")


def test_a_node_that_loses_its_only_link_is_withdrawn_comes_back_by_itself_and_hurts_nobody(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    lone, near, far = pods["n1"], pods["n2"], pods["n3"]
    blocks = owned(lab, "n1")
    with quick_hold(lab):
        with RouteWatch(lab, owned(lab, "n2", "n3")) as others, traffic(lab, near, far) as unhurt:
            with traffic(lab, lone, far) as hurt:
                lab.cut("tor1", "n1")
                for prefix in blocks:
                    gone = lambda prefix=prefix: not fib(far.node, prefix)  # noqa: E731
                    eventually(gone, within_s=40, what=f"others are told that {prefix} is gone")
                lab.heal("tor1", "n1")
                for prefix in blocks:
                    eventually(partial(next_hops, far.node, prefix), within_s=60, what=f"{prefix} is back")
            settle(lab, within_s=60)
        assert hurt.lost > 400, "the control: who is cut off loses"
        assert unhurt.untouched, unhurt
        assert {who for who, _ in others.removed} <= {"n1"}, others.removed
        assert ping(far.network(), lone.addresses) == set(lone.addresses)
        assert owned(lab, "n1") == blocks


def test_a_cable_that_is_out_for_a_moment_ends_no_session(lab: Lab, pods: dict[str, RunningPod]) -> None:
    with RouteWatch(lab, owned(lab, "n1", "n3")) as watch, traffic(lab, pods["n1"], pods["n3"]) as seen:
        lab.cut("tor1", "n1")
        eventually(lambda: min(seen.lost_so_far) > 20, within_s=20)
        lab.heal("tor1", "n1")
        eventually(lambda: ping(pods["n3"].network(), pods["n1"].addresses) == set(pods["n1"].addresses), within_s=20)
        settle(lab)
    # n1 itself cannot reach its router meanwhile, and says so in its own table
    assert {who for who, _ in watch.removed} <= {"n1"}, watch.removed
    assert not watch.missing, watch.missing
    assert not any(result["tcp_breaks"] or result["tcp_bad_blocks"] for result in seen.results), seen


FRR_COSTS_MAX = 300
"""FRR's zebra drops its routes when a new bgpd comes, until that one has said them again: its own doing."""


@pytest.mark.parametrize(("tor", "costs"), [("tor1", 0), ("tor2", FRR_COSTS_MAX)])
def test_a_router_whose_bgp_is_killed_and_started_again_keeps_the_nodes_routes(
    lab: Lab, pods: dict[str, RunningPod], tor: str, costs: int
) -> None:
    router = lab.router(tor)
    blocks = owned(lab, "n1", "n2", "n3", "n4")
    with RouteWatch(lab, blocks, tors=()) as watch, traffic(lab, pods["n1"], pods["n3"]) as seen:
        router.kill_bgp()
        router.start()
        settle(lab, within_s=90)
    assert {who for who, _ in watch.removed} <= ({tor} if costs else set()), watch.removed
    assert all(result["lost"] <= costs for result in seen.results), seen
    assert not any(result["tcp_breaks"] or result["tcp_bad_blocks"] for result in seen.results), seen


# --- sessions that are changed by objects


def test_a_mesh_leads_over_the_kernels_own_table_to_a_node_in_another_rack(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    here, there = pods["n1"], pods["n3"]
    theirs = owned(lab, "n3")
    gateways = {4: "10.1.1.1", 6: "fd00:1:1::1"}

    def heard_directly(prefix: str) -> bool:
        spec = there.node.spec
        return str(spec.v6 if ":" in prefix else spec.v4) in _learned_from(lab, "n1", prefix)

    def over_the_router(prefix: str) -> bool:
        return next_hops(here.node, prefix) == {gateways[6 if ":" in prefix else 4]}

    with traffic(lab, here, there) as seen:
        try:
            _mesh(lab, "true")
            for prefix in theirs:
                eventually(partial(heard_directly, prefix), within_s=40, what=f"n1 hears {prefix} from its owner")
                eventually(partial(over_the_router, prefix))
        finally:
            _mesh(lab, "false")
        for prefix in theirs:
            eventually(lambda prefix=prefix: not heard_directly(prefix), within_s=30)  # type: ignore[misc]
        delete(lab, "/apis/projectcalico.org/v3/caliconodestatuses/asked-n1")
        settle(lab)
    assert seen.untouched, seen


def _mesh(lab: Lab, wanted: str) -> None:
    spec = {"nodeToNodeMeshEnabled": wanted == "true"}
    lab.api.patch("/apis/projectcalico.org/v3/bgpconfigurations/default", {"spec": spec})


def _learned_from(lab: Lab, node: str, prefix: str) -> set[str]:
    """The neighbours whose route to this prefix a node uses, as it says when it is asked."""
    answer: Json = node_status(lab, node)
    family = "routesV6" if ":" in prefix else "routesV4"
    found = answer.get("status", {}).get("routes", {}).get(family, [])
    return {entry["learnedFrom"].get("peerIP", "") for entry in found if entry.get("destination") == prefix}


def node_status(lab: Lab, node: str) -> Json:
    """What a node's agent says of itself in a CalicoNodeStatus."""
    name, path = f"asked-{node}", "/apis/projectcalico.org/v3/caliconodestatuses"
    with contextlib.suppress(Exception):
        spec = {"node": node, "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 1}
        lab.api.post(path, calico("CalicoNodeStatus", name, spec))
    found: Json = lab.api.get(f"{path}/{name}")
    return found


KEY = "s3cret, with spaces"


def test_a_password_from_a_secret_brings_the_session_up_and_a_wrong_one_does_not(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    tor = lab.router("tor1")
    process = tor.process
    assert isinstance(process, Bird)
    peer = "/apis/projectcalico.org/v3/bgppeers/rack1-tor1-v4"
    blocks = {prefix for prefix in owned(lab, "n1", "n2") if ":" not in prefix}
    keyed = tor.text
    for node in ("n1", "n2"):
        keyed = keyed.replace(
            f"protocol bgp {node}_v4 from fabric {{", f'protocol bgp {node}_v4 from fabric {{ password "{KEY}";'
        )
    _secret(lab, "wrong")
    try:
        process.configure(keyed)
        lab.api.patch(peer, {"spec": {"password": {"secretKeyRef": {"name": "tor1", "key": "password"}}}})
        eventually(lambda: _down(tor.sessions(), "n1_v4", "n2_v4"), within_s=30)
        for name in ("n1", "n2"):
            eventually(partial(speaker_is_well, lab.node(name)), within_s=30)
        assert _down(tor.sessions(), "n1_v4", "n2_v4")
        _secret(lab, KEY)
        settle(lab, within_s=60)
        eventually(lambda: all(f"{prefix} " in tor.routes() for prefix in blocks), within_s=30)
    finally:
        process.configure(tor.text)
        lab.api.patch(peer, {"spec": {"password": None}})
        lab.api.delete("/api/v1/namespaces/tortie-system/secrets/tor1")
        _sessions_are_new(lab)
    assert ping(pods["n1"].network(), pods["n3"].addresses) == set(pods["n3"].addresses)


def _secret(lab: Lab, text: str) -> None:
    meta = {"name": "tor1", "namespace": "tortie-system"}
    lab.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"password": text}}])


def _down(shown: str, *symbols: str) -> bool:
    """BIRD's words on these sessions: none of them up."""
    lines = [line for line in shown.splitlines() if line.split()[:1] and line.split()[0] in symbols]
    return len(lines) == len(symbols) and not any("Established" in line for line in lines)


def test_a_peer_that_is_removed_hears_withdrawals_first_and_is_not_left_with_stale_routes(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    tor = lab.router("tor1")
    path = "/apis/projectcalico.org/v3/bgppeers/rack1-tor1-v6"
    held = lab.api.get(path)
    blocks = {prefix for prefix in owned(lab, "n1", "n2") if ":" in prefix}
    fours = {prefix for prefix in owned(lab, "n1", "n2") if ":" not in prefix}
    with RouteWatch(lab, fours) as watch:
        lab.api.delete(path)
        # Far within the graceful-restart time of 120 s, in which a silent close would leave them there.
        eventually(lambda: not any(f"{prefix} " in tor.routes() for prefix in blocks), within_s=30)
        lab.apply(
            [{key: held[key] for key in ("apiVersion", "kind")} | calico("BGPPeer", "rack1-tor1-v6", held["spec"])]
        )
        eventually(lambda: all(f"{prefix} " in tor.routes() for prefix in blocks), within_s=60)
    assert watch.quiet, watch.__dict__
    assert ping(pods["n3"].network(), pods["n1"].addresses) == set(pods["n1"].addresses)


# --- a whole node


def test_a_node_that_dies_whole_comes_back_with_the_same_blocks_and_leaks_no_address(lab: Lab) -> None:
    node = lab.node("n4")
    with running(lab, {"stays": "n4", "goes": "n4"}) as made:
        blocks = owned(lab, "n4")
        node.stop()
        lab.api.delete(f"{made['goes'].path}?gracePeriodSeconds=0")
        node.start()
        eventually(lambda: _running_again(lab, made["stays"]), within_s=60, what="the pod runs again")
        settle(lab, within_s=60)
        assert owned(lab, "n4") == blocks
        eventually(lambda: _answers(lab, lab.pod(made["stays"].name)), within_s=30, what="the pod answers the client")
        eventually(lambda: not inconsistencies(lab), within_s=30)
    eventually(lambda: not inconsistencies(lab), within_s=30)
    eventually(lambda: not _held(lab, blocks), within_s=30, what="every address of the node's pods is free")


def _running_again(lab: Lab, pod: RunningPod) -> bool:
    """Whether the pod has a sandbox that its node has now."""
    return lab.pod(pod.name).exec(["true"]).returncode == 0


def _answers(lab: Lab, pod: RunningPod) -> bool:
    """Whether the outside client reaches the pod by all its addresses."""
    return ping(lab.network("client"), pod.addresses) == set(pod.addresses)


def _held(lab: Lab, blocks: set[str]) -> int:
    """How many addresses of these blocks somebody has, those aside that wait out their cool-down."""
    found = lab.api.get("/apis/projectcalico.org/v3/ipamblocks")["items"]
    count = 0
    for item in found:
        spec = item["spec"]
        if spec["cidr"] in blocks:
            freed = {i for i, attribute in enumerate(spec["attributes"]) if attribute.get("releasedAt")}
            count += sum(index is not None and index not in freed for index in spec["allocations"])
    return count


# --- last, for it takes as long as a peer that never answered may hold it up


def test_the_route_that_went_meanwhile_is_swept_in_the_end_though_one_peer_never_answers(
    lab: Lab, departed: Departed
) -> None:
    node = lab.node("n2")
    assert next_hops(node, departed.stayed)
    eventually(lambda: not fib(node, departed.went), within_s=180, what="the route that is gone is swept")
    assert next_hops(node, departed.stayed)
    assert next_hops(node, departed.came)
