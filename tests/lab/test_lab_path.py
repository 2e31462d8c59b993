"""The path that must work: from `kubectl apply` of a pool to packets between pods, with real routers in between.

One set of pods serves all tests here: two on n1, one on each of the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from lab.fabric import Lab
from lab.pods import RunningPod
from lab.topology import Host, Node
from tests.eventually import eventually
from tests.lab import world

PORT = 8123
PAIRS = (("n1", "n1b"), ("n1", "n2"), ("n1", "n3"), ("n3", "n4"), ("n4", "n2"))
"""Same node, same rack, across racks; both kinds of router."""


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, RunningPod]]:
    """One pod a node, a second one on n1, reachable from everywhere."""
    with world.running(lab, {"n1": "n1", "n1b": "n1", "n2": "n2", "n3": "n3", "n4": "n4"}) as made:
        addresses = [address for pod in made.values() for address in pod.addresses]
        for network in (lab.network("client"), made["n1"].network(), made["n3"].network()):
            eventually(lambda n=network: world.ping(n, addresses) == set(addresses), within_s=20)  # type: ignore[misc]
        yield made


# ---- objects and tables


def test_the_pools_of_the_fabric_were_accepted_by_the_operator(lab: Lab) -> None:
    for pool in lab.topology.pools:
        found = world.condition(lab, f"{world.CALICO}/ippools/{pool.name}", "Allocatable")
        assert found["status"] == "True", found


def test_every_pod_has_one_address_of_each_family(pods: dict[str, RunningPod]) -> None:
    for pod in pods.values():
        assert [":" in address for address in pod.addresses] == [False, True]


def test_each_address_lies_in_a_confirmed_block_of_its_node_and_is_counted_by_its_handle(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    def all_told() -> bool:
        affinities = {a["spec"]["cidr"]: a["spec"] for a in lab.api.get(f"{world.CALICO}/blockaffinities")["items"]}
        handles = {h["spec"]["handleID"]: h["spec"] for h in lab.api.get(f"{world.CALICO}/ipamhandles")["items"]}
        for pod in pods.values():
            for address in pod.addresses:
                block = world.block_of(lab, address)["spec"]
                assert block["affinity"] == f"host:{pod.node.name}"
                assert affinities[block["cidr"]]["state"] == "confirmed"
                assert affinities[block["cidr"]]["node"] == pod.node.name
                attribute = world.attribute_of(lab, address)
                assert attribute["secondary"]["pod"] == pod.name
                assert handles[attribute["handle_id"]]["block"][block["cidr"]] == 1
        return True

    assert eventually(all_told, within_s=5)


def test_each_block_is_in_every_routers_table(lab: Lab, pods: dict[str, RunningPod]) -> None:
    addresses = {address for pod in pods.values() for address in pod.addresses}
    blocks = {world.block_of(lab, address)["spec"]["cidr"] for address in addresses}
    for router in lab.routers:
        table = router.routes()
        assert not [cidr for cidr in blocks if cidr not in table], router.name


def test_each_block_is_a_route_on_the_other_nodes_and_a_blackhole_under_the_pods_on_its_own(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    fibs = world.all_fibs(lab)
    for pod in pods.values():
        for address in pod.addresses:
            cidr = world.block_of(lab, address)["spec"]["cidr"]
            own = fibs[pod.node.name]
            assert own[cidr]["type"] == "blackhole"
            assert own[str(ip_network(address))]["dev"].startswith("cali")
            for other in lab.nodes:
                if other.name != pod.node.name:
                    assert fibs[other.name][cidr]["gateway"] in _next_hops(lab, other.name, pod.node.name)


def _next_hops(lab: Lab, here: str, there: str) -> set[str]:
    """The rack's router; in the same rack the router names the node itself, which is on the same segment."""
    source, target = lab.topology.node(here), lab.topology.node(there)
    segment = lab.topology.segment(source.segment)
    ends = (target.v4, target.v6) if source.rack == target.rack else (segment.v4.ip, segment.v6.ip)
    return {str(end) for end in ends}


# ---- packets


def test_pods_nodes_and_the_outside_client_reach_every_pod(lab: Lab, pods: dict[str, RunningPod]) -> None:
    addresses = {address for pod in pods.values() for address in pod.addresses}
    machines = [*(node.name for node in lab.nodes), "client"]
    networks = [pod.network() for pod in pods.values()] + [lab.network(name) for name in machines]
    for answered in world.at_once(lambda network: world.ping(network, sorted(addresses)), networks):
        assert answered == addresses


