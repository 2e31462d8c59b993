"""`node status` and `bgp routes` show what the agents answered, and name those that did not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml

from crds.node_status import (
    CalicoNodeStatusStatus,
    NodeBGPStatus,
    NodePeer,
    NodeRoute,
    NodeRoutesStatus,
    RouteSource,
)
from ctl.ask_nodes import Answers
from ctl.bgp_routes import routes
from ctl.node_status import age, all_established, sessions
from ctl.show import Format, render

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def peer(address: str = "10.0.1.1", state: str = "Established", reason: str = "") -> NodePeer:
    return NodePeer(
        peer_ip=address,
        type="GlobalPeer",
        state=state,
        since="2026-01-02T03:03:00Z",
        as_number=65001,
        prefixes_received=3,
        prefixes_sent=1,
        reason=reason,
    )


def status(*peers: NodePeer, held: tuple[NodeRoute, ...] = ()) -> CalicoNodeStatusStatus:
    return CalicoNodeStatusStatus(
        last_updated="2026-01-02T03:04:05Z",
        bgp=NodeBGPStatus(
            number_established_v4=len(peers),
            number_established_v6=0,
            number_not_established_v4=0,
            number_not_established_v6=0,
            peers_v4=peers,
        ),
        routes=NodeRoutesStatus(routes_v4=held),
    )


def test_each_session_is_a_row_with_its_age() -> None:
    text = render(sessions(Answers(answered={"n1": status(peer())}, silent=()), now=NOW), output=Format.TABLE)
    assert text.splitlines()[1].split() == [
        "n1",
        "10.0.1.1",
        "65001",
        "global",
        "Established",
        "00:01:05",
        "3",
        "1",
        "-",
    ]


def test_a_silent_agent_is_named_and_is_bad_news() -> None:
    answers = Answers(answered={"n1": status(peer())}, silent=("n2",))
    assert "n2: its agent did not answer" in render(sessions(answers, now=NOW), output=Format.TABLE)
    assert not all_established(answers)


@pytest.mark.parametrize(("state", "fine"), [("Established", True), ("Active", False), ("Idle", False)])
def test_a_session_that_is_not_up_is_bad_news(state: str, fine: bool) -> None:  # noqa: FBT001
    assert all_established(Answers(answered={"n1": status(peer(state=state))}, silent=())) is fine


def test_json_and_yaml_carry_the_same_data() -> None:
    answer = sessions(Answers(answered={"n1": status(peer(reason="hold timer"))}, silent=("n2",)), now=NOW)
    data = json.loads(render(answer, output=Format.JSON))
    assert data == yaml.safe_load(render(answer, output=Format.YAML))
    assert data[0]["peers"][0]["reason"] == "hold timer"
    assert data[1] == {"node": "n2", "lastUpdated": "", "peers": []}


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        ("", "never"),
        ("2026-01-02T03:04:05Z", "00:00:00"),
        ("2026-01-01T02:04:05Z", "1d01h"),
        ("2027-01-01T00:00:00Z", "00:00:00"),
    ],
)
def test_ages_read_as_on_a_router(since: str, shown: str) -> None:
    assert age(since, now=NOW) == shown


def route(destination: str, table: str = "FIB") -> NodeRoute:
    return NodeRoute(
        type=table,
        destination=destination,
        gateway="10.0.1.1",
        interface="eth0",
        learned_from=RouteSource(source_type="BGPPeer", peer_ip="10.0.1.1"),
        as_path=(65001, 65002),
    )


def test_routes_come_in_the_order_of_their_addresses() -> None:
    held = (route("10.1.0.64/26"), route("10.1.0.0/26"), route("9.0.0.0/8", "RIB"))
    answer = routes(Answers(answered={"n1": status(held=held)}, silent=()))
    assert [item["destination"] for item in answer.data] == ["9.0.0.0/8", "10.1.0.0/26", "10.1.0.64/26"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prefix", "left"),
    [("10.1.0.5", ["10.1.0.0/26"]), ("10.1.0.0/24", ["10.1.0.0/26", "10.1.0.64/26"]), ("2001:db8::/32", [])],
)
def test_a_prefix_narrows_the_routes_to_those_it_touches(prefix: str, left: list[str]) -> None:
    held = (route("10.1.0.64/26"), route("10.1.0.0/26"))
    answer = routes(Answers(answered={"n1": status(held=held)}, silent=()), prefix=prefix)
    assert [item["destination"] for item in answer.data] == left  # type: ignore[attr-defined]


def test_control_characters_of_a_peer_never_reach_the_terminal() -> None:
    answers = Answers(answered={"n1": status(peer(state="Idle", reason="bye\x1b[2J\nfake row"))}, silent=())
    text = render(sessions(answers, now=NOW), output=Format.TABLE)
    assert "bye?[2J?fake row" in text
    assert len(text.splitlines()) == 2
