"""Routers and pods that mean harm: what they announce diverts nothing, what they flood with fills no table.

The rogue is a BIRD of its own on rack 1's segment, which somebody made a BGP peer of n1. Each "nothing happened" has a
positive control in the same test: the same rogue's prefix that a BGPFilter accepts is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from lab.fabric import Lab
from lab.routers_run import Bird
from tests.eventually import eventually
from tests.lab import world

ROGUE = "10.1.1.66"
ROGUE_ASN = 65066
ACCEPTED = "192.0.2.0/24"
"""What the BGPFilter lets in: the control that shows that the rogue is heard at all."""


def _text(prefixes: list[str]) -> str:
    """A router that announces `prefixes`, with itself as next hop, to n1."""
    routes = "\n".join(f"  route {prefix} blackhole;" for prefix in prefixes)
    return f"""
log stderr all;
router id {ROGUE};
protocol device {{}}
protocol static {{
  ipv4;
{routes}
}}
protocol bgp n1 {{
  local {ROGUE} as {ROGUE_ASN};
  neighbor 10.1.1.11 as 65001;
  connect retry time 1;
  error wait time 1, 2;
  ipv4 {{ import all; export all; next hop self; }};
}}
"""


@contextmanager
def _rogue(lab: Lab, directory: Path, prefixes: list[str]) -> Iterator[Bird]:
    """The rogue and the objects that let it in, for the length of a `with` block; yields when its session is up."""
    rules = {"importV4": [{"action": "Accept", "matchOperator": "Equal", "cidr": ACCEPTED}]}
    filters = world.calico("BGPFilter", world.unique("lets-in"), rules)
    spec = {"node": "n1", "peerIP": ROGUE, "asNumber": ROGUE_ASN, "filters": [filters["metadata"]["name"]]}
    peer = world.calico("BGPPeer", world.unique("rogue"), spec)
    with world.stranger(lab, "tor1", "rack1", ROGUE) as netns, world.applied(lab, filters, peer):
        bird = Bird(name="rogue", directory=directory, netns=netns)
        bird.start(_text(prefixes))
        try:
            eventually(lambda: "Established" in bird.ask("show", "protocols", "n1"), within_s=30)
            yield bird
        finally:
            bird.kill()


def _via_rogue(lab: Lab) -> set[str]:
    return {dst for dst, route in world.fib(lab, "n1").items() if ROGUE in json.dumps(route)}


def test_a_rogue_router_diverts_neither_blocks_nor_nodes_nor_the_api_server(lab: Lab, tmp_path: Path) -> None:
    with world.running(lab, {"own": "n1", "far": "n3"}) as pods:
        own, far = pods["own"], pods["far"]
        eventually(lambda: world.ping(far.network(), [own.ip]) == {own.ip})
        block = ip_network(world.block_of(lab, own.ip)["spec"]["cidr"])
        before = world.all_fibs(lab)
        wicked = [
            "0.0.0.0/0",
            "0.0.0.0/1",
            str(block),
            *(str(half) for half in block.subnets()),
            f"{own.ip}/32",
            f"{block[-2]}/32",
            "10.8.0.10/32",
            "10.8.0.0/24",
            "10.1.1.11/32",
            "10.1.1.12/32",
            "10.1.2.13/32",
            "10.96.0.1/32",
            "169.254.1.1/32",
        ]
        with _rogue(lab, tmp_path, [*wicked, ACCEPTED]), lab.probing("client", own) as probing:
            eventually(lambda: _via_rogue(lab) == {ACCEPTED}, within_s=20, what="the control is installed")
            after = world.all_fibs(lab)
            assert after["n1"].pop(ACCEPTED)
            assert after == before
            assert world.ping(own.network(), [far.ip, "10.8.0.10", "10.1.2.13"]) == {far.ip, "10.8.0.10", "10.1.2.13"}
            assert world.ping(lab.network("n1"), ["10.8.0.10", own.ip]) == {"10.8.0.10", own.ip}
            heard = [row for row in _routes_of(lab, "n1") if row["learnedFrom"].get("peerIP") == ROGUE]
            assert {row["destination"] for row in heard} == {*wicked, ACCEPTED}
            assert all(row["reason"] for row in heard if row["destination"] != ACCEPTED)
        assert probing.result["lost"] == probing.result["tcp_breaks"] == 0, probing.result
        eventually(lambda: world.all_fibs(lab) == before, within_s=30)


def _routes_of(lab: Lab, node: str) -> list[dict[str, Any]]:
    """Every IPv4 route that a node heard, as it answers a CalicoNodeStatus."""
    question = world.calico(
        "CalicoNodeStatus", world.unique("ask"), {"node": node, "classes": ["Routes"], "updatePeriodSeconds": 0}
    )
    path = f"{world.CALICO}/caliconodestatuses"
    lab.api.post(path, question)
    try:
        found = f"{path}/{question['metadata']['name']}"
        status = eventually(lambda: (s := lab.api.get(found).get("status", {})).get("lastUpdated") and s)
        return list(status["routes"]["routesV4"])
    finally:
        world.delete(lab, f"{path}/{question['metadata']['name']}")


def test_a_peer_that_announces_too_much_is_told_of_and_what_it_said_before_is_kept(lab: Lab, tmp_path: Path) -> None:
    limit = 20_000
    with _rogue(lab, tmp_path, [ACCEPTED]) as bird:
        eventually(lambda: _via_rogue(lab) == {ACCEPTED}, within_s=20)
        before = world.fib(lab, "n1")
        flood = [f"10.{200 + n // 65536}.{n // 256 % 256}.{n % 256}/32" for n in range(limit)]
        bird.configure(_text([ACCEPTED, *flood]))
        said = eventually(
            lambda: [line for line in world.log_of(lab, "n1").splitlines() if ROGUE in line and "limit" in line],
            within_s=60,
        )
        assert "prefix" in said[0]
        assert world.fib(lab, "n1") == before
        bird.configure(_text([ACCEPTED]))
        assert _via_rogue(lab) == {ACCEPTED}


def test_a_pod_that_floods_with_forged_neighbour_messages_fills_no_table_and_breaks_no_session(lab: Lab) -> None:
    with world.running(lab, {"bad": "n1", "good": "n1"}) as pods:
        bad, good = pods["bad"], pods["good"]
        eventually(lambda: world.ping(lab.network("client"), [good.ip]) == {good.ip})
        before, sessions = _neighbours(lab), lab.router("tor1").established()
        with lab.probing("client", good) as probing:
            sent = world.tool(bad.network(), "forge", "eth0", "--count", "250")["sent"]
            assert sent == 2000
            assert _neighbours(lab) <= before | _neighbours(lab, "eth0"), "only the uplink may learn"
            assert not [n for n in _neighbours(lab) if "10.77." in n or "bad" in n]
        assert probing.result["lost"] == probing.result["tcp_breaks"] == 0, probing.result
        assert lab.router("tor1").established() == sessions
        assert world.ping(bad.network(), [good.ip]) == {good.ip}


def _neighbours(lab: Lab, device: str = "") -> set[str]:
    words = ["ip", "-j", "neigh", "show", "nud", "all", *(["dev", device] if device else [])]
    return {entry["dst"] for entry in json.loads(lab.exec("n1", words).stdout)}