def test_pods_reach_nodes_and_the_outside_client(lab: Lab, pods: dict[str, RunningPod]) -> None:
    places: list[Host | Node] = [*lab.topology.nodes, lab.topology.host("client")]
    addresses = {str(address) for place in places for address in (place.v4, place.v6)}
    networks = [pod.network() for pod in pods.values()]
    for answered in world.at_once(lambda network: world.ping(network, sorted(addresses)), networks):
        assert answered == addresses


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_far_end_of_a_connection_sees_the_pods_own_address(
    lab: Lab, pods: dict[str, RunningPod], family: int
) -> None:
    for here, there in PAIRS:
        source, target = pods[here].addresses[family], pods[there].addresses[family]
        with world.tool_running(pods[there].network(), "serve", str(PORT)):
            answer = world.tool(pods[here].network(), "call", target, str(PORT), "hello")
        assert answer == {"seen": source, "own": source, "echo": "hello"}, (here, there)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_no_address_is_translated_between_pods_nodes_and_the_outside(
    lab: Lab, pods: dict[str, RunningPod], family: int
) -> None:
    places: dict[str, Host | Node] = {
        "n1": lab.topology.node("n1"),
        "n4": lab.topology.node("n4"),
        "client": lab.topology.host("client"),
    }
    pod = pods["n1"]
    for name, place in places.items():
        address = str((place.v4, place.v6)[family])
        with world.tool_running(pod.network(), "serve", str(PORT)):
            inwards = world.tool(lab.network(name), "call", pod.addresses[family], str(PORT), "in")
        with world.tool_running(lab.network(name), "serve", str(PORT)):
            outwards = world.tool(pod.network(), "call", address, str(PORT), "out")
        assert (inwards["seen"], outwards["seen"]) == (address, pod.addresses[family]), name


def test_a_link_to_the_spine_carries_the_pods_packets_as_they_are(lab: Lab, pods: dict[str, RunningPod]) -> None:
    here, there = pods["n1"], pods["n3"]
    mark = world.unique("tortie-mark")
    spine = (lab.network("spine"), "capture", "to-tor1", "--mark")
    with (
        world.tool_running(*spine, mark) as tcp,
        world.tool_running(*spine, "tortie-lab") as icmp,
        world.tool_running(there.network(), "serve", str(PORT)),
    ):
        for address in there.addresses:
            world.tool(here.network(), "call", address, str(PORT), mark)
        assert world.ping(here.network(), there.addresses) == set(there.addresses)
        seen = {(f["source"], f["destination"], f["protocol"]) for f in (*tcp(), *icmp())}
    expected = {
        (*ends, protocol)
        for pair, protocols in zip(zip(here.addresses, there.addresses, strict=True), ((1, 6), (58, 6)), strict=True)
        for ends in (pair, pair[::-1])
        for protocol in protocols
    }
    assert seen == expected


# ---- a pod's own view


def test_a_pod_routes_everything_through_one_gateway_that_is_the_same_everywhere(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    for pod in pods.values():
        routes = json.loads(lab.exec(pod, ["ip", "-j", "route"]).stdout)
        assert [(r["dst"], r.get("gateway", "")) for r in routes if r["dst"] == "default"] == [
            ("default", "169.254.1.1")
        ]
        assert {r["dst"] for r in routes} == {"default", "169.254.1.1"}
        six = json.loads(lab.exec(pod, ["ip", "-j", "-6", "route", "show", "default"]).stdout)
        assert len(six) == 1
        assert six[0]["gateway"].startswith("fe80::")


def test_neighbours_are_static_on_both_sides_of_a_pods_interface(lab: Lab, pods: dict[str, RunningPod]) -> None:
    for pod in pods.values():
        inside = json.loads(lab.exec(pod, ["ip", "-j", "neigh"]).stdout)
        assert "169.254.1.1" in {n["dst"] for n in inside}
        assert {state for n in inside for state in n["state"]} == {"PERMANENT"}
        host = world.fib(lab, pod.node.name)[str(ip_network(pod.ip))]["dev"]
        outside = json.loads(lab.exec(pod.node.name, ["ip", "-j", "neigh", "show", "dev", host]).stdout)
        assert set(pod.addresses) <= {n["dst"] for n in outside}
        assert {state for n in outside for state in n["state"]} == {"PERMANENT"}


def test_a_packet_to_an_unused_address_of_a_block_ends_at_its_node_and_does_not_go_round(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    def trace(target: str) -> list[str]:
        return list(world.tool(lab.network("client"), "trace", target))

    used = [address for name in ("n1", "n3") for address in pods[name].addresses]
    unused = [_unused(lab, address) for address in used]
    for target, hops in zip(used, world.at_once(trace, used), strict=True):
        assert hops[-1] == target, "the positive control: a used address is traced to its end"
    for target, hops in zip(unused, world.at_once(trace, unused), strict=True):
        answered = [hop for hop in hops if hop]
        assert len(set(answered)) == len(answered), f"to {target}: {hops}"
        assert target not in answered


def _unused(lab: Lab, address: str) -> str:
    """A free address of the same block: the last one that was never touched."""
    spec = world.block_of(lab, address)["spec"]
    free = max(n for n, index in enumerate(spec["allocations"]) if index is None)
    return str(ip_network(spec["cidr"])[free])
