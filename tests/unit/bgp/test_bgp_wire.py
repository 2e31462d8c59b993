"""The protocol between agent and speaker: cut anywhere, one release apart, and no password in a log."""

from __future__ import annotations

import pytest

from bgp import wire

KEY = wire.NeighborId("10.0.0.2", "10.0.0.1")
SAID: list[wire.ToAgent] = [
    wire.Hello(program="test"),
    wire.TableBegin(),
    wire.PeerState(id=KEY, state=wire.State.UP, since_s=1.5, restart_time_s=60, restart_families=(wire.Family.IPV4,)),
    wire.Routes(
        id=KEY,
        withdrawn=("10.9.0.0/24",),
        announced=(
            wire.Announced(
                prefixes=("10.1.0.0/24", "10.2.0.0/24"),
                next_hops=("10.0.0.2",),
                attributes=wire.Attributes(origin="igp", as_path=(65002, 1), as_path_length=2, med=5),
            ),
        ),
    ),
    wire.EndOfRib(id=KEY, family=wire.Family.IPV4),
    wire.Sent(id=KEY, announced=("10.3.0.0/26",), reset=True),
    wire.TableEnd(),
    wire.Configured(revision=3, problem="no"),
    wire.Speaking(starts=2, pid=7),
]
RAW = b"".join(wire.encode(message) for message in SAID)


@pytest.mark.parametrize("cut", range(0, len(RAW), 11))
def test_it_does_not_matter_how_the_bytes_are_cut(cut: int) -> None:
    decoder = wire.for_agent()
    assert [*decoder.feed(RAW[:cut]), *decoder.feed(RAW[cut:])] == SAID


def test_byte_by_byte() -> None:
    decoder = wire.for_agent()
    assert [message for byte in RAW for message in decoder.feed(bytes([byte]))] == SAID


def test_a_newer_release_may_add_fields_and_messages() -> None:
    newer = b'{"t":"weather","sun":true}\n{"t":"table-end","why":"done"}\n'
    assert wire.for_agent().feed(newer) == [wire.TableEnd()]


@pytest.mark.parametrize("line", [b"done\n", b"{}\n", b'{"t":"eor"}\n', b"[1]\n", b'{"t":"peer","id":7}\n', b"\xff\n"])
def test_what_is_no_message_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(wire.Garbage):
        wire.for_agent().feed(line)


def test_versions_meet_one_release_apart_and_no_further() -> None:
    old, new, newest = wire.Hello(version=1), wire.Hello(version=2, oldest=1), wire.Hello(version=3, oldest=2)
    assert old.speaks_with(new)
    assert new.speaks_with(newest)
    assert not old.speaks_with(newest)


def test_a_password_is_carried_and_never_shown() -> None:
    session = wire.Session(
        id=KEY, name="t", peer_as=1, local_as=2, router_id="1.1.1.1", families=(wire.Family.IPV4,), password="s3cret"
    )
    wanted = wire.Wanted(revision=1, complete=True, sessions=(session,))
    assert "s3cret" not in repr(wanted)
    assert wire.for_speaker().feed(wire.encode(wanted)) == [wanted]
