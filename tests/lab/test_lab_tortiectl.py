"""`tortiectl` and `tortie-lab` as people and programs call them, on a fabric that works and on one that is cut."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab.fabric import Lab
from lab.node import script
from lab.pods import RunningPod
from tests.eventually import eventually
from tests.lab import world


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, RunningPod]]:
    """One pod on each of two racks, reachable."""
    with world.running(lab, {"here": "n1", "there": "n3"}) as made:
        for pod in made.values():
            eventually(lambda p=pod: world.ping(lab.network("client"), p.addresses) == set(p.addresses))  # type: ignore[misc]
            for address in pod.addresses:
                eventually(lambda a=address: world.attribute_of(lab, a))  # type: ignore[misc]
        yield made


def _tortiectl(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    command = [script("tortiectl"), "--kubeconfig", str(lab.kubeconfig), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _tortie_lab(lab: Lab, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    line = [script("tortie-lab"), command, "--name", lab.name, *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


def _data(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


# ---- tortiectl


def test_version_names_program_and_cluster(lab: Lab) -> None:
    data = _data(_tortiectl(lab, "version", "-o", "json"))
    assert data["serverVersion"].startswith("v1.36")
    guid = lab.api.get(f"{world.CALICO}/clusterinformations/default")["spec"]["clusterGUID"]
    assert data["clusterGUID"] == guid
    assert guid in _tortiectl(lab, "version").stdout


def test_node_status_shows_every_session_of_every_node_and_succeeds_when_all_are_up(lab: Lab) -> None:
    done = _tortiectl(lab, "node", "status", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = {(node["node"], peer["peerIP"]): peer["state"] for node in _data(done) for peer in node["peers"]}
    expected = {}
    for node in lab.topology.nodes:
        segment = lab.topology.segment(node.segment)
        for gateway in (segment.v4.ip, segment.v6.ip):
            expected[(node.name, str(gateway))] = "Established"
    assert found == expected
    table = _tortiectl(lab, "node", "status").stdout
    assert table.splitlines()[0].split()[:3] == ["NODE", "PEER", "ADDRESS"]
    assert table.count("Established") == len(expected)


def test_node_status_fails_and_says_which_session_is_down(lab: Lab) -> None:
    peer = world.calico("BGPPeer", world.unique("silent"), {"node": "n2", "peerIP": "10.1.1.200", "asNumber": 65200})
    with world.applied(lab, peer):

        def told() -> bool:
            done = _tortiectl(lab, "node", "status", "n2", "-o", "json")
            states = {p["peerIP"]: p["state"] for node in _data(done) for p in node["peers"]}
            assert states["10.1.1.1"] == "Established"
            return states.get("10.1.1.200", "Established") != "Established" and done.returncode == 1

        eventually(told, within_s=20, every_s=0.5)


def test_node_status_of_a_node_that_is_not_there_is_an_error_in_one_sentence(lab: Lab) -> None:
    done = _tortiectl(lab, "node", "status", "n77")
    assert done.returncode == 1
    assert "there is no node n77" in done.stderr
    assert "Traceback" not in done.stderr


def test_ipam_show_counts_pools_and_blocks_and_knows_who_has_an_address(lab: Lab, pods: dict[str, RunningPod]) -> None:
    pools = {pool["pool"]: pool for pool in _data(_tortiectl(lab, "ipam", "show", "-o", "json"))}
    assert {"pods-v4", "pods-v6"} <= set(pools)
    assert pools["pods-v4"]["total"] == 65536
    assert pools["pods-v4"]["inUse"] >= 2
    blocks = _data(_tortiectl(lab, "ipam", "show", "--show-blocks", "-o", "json"))
    owners = {block["cidr"]: block["node"] for pool in blocks for block in pool["blocks"]}
    for pod in pods.values():
        for address in pod.addresses:
            assert owners[world.block_of(lab, address)["spec"]["cidr"]] == pod.node.name
    found = _data(_tortiectl(lab, "ipam", "show", f"--ip={pods['here'].ip}", "-o", "json"))
    assert found["inUse"] is True
    assert pods["here"].name in json.dumps(found)
    free = _data(_tortiectl(lab, "ipam", "show", "--ip=10.244.255.254", "-o", "json"))
    assert free["inUse"] is False


def test_bgp_routes_shows_what_each_node_heard_and_what_its_kernel_uses(lab: Lab, pods: dict[str, RunningPod]) -> None:
    cidr = world.block_of(lab, pods["there"].ip)["spec"]["cidr"]
    rows = _data(_tortiectl(lab, "bgp", "routes", "n1", "--prefix", cidr, "-o", "json"))
    used = next(row for row in rows if row["destination"] == cidr)
    assert (used["node"], used["type"], used["gateway"]) == ("n1", "FIB", "10.1.1.1")
    assert used["asPath"] == [65101, 65000, 65102, 65003]
    refused = _data(_tortiectl(lab, "bgp", "routes", "n1", "--prefix", "10.8.0.0/24", "-o", "json"))
    row = next(row for row in refused if row["destination"] == "10.8.0.0/24")
    assert row["type"] != "FIB"
    assert "in no address pool" in row["reason"]


# ---- tortie-lab


def test_lab_status_is_data_too(lab: Lab, pods: dict[str, RunningPod]) -> None:
    data = _data(_tortie_lab(lab, "status", "-o", "json"))
    assert {node["name"] for node in data["nodes"]} == {"n1", "n2", "n3", "n4"}
    assert {router["name"]: router["up"] for router in data["routers"]} == dict.fromkeys(
        ("spine", "tor1", "tor2"), True
    )
    assert {pod.name for pod in pods.values()} <= {pod["name"] for pod in data["pods"]}
    assert data["cut"] == []


def test_lab_exec_runs_on_nodes_in_pods_and_asks_routers(lab: Lab, pods: dict[str, RunningPod]) -> None:
    assert "10.1.1.11" in _tortie_lab(lab, "exec", "n1", "--", "ip", "address").stdout
    assert pods["here"].ip in _tortie_lab(lab, "exec", pods["here"].name, "--", "ip", "address").stdout
    cidr = world.block_of(lab, pods["here"].ip)["spec"]["cidr"]
    assert cidr in _tortie_lab(lab, "exec", "tor1", "--", "birdc", "show", "route").stdout
    assert cidr in _tortie_lab(lab, "exec", "tor2", "--", "vtysh", "-c", "show ip route bgp").stdout
    wrong = _tortie_lab(lab, "exec", "nowhere", "--", "true")
    assert wrong.returncode == 1
    assert "there is no 'nowhere'" in wrong.stderr


def test_lab_ping_fails_while_a_cable_is_cut_and_is_well_again_when_it_is_healed(
    lab: Lab, pods: dict[str, RunningPod]
) -> None:
    names = {pod.name for pod in pods.values()}
    healthy = _tortie_lab(lab, "ping", "-o", "json")
    cells = _data(healthy)
    assert healthy.returncode == 0, cells
    assert all(set(cell) == {"from", "to", "ok", "ms"} for cell in cells)
    assert names <= {cell["to"] for cell in cells}
    assert _tortie_lab(lab, "cut", "tor2", "n4").returncode == 0
    try:
        assert _data(_tortie_lab(lab, "status", "-o", "json"))["cut"]
        broken = _tortie_lab(lab, "ping", "-o", "json")
        assert broken.returncode == 1
        failed = {(cell["from"], cell["to"]) for cell in _data(broken) if not cell["ok"] and cell["to"] in names}
        assert failed == {("n4", name) for name in names}
    finally:
        assert _tortie_lab(lab, "heal").returncode == 0
    eventually(lambda: _tortie_lab(lab, "ping", "-o", "json").returncode == 0, within_s=30)
