"""ExaBGP's lines as events: as captured from 5.0.15, cut anywhere, and whatever nonsense comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import exabgp_events as ev
from bgp import wire

PEER, LOCAL = "10.77.0.2", "10.77.0.1"


def line(kind: str, **neighbor: Any) -> bytes:
    envelope = {
        "exabgp": "5.0.0",
        "time": 1.5,
        "host": "vm",
        "pid": 1,
        "ppid": 2,
        "counter": 4,
        "type": kind,
        "neighbor": {
            "address": {"local": LOCAL, "peer": PEER},
            "asn": {"local": 65001, "peer": 65002},
            "router-id": "10.77.0.1",
            **neighbor,
        },
    }
    return json.dumps(envelope).encode() + b"\n"


def update(**parts: Any) -> bytes:
    return line("update", direction="receive", message={"update": parts})


ATTRIBUTE = {
    "origin": "igp",
    "as-path": {"0": {"element": "as-sequence", "value": [65002, 7]}, "1": {"element": "as-set", "value": [8, 9]}},
    "med": 77,
    "local-preference": 100,
    "community": [[65002, 100]],
    "large-community": [[65002, 1, 2]],
}
PATH = wire.Attributes(
    origin="igp",
    as_path=(65002, 7, 8, 9),
    as_path_length=3,
    med=77,
    local_preference=100,
    communities=("65002:100",),
    large_communities=("65002:1:2",),
)
CAPABILITIES = {
    "64": {
        "name": "graceful restart",
        "time": 120,
        "address-family-flags": {"ipv4/unicast": ["restart"]},
        "restart-flags": ["forwarding"],
    },
    "65": {"name": "asn4", "asn4": 4200000000},
}
OPEN = {"version": 4, "asn": 23456, "hold_time": 9, "router_id": "10.77.0.2", "capabilities": CAPABILITIES}
BOTH = {"peer": PEER, "local": LOCAL}

LINES: list[tuple[bytes, list[ev.Event]]] = [
    (b"done\n", [ev.Answer(ok=True)]),
    (b"error\n", [ev.Answer(ok=False)]),
    (line("state", state="connected"), []),
    (line("state", state="up"), [ev.Up(**BOTH, remote_as=65002)]),
    (line("state", state="down", reason="closing connection"), [ev.Down(**BOTH, reason="closing connection")]),
    (
        line("open", direction="receive", open=OPEN),
        [
            ev.Open(
                **BOTH,
                router_id="10.77.0.2",
                remote_as=4200000000,
                restart_time_s=120,
                restart_families=(wire.Family.IPV4,),
            )
        ],
    ),
    (
        update(
            attribute=ATTRIBUTE,
            announce={"ipv4 unicast": {PEER: [{"nlri": "192.0.2.0/24"}, {"nlri": "192.0.3.0/24"}]}},
            withdraw={"ipv4 unicast": [{"nlri": "192.0.2.0/24"}]},
        ),
        [
            ev.Heard(
                **BOTH,
                withdrawn=("192.0.2.0/24",),
                announced=(
                    wire.Announced(prefixes=("192.0.2.0/24", "192.0.3.0/24"), next_hops=(PEER,), attributes=PATH),
                ),
            )
        ],
    ),
    (
        update(
            attribute=ATTRIBUTE,
            announce={"ipv6 unicast": {"fd77::2": [{"nlri": "2001:db8::/48"}], "fe80::1": [{"nlri": "2001:db8::/48"}]}},
        ),
        [
            ev.Heard(
                **BOTH,
                withdrawn=(),
                announced=(
                    wire.Announced(prefixes=("2001:db8::/48",), next_hops=("fd77::2", "fe80::1"), attributes=PATH),
                ),
            )
        ],
    ),
    (
        line("update", direction="receive", message={"eor": {"afi": "ipv4", "safi": "unicast"}}),
        [ev.HeardEnd(**BOTH, family=wire.Family.IPV4)],
    ),
    (
        line("update", direction="send", message={"eor": {"afi": "ipv6", "safi": "unicast"}}),
        [ev.ToldEnd(**BOTH, family=wire.Family.IPV6)],
    ),
    (
        line(
            "update",
            direction="send",
            message={"update": {"attribute": {}, "announce": {"ipv4 unicast": {LOCAL: [{"nlri": "10.1.0.0/26"}]}}}},
        ),
        [ev.Told(**BOTH, announced=("10.1.0.0/26",), withdrawn=())],
    ),
    (b'{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }\n', [ev.Stopping()]),
    (
        b'[{"peer": {"address": "10.0.0.2"}, "local": {"address": "10.0.0.1"}, "fsm": "ESTABLISHED"},'
        b' {"peer": {"address": "10.0.0.3"}, "local": {"address": "10.0.0.1"}, "fsm": "ACTIVE"}]\n',
        [
            ev.Shown(
                established=frozenset({("10.0.0.2", "10.0.0.1")}),
                neighbors=frozenset({("10.0.0.2", "10.0.0.1"), ("10.0.0.3", "10.0.0.1")}),
            )
        ],
    ),
]
RAW = b"".join(raw for raw, _ in LINES)
EVENTS = [event for _, events in LINES for event in events]


@pytest.mark.parametrize(("raw", "events"), LINES)
def test_a_line_is_an_event(raw: bytes, events: list[ev.Event]) -> None:
    assert ev.EventDecoder().feed(raw) == events


@pytest.mark.parametrize("cut", range(0, len(RAW), 37))
def test_it_does_not_matter_how_the_bytes_are_cut(cut: int) -> None:
    decoder = ev.EventDecoder()
    assert [*decoder.feed(RAW[:cut]), *decoder.feed(RAW[cut:])] == EVENTS


@pytest.mark.parametrize(
    "attribute",
    [{**ATTRIBUTE, "error": "treat-as-withdraw"}, {**ATTRIBUTE, "med": "x"}, {**ATTRIBUTE, "as-path": [1]}],
)
def test_an_announcement_that_cannot_be_trusted_is_a_withdrawal(attribute: dict[str, Any]) -> None:
    raw = update(attribute=attribute, announce={"ipv4 unicast": {PEER: [{"nlri": "192.0.2.0/24"}]}})
    assert ev.EventDecoder().feed(raw) == [ev.Heard(**BOTH, withdrawn=("192.0.2.0/24",), announced=())]


@pytest.mark.parametrize(
    ("reason", "notified"),
    [
        ("notification received (6,2)", True),
        ("notification sent (4,0)", True),
        ("closing connection", False),
        ("stop, message [shutting down]", False),
        ("", False),
    ],
)
def test_only_a_notification_counts_as_one(reason: str, *, notified: bool) -> None:
    assert ev.Down(**BOTH, reason=reason).notified is notified


@given(st.lists(st.one_of(st.binary(), st.sampled_from([b"[1]", b"{}", b'{"type":"open"}', b"null", b"[{}]"]))))
def test_no_line_however_odd_raises(lines: list[bytes]) -> None:
    ev.EventDecoder().feed(b"\n".join(lines) + b"\n")
