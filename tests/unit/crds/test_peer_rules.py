"""Which BGPPeers a node can follow, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from crds.bgp_kinds import BGPPeerSpec
from crds.errors import BadObject
from crds.peers import check_peer, parse_peer_ip


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("192.0.2.1", ("192.0.2.1", "", 0)),
        ("192.0.2.1:1790", ("192.0.2.1", "", 1790)),
        ("2001:db8::1", ("2001:db8::1", "", 0)),
        ("[2001:db8::1]:1790", ("2001:db8::1", "", 1790)),
        ("[fe80::1%eth0]:179", ("fe80::1", "eth0", 179)),
        ("fe80::1%eth0", ("fe80::1", "eth0", 0)),
    ],
)
def test_peer_addresses_in_calicos_spellings(text: str, parsed: tuple[str, str, int]) -> None:
    address, interface, port = parse_peer_ip(text, field="spec.peerIP")
    assert (str(address), interface, port) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tor1",
        "192.0.2.1:",
        "192.0.2.1:179\n",
        "192.0.2.1:65536",
        "[x",
        "192.0.2.1:0",
        "[192.0.2.1]",
        "10.0.0.0/24",
        "::",
        "224.0.0.1",
    ],
)
def test_what_is_no_peer_address_is_refused(text: str) -> None:
    with pytest.raises(BadObject, match=r"spec\.peerIP"):
        parse_peer_ip(text, field="spec.peerIP")


@pytest.mark.parametrize(
    "spec",
    [
        {"peer_ip": "192.0.2.1:1790", "node_selector": "rack == 'r1'", "keepalive_time": "10s"},
        {"peer_selector": "has(reflector)", "max_restart_time": "4095s", "source_address": "None"},
    ],
)
def test_a_peer_that_can_be_followed_is_accepted(spec: dict[str, Any]) -> None:
    check_peer(BGPPeerSpec(**spec))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.peerIP"),
        ({"peer_ip": "192.0.2.1", "peer_selector": "all()"}, "spec.peerIP"),
        ({"peer_ip": "0.0.0.0"}, "spec.peerIP"),
        ({"peer_ip": "fe80::1"}, "spec.peerIP"),
        ({"peer_ip": "192.0.2.1", "reachable_by": "192.0.2.2"}, "spec.reachableBy"),
        ({"local_workload_selector": "all()"}, "spec.localWorkloadSelector"),
        ({"peer_ip": "192.0.2.1", "node": "n1", "node_selector": "all()"}, "spec.nodeSelector"),
        ({"peer_ip": "192.0.2.1", "node_selector": "rack =="}, "spec.nodeSelector"),
        ({"peer_selector": "rack =="}, "spec.peerSelector"),
        ({"peer_ip": "192.0.2.1", "source_address": "eth0"}, "spec.sourceAddress"),
        ({"peer_ip": "192.0.2.1", "ttl_security": 256}, "spec.ttlSecurity"),
        ({"peer_ip": "192.0.2.1", "keepalive_time": "0s"}, "spec.keepaliveTime"),
        ({"peer_ip": "192.0.2.1", "max_restart_time": "4096s"}, "spec.maxRestartTime"),
    ],
)
def test_a_peer_that_no_node_can_follow_is_told_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(BadObject, match=field):
        check_peer(BGPPeerSpec(**spec))
