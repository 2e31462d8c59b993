"""The speaker's brain: what ExaBGP is told, when, and in which order."""

from __future__ import annotations

from itertools import permutations

from bgp import exabgp_events as ev
from bgp import wire
from bgp.speaker import IN_FLIGHT_MAX, Speaker

ONE, TWO = wire.NeighborId("10.0.0.2", "10.0.0.1"), wire.NeighborId("10.0.0.3", "10.0.0.1")
A, B, C = "10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26"


def session(key: wire.NeighborId, *, peer_as: int = 65002) -> wire.Session:
    return wire.Session(
        id=key, name=key.peer, peer_as=peer_as, local_as=65001, router_id="10.0.0.1", families=(wire.Family.IPV4,)
    )


def wanted(*prefixes: str, keys: tuple[wire.NeighborId, ...] = (ONE, TWO), complete: str = "yes") -> wire.Wanted:
    routes = (wire.RouteGroup(family=wire.Family.IPV4, prefixes=prefixes),) if prefixes else ()
    sessions = tuple(session(key) for key in keys)
    return wire.Wanted(revision=1, complete=complete == "yes", sessions=sessions, routes=routes)


def speaker(*prefixes: str, complete: str = "yes") -> Speaker:
    made = Speaker()
    made.want(wanted(*prefixes, complete=complete))
    made.configured([session(ONE), session(TWO)], now_s=0)
    return made


def hear(made: Speaker, *events: ev.Event) -> list[str]:
    """What ExaBGP is then told; each line is answered."""
    for event in events:
        made.hear(event, now_s=1)
    lines: list[str] = []
    while some := made.take():
        lines += some
        for _ in some:
            made.hear(ev.Answer(ok=True), now_s=1)
    return lines


def up(key: wire.NeighborId) -> ev.Up:
    return ev.Up(peer=key.peer, local=key.local, remote_as=65002)


def down(key: wire.NeighborId) -> ev.Down:
    return ev.Down(peer=key.peer, local=key.local, reason="closing connection")


ONE_IS = "neighbor 10.0.0.2 local-ip 10.0.0.1"


def test_nobody_is_told_anything_before_he_is_up() -> None:
    assert hear(speaker(A)) == []


def test_at_each_up_the_whole_set_and_then_the_end() -> None:
    made = speaker(A, B)
    told = [
        f"{ONE_IS} announce attributes next-hop self nlri {A} {B}",
        f"{ONE_IS} announce eor ipv4 unicast",
    ]
    assert hear(made, up(ONE)) == told
    assert hear(made) == []
    assert hear(made, down(ONE), up(ONE)) == told


def test_no_end_before_the_wanted_set_is_complete() -> None:
    made = speaker(A, complete="no")
    assert hear(made, up(ONE)) == [f"{ONE_IS} announce attributes next-hop self nlri {A}"]
    made.want(wanted(A, B))
    assert hear(made) == [
        f"{ONE_IS} announce attributes next-hop self nlri {B}",
        f"{ONE_IS} announce eor ipv4 unicast",
    ]


def test_an_incomplete_set_takes_nothing_away() -> None:
    made = speaker(A, B)
    hear(made, up(ONE))
    made.want(wanted(C, keys=(ONE,), complete="no"))
    assert hear(made) == [f"{ONE_IS} announce attributes next-hop self nlri {C}"]
    assert {found.id for found in made.wanted.sessions} == {ONE, TWO}


def test_only_what_changed_is_told_the_new_before_the_old_goes() -> None:
    made = speaker(A, B)
    hear(made, up(ONE))
    made.want(wanted(B, C))
    assert hear(made) == [
        f"{ONE_IS} announce attributes next-hop self nlri {C}",
        f"{ONE_IS} withdraw attributes next-hop self nlri {A}",
    ]


def test_what_went_while_a_peer_was_away_is_withdrawn_before_the_end() -> None:
    made = speaker(A, B)
    hear(made, up(ONE))
    hear(made, down(ONE))
    made.want(wanted(B))
    assert hear(made, up(ONE)) == [
        f"{ONE_IS} announce attributes next-hop self nlri {B}",
        f"{ONE_IS} withdraw attributes next-hop self nlri {A}",
        f"{ONE_IS} announce eor ipv4 unicast",
    ]


def test_a_withdrawal_that_was_never_written_is_not_forgotten() -> None:
    made = speaker(A, B)
    hear(made, up(ONE))
    made.want(wanted(B))
    made.hear(down(ONE), now_s=2)
    assert f"{ONE_IS} withdraw attributes next-hop self nlri {A}" in hear(made, up(ONE))


