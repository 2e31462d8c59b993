"""The table: what was heard and is usable, whatever the order in which it came, and while neighbours come and go."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import wire
from bgp.import_policy import ImportPolicy
from bgp.rib import Rib
from tests.unit.bgp.heard import EOR, OWN, POLICY, TOR1, TOR2, A, B, after, best, down, neighbor, rib, said, up


def test_equal_paths_are_used_together() -> None:
    made = after(rib(), up(), up(TOR2), said(A), said(A, key=TOR2))
    assert best(made) == {A: {TOR1.peer, TOR2.peer}}


@pytest.mark.parametrize(
    "worse",
    [
        {"as_path": (65002, 7)},
        {"origin": "egp"},
        {"med": 5},
    ],
)
def test_a_worse_path_is_not_used_until_the_better_goes(worse: dict[str, Any]) -> None:
    made = after(rib(), up(), up(TOR2), said(A, key=TOR2, **worse), said(A))
    assert best(made) == {A: {TOR1.peer}}
    after(made, wire.Routes(id=TOR1, withdrawn=(A,)))
    assert best(made) == {A: {TOR2.peer}}


def test_med_counts_within_one_neighbouring_as_only() -> None:
    made = rib(neighbor(), neighbor(TOR2, peer_as=65003))
    after(made, up(), up(TOR2), said(A, med=9), said(A, key=TOR2, as_path=(65003,), med=1))
    assert best(made) == {A: {TOR1.peer, TOR2.peer}}


def test_local_preference_counts_inside_an_as_only_and_ebgp_beats_ibgp() -> None:
    inner = neighbor(TOR2, peer_as=65001)
    made = after(rib(neighbor(), inner), up(), up(TOR2), said(A, local_preference=1))
    after(made, said(A, key=TOR2, as_path=(65009,), local_preference=100))
    assert best(made) == {A: {TOR1.peer}}
    after(made, said(A, key=TOR2, as_path=(65009, 1, 2), local_preference=200))
    assert best(made) == {A: {TOR2.peer}}


MESSAGES = [said(A), said(B, med=3), said(A, key=TOR2), said(B, key=TOR2), said(A, key=TOR2, as_path=(65002, 5))]


def test_the_order_in_which_neighbours_speak_does_not_matter() -> None:
    one, two = [MESSAGES[0], MESSAGES[1]], [MESSAGES[2], MESSAGES[3], MESSAGES[4]]
    seen = set()
    for choice in set(permutations([0, 0, 1, 1, 1])):
        queues = [iter(one), iter(two)]
        made = after(rib(), up(), up(TOR2), *(next(queues[which]) for which in choice))
        seen.add(repr(sorted(best(made).items())))
    assert len(seen) == 1


ROUTES = st.lists(
    st.tuples(
        st.sampled_from([TOR1, TOR2]),
        st.sampled_from([A, B, "10.2.0.0/24", "192.0.2.0/24"]),
        st.sampled_from([(65002,), (65002, 7), (65002, 65001)]),
        st.booleans(),
    )
)


@given(ROUTES)
def test_the_quick_table_equals_the_slow_one(events: list[tuple[wire.NeighborId, str, tuple[int, ...], bool]]) -> None:
    quick, slow = after(rib(), up(), up(TOR2)), after(rib(), up(), up(TOR2))
    for key, prefix, path, announced in events:
        message = said(prefix, key=key, as_path=path) if announced else wire.Routes(id=key, withdrawn=(prefix,))
        after(quick, message)
        after(slow, message)
        quick.best(POLICY)
    assert quick.best(POLICY) == slow.best(POLICY)


HOSTILE = [
    ("own AS in the path", said(A, as_path=(65002, 65001)), "a loop"),
    ("AS 0 in the path", said(A, as_path=(65002, 0)), "AS 0"),
    ("the first AS is not the peer's", said(A, as_path=(65009,)), "does not begin"),
    ("no path from outside", said(A, as_path=()), "does not begin"),
    ("an unknown origin", said(A, origin="invalid"), "origin"),
    ("no next hop", said(A, hops=("no-nexthop",)), "no usable next hop"),
    ("next hop 0.0.0.0", said(A, hops=("0.0.0.0",)), "no usable next hop"),
    ("a multicast next hop", said(A, hops=("224.0.0.1",)), "no usable next hop"),
    ("our own address as next hop", said(A, hops=("10.0.1.9",)), "no usable next hop"),
    ("next hop ::", said("fd00:1::/64", hops=("::",)), "no usable next hop"),
    ("an IPv4 next hop for IPv6", said("fd00:1::/64", hops=("::ffff:10.0.1.1",)), "no usable next hop"),
    ("a link-local next hop from nowhere", said("fd00:1::/64", hops=("fe80::1",)), "no usable next hop"),
    ("the loopback", said("127.0.0.0/8"), "not unicast"),
    ("multicast", said("224.0.0.0/24"), "not unicast"),
    ("no prefix at all", said("nonsense"), "no prefix"),
]


@pytest.mark.parametrize(("message", "why"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_exabgp_lets_through_is_refused_and_replaces_what_was_said_before(message: wire.Routes, why: str) -> None:
    made = after(rib(), up(), said(A), said("fd00:1::/64", hops=("fd00::1",)), said(B))
    after(made, message)
    assert B in best(made)
    assert not set(message.announced[0].prefixes) & set(best(made))
    assert [why for reasons in made.refused().values() for found in reasons.values() if why in found]
    after(made, said(A))
    assert A in best(made)


def test_what_the_policy_denies_is_told_with_its_reason() -> None:
    made = after(rib(), up(), said(A))
    made.best(ImportPolicy())
    reasons = next(iter(made.refused().values()))
    assert reasons[str(A)] == "in no address pool, and no BGPFilter accepts it"


def test_host_bits_are_masked_and_the_masked_prefix_is_withdrawn_too() -> None:
    made = after(rib(), up(), said("10.1.47.0/20"))
    assert set(best(made)) == {"10.1.32.0/20"}
    assert best(after(made, wire.Routes(id=TOR1, withdrawn=("10.1.47.0/20",)))) == {}


def test_of_two_next_hops_the_global_one_counts_and_a_link_local_one_needs_its_interface() -> None:
    made = after(rib(), up(), said("fd00:1::/64", hops=("fd00::1", "fe80::1")))
    assert best(made) == {"fd00:1::/64": {"fd00::1"}}
    key = wire.NeighborId("fe80::1")
    unnumbered = rib(neighbor(key, source_interface="eth0"))
    after(unnumbered, up(key), said("fd00:1::/64", key=key, hops=("fd00::1", "fe80::1")))
    assert best(unnumbered) == {"fd00:1::/64": {"fe80::1%eth0"}}


def test_a_mapped_next_hop_is_its_ipv4_address() -> None:
    assert best(after(rib(), up(), said(A, hops=("::ffff:10.0.1.1",)))) == {A: {"10.0.1.1"}}


def test_own_as_may_be_allowed_so_often() -> None:
    made = after(rib(neighbor(allowed_own_as=1)), up(), said(A, as_path=(65002, 65001)))
    after(made, said(B, as_path=(65002, 65001, 65001)))
    assert set(best(made)) == {A}


def test_withdrawals_of_a_message_come_before_its_announcements() -> None:
    both = wire.Routes(id=TOR1, withdrawn=(A,), announced=said(A).announced)
    assert set(best(after(rib(), up(), said(A), both))) == {A}


# -- coming and going


def test_a_peer_that_promised_keeps_its_routes_until_its_time_is_over() -> None:
    made = after(rib(), up(), said(A), EOR, now_s=10)
    after(made, down(wire.Cause.LOST), now_s=20)
    assert set(best(made)) == {A}
    assert made.best(POLICY)[ip_network(A)].stale
    assert made.next_deadline_s() == 80
    assert not made.tick(79.9)
    assert made.tick(80)
    assert best(made) == {}


@pytest.mark.parametrize("message", [down(wire.Cause.NOTIFIED), down(wire.Cause.LOST, restart_s=0)])
def test_a_peer_that_was_notified_or_promised_nothing_loses_them_at_once(message: wire.PeerState) -> None:
    assert best(after(rib(), up(), said(A), message)) == {}


def test_when_our_own_end_restarts_they_stay_without_any_promise() -> None:
    made = after(rib(), up(restart_s=0), said(A), down(wire.Cause.OURS, restart_s=0), now_s=5)
    assert set(best(made)) == {A}
    assert made.tick(126)
    assert best(made) == {}


def test_end_of_rib_ends_what_was_not_said_again() -> None:
    made = after(rib(), up(), said(A, B), EOR, down(wire.Cause.LOST), up(since_s=3), said(B))
    assert set(best(made)) == {A, B}
    after(made, EOR)
    assert set(best(made)) == {B}


def test_a_speaker_that_goes_away_leaves_the_routes_for_a_while() -> None:
    made = after(rib(), up(), said(A), EOR)
    made.speaker_gone(now_s=10)
    assert set(best(made)) == {A}
    assert {view.state for view in made.neighbors()} == {wire.State.DOWN, wire.State.NEVER}


def test_a_table_said_anew_forgets_what_was_withdrawn_meanwhile() -> None:
    made = after(rib(), up(restart_s=0), said(A, B))
    after(made, wire.TableBegin(), up(restart_s=0), said(B))
    assert set(best(made)) == {A, B}
    after(made, wire.TableEnd())
    assert set(best(made)) == {B}


def test_a_neighbour_that_is_wanted_no_more_takes_its_routes_along() -> None:
    made = after(rib(), up(), up(TOR2), said(A), said(B, key=TOR2))
    made.configure([neighbor(TOR2)], own_addresses=OWN, now_s=2)
    assert set(best(made)) == {B}
    assert not made.apply(said(A), now_s=3)


def table(*messages: wire.ToAgent) -> tuple[wire.ToAgent, ...]:
    return (wire.TableBegin(), *messages, wire.TableEnd())


def test_synced_waits_for_every_neighbour_that_is_up_and_not_for_ever_for_the_others() -> None:
    made = rib()
    assert not made.synced(1000)
    after(made, *table(up(), said(A)), now_s=10)
    assert not made.synced(11)
    after(made, EOR, now_s=12)
    assert not made.synced(119)
    assert made.synced(120)
    after(made, down(wire.Cause.LOST), now_s=130)
    assert made.synced(131)


def test_a_peer_without_end_of_rib_counts_after_a_while() -> None:
    made = after(rib(neighbor()), *table(up(restart_s=0), said(A)), now_s=10)
    assert not made.synced(39)
    assert made.synced(40)


def test_without_neighbours_there_is_nothing_to_wait_for_once_that_is_known() -> None:
    nothing = after(Rib(), *table())
    assert not nothing.synced(1)
    nothing.configure([], own_addresses=OWN, now_s=1)
    assert nothing.synced(1)


def test_a_flood_keeps_what_came_first_and_raises_a_problem() -> None:
    made = after(rib(neighbor(prefix_limit=4)), up(), said(*(f"10.1.{n}.0/24" for n in range(9))))
    assert len(best(made)) == 4
    assert "more than the limit of 4 prefixes" in str(made.problems()[0])
    after(made, said("10.1.0.0/24", med=3))
    assert not made.lacks()
    after(made, wire.Routes(id=TOR1, withdrawn=tuple(f"10.1.{n}.0/24" for n in range(2))))
    assert made.lacks()
    after(made, *table(up(), said("10.1.8.0/24")))
    assert (set(best(made)), made.problems(), made.lacks()) == ({"10.1.8.0/24"}, (), False)