def test_a_new_exabgp_remembers_nothing() -> None:
    made = speaker(A, B)
    hear(made, up(ONE))
    made.exabgp_gone(now_s=2, reason="killed")
    made.want(wanted(B))
    assert hear(made, up(ONE)) == [
        f"{ONE_IS} announce attributes next-hop self nlri {B}",
        f"{ONE_IS} announce eor ipv4 unicast",
    ]
    states = [report for report in made.reports if isinstance(report, wire.PeerState)]
    assert [(state.state.value, state.cause) for state in states if state.id == ONE][-2] == ("down", wire.Cause.OURS)


def test_a_session_that_shall_go_is_emptied_first() -> None:
    made = speaker(A)
    hear(made, up(ONE), ev.Told(peer=ONE.peer, local=ONE.local, announced=(A,), withdrawn=()))
    made.want(wanted(A, keys=(TWO,)))
    assert made.leaving() == {ONE}
    assert hear(made) == [f"{ONE_IS} withdraw attributes next-hop self nlri {A}"]
    hear(made, ev.Told(peer=ONE.peer, local=ONE.local, announced=(), withdrawn=(A,)))
    assert made.leaving() == frozenset()


def test_a_drain_withdraws_all_and_is_over_when_it_was_seen() -> None:
    made = speaker(A)
    hear(made, up(ONE), ev.Told(peer=ONE.peer, local=ONE.local, announced=(A,), withdrawn=()))
    made.drain()
    assert hear(made) == [f"{ONE_IS} withdraw attributes next-hop self nlri {A}"]
    assert not made.drained()
    hear(made, ev.Told(peer=ONE.peer, local=ONE.local, announced=(), withdrawn=(A,)))
    assert made.drained()


def test_another_identity_starts_from_nothing() -> None:
    made = speaker(A)
    hear(made, up(ONE))
    made.configured([session(ONE, peer_as=65009), session(TWO)], now_s=1)
    assert made.up() == frozenset()
    assert len(hear(made, up(ONE))) == 2


def test_few_lines_are_in_flight_and_nobody_waits_for_anothers_big_set() -> None:
    made = speaker(*(f"10.{n // 256}.{n % 256}.0/24" for n in range(IN_FLIGHT_MAX * 600)))
    for key in (ONE, TWO):
        made.hear(up(key), now_s=1)
    lines = made.take()
    assert len(lines) == IN_FLIGHT_MAX
    assert {line.split()[1] for line in lines[:2]} == {ONE.peer, TWO.peer}
    assert made.take() == []


def test_noise_before_the_first_up_says_nothing() -> None:
    made = speaker(A)
    made.reports.clear()
    assert hear(made, down(ONE), down(ONE)) == []
    assert made.reports == []


def test_a_bad_route_is_a_problem_and_the_others_go_out() -> None:
    made = speaker(A)
    bad = wire.RouteGroup(family=wire.Family.IPV4, prefixes=("10.9.0.0/24 next-hop 1.1.1.1",))
    good = wire.RouteGroup(family=wire.Family.IPV4, prefixes=(B,))
    made.want(wire.Wanted(revision=2, complete=True, sessions=(session(ONE),), routes=(bad, good)))
    assert B in hear(made, up(ONE))[0]
    assert "cannot be announced" in made.problems["routes"]


def test_the_order_of_wanted_and_up_does_not_matter() -> None:
    steps = ("want", "one", "two")
    ends = set()
    for order in permutations(steps):
        made = speaker(A)
        for step in order:
            if step == "want":
                made.want(wanted(B, C))
            else:
                made.hear(up(ONE if step == "one" else TWO), now_s=1)
            hear(made)
        ends.add(repr(sorted((key, sorted(peer.told), sorted(peer.ended)) for key, peer in made._peers.items())))
    assert len(ends) == 1


def test_the_whole_table_is_what_was_reported() -> None:
    made = speaker(A)
    path = wire.Attributes(origin="igp", as_path=(65002,))
    group = wire.Announced(prefixes=("10.9.0.0/24", "10.9.1.0/24"), next_hops=("10.0.0.2",), attributes=path)
    hear(
        made,
        up(ONE),
        ev.Heard(peer=ONE.peer, local=ONE.local, withdrawn=(), announced=(group,)),
        ev.Heard(peer=ONE.peer, local=ONE.local, withdrawn=("10.9.1.0/24",), announced=()),
        ev.HeardEnd(peer=ONE.peer, local=ONE.local, family=wire.Family.IPV4),
    )
    table = list(made.whole())
    assert isinstance(table[0], wire.TableBegin)
    assert isinstance(table[-1], wire.TableEnd)
    routes = [message for message in table if isinstance(message, wire.Routes)]
    assert [group.prefixes for message in routes for group in message.announced] == [("10.9.0.0/24",)]
    assert wire.EndOfRib(id=ONE, family=wire.Family.IPV4) in table
