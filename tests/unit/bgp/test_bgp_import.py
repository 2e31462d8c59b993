"""What may be imported: pools and filters, and what no router can divert."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from bgp.filters import Filter, parse_filter
from bgp.import_policy import ImportPolicy
from crds.bgp_kinds import BGPFilter, BGPFilterSpec, CommunityMatch, FilterRule, PrefixLengthRange
from crds.meta import ObjectMeta
from tests.unit.bgp.heard import A, B, after, best, neighbor, rib, said, up

DEFENDED = ImportPolicy(
    pools=frozenset({ip_network("10.0.0.0/8")}),
    own_blocks=frozenset({ip_network(A)}),
    foreign_in_own=frozenset({ip_address("10.1.0.7")}),
    own_addresses=frozenset({ip_address("10.1.9.9")}),
    node_addresses=frozenset({ip_address("10.5.0.1"), ip_address("192.0.2.1")}),
    services=frozenset({ip_network("10.96.0.0/16")}),
)


@pytest.mark.parametrize(
    ("prefix", "used"),
    [
        (B, True),
        (A, False),
        ("10.1.0.3/32", False),
        ("10.1.0.7/32", True),
        ("10.1.0.6/31", False),
        ("10.1.0.0/24", True),
        ("10.1.9.9/32", False),
        ("10.5.0.1/32", False),
        ("10.5.0.0/24", False),
        ("10.96.3.0/24", False),
        ("192.0.2.1/32", False),
        ("0.0.0.0/0", False),
        ("10.0.0.0/7", False),
    ],
)
def test_a_rogue_router_diverts_nothing(prefix: str, *, used: bool) -> None:
    assert (prefix in best(after(rib(), up(), said(prefix)), DEFENDED)) is used


def made_filter(*rules: FilterRule) -> tuple[Filter, tuple[str, ...]]:
    made, problems = parse_filter(BGPFilter(metadata=ObjectMeta(name="f"), spec=BGPFilterSpec(import_v4=rules)))
    return made, tuple(map(str, problems))


def rule(action: str, cidr: str = "", operator: str = "In", **rest: Any) -> FilterRule:
    return FilterRule(action=action, cidr=cidr, match_operator=operator if cidr else "", **rest)


ACCEPT_ALL = rule("Accept")


@pytest.mark.parametrize(
    ("rules", "used"),
    [
        ((), {B}),
        ((ACCEPT_ALL,), {B, "0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32"}),
        ((rule("Accept", "0.0.0.0/0", "Equal"),), {B, "0.0.0.0/0"}),
        ((rule("Reject", B, "Equal"), ACCEPT_ALL), {"0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32"}),
        ((ACCEPT_ALL, rule("Reject", B)), {B, "0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32"}),
        ((rule("Accept", "192.0.0.0/8", prefix_length=PrefixLengthRange(max=24)),), {B, "192.0.2.0/24"}),
        ((rule("Accept", "192.0.0.0/8", prefix_length=PrefixLengthRange(min=25)),), {B, "192.0.2.1/32"}),
        ((rule("Reject", "192.0.0.0/8", "NotIn"), ACCEPT_ALL), {"192.0.2.0/24", "192.0.2.1/32"}),
        ((rule("Reject", B, "NotEqual"),), {B}),
        ((rule("Accept", "192.0.2.0/24", peer_type="iBGP"),), {B}),
        ((rule("Accept", "192.0.2.0/24", peer_type="eBGP"),), {B, "192.0.2.0/24", "192.0.2.1/32"}),
        ((rule("Reject", communities=CommunityMatch(values=("65002:1",))),), set()),
        ((rule("Reject", as_path_prefix=(65002,)),), set()),
        ((rule("Reject", as_path_prefix=(65003,)),), {B}),
    ],
)
def test_the_first_rule_that_matches_decides(rules: tuple[FilterRule, ...], used: set[str]) -> None:
    chosen, problems = made_filter(*rules)
    assert problems == ()
    policy = ImportPolicy(
        pools=frozenset({ip_network("10.0.0.0/8")}),
        own_blocks=frozenset({ip_network(A)}),
        filters={"f": chosen},
    )
    made = after(rib(neighbor(filters=("f",))), up())
    after(made, said(A, B, "0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32", communities=("65002:1",)))
    assert set(best(made, policy)) == used


def test_a_filter_that_does_not_exist_lets_nothing_in() -> None:
    assert best(after(rib(neighbor(filters=("gone",))), up(), said(B))) == {}


def used_with(*rules: FilterRule, heard: tuple[str, ...]) -> set[str]:
    chosen, _ = made_filter(*rules)
    policy = ImportPolicy(pools=frozenset({ip_network("10.0.0.0/8")}), filters={"f": chosen})
    return set(best(after(rib(neighbor(filters=("f",))), up(), said(*heard, communities=("65002:1",))), policy))


UNFOLLOWED = [
    ({"cidr": "192.0.2.1/24", "operator": "In"}, "cidr: "),
    ({"cidr": "fd00::/64"}, "cidr: must be an IPv4 range"),
    ({"cidr": "192.0.2.0/24", "operator": "Near"}, "matchOperator: must be Equal"),
    ({"cidr": "192.0.2.0/24", "operator": "Equal", "prefix_length": PrefixLengthRange(min=25)}, "prefixLength: "),
    ({"interface": "eth0"}, "interface: cannot be followed yet, so the rule "),
    ({"priority": 7}, "priority: cannot be followed yet, so the rule "),
    ({"source": "Nobody"}, "source: must be RemotePeers"),
    ({"peer_type": "local"}, "peerType: must be eBGP or iBGP"),
    ({"communities": CommunityMatch(values=("65002:1", "65002:2"))}, "communities.values: must hold one"),
    ({"communities": CommunityMatch(values=("65002",))}, "communities.values[0]: "),
]


@pytest.mark.parametrize(("match", "sentence"), UNFOLLOWED)
def test_a_rule_that_is_not_followed_lets_nothing_in(match: dict[str, Any], sentence: str) -> None:
    heard = ("192.0.2.0/24", "10.7.0.0/24")
    assert used_with(rule("Accept", **match), heard=heard) == {"10.7.0.0/24"}, "accepts nothing"
    assert "192.0.2.0/24" not in used_with(rule("Reject", **match), ACCEPT_ALL, heard=heard), "rejects all it may mean"
    assert used_with(ACCEPT_ALL, heard=heard) == set(heard)
    for action in ("Accept", "Reject"):
        problems = made_filter(rule(action, **match))[1]
        assert len(problems) == 1
        assert problems[0].startswith(f"BGPFilter f: spec.importV4[0].{sentence}")
        assert f", so the rule {action.lower()}s " in problems[0]


def test_a_reject_with_an_unknown_match_stays_inside_its_cidr() -> None:
    narrow = rule("Reject", "192.0.2.0/24", interface="eth0")
    assert used_with(narrow, ACCEPT_ALL, heard=("192.0.2.0/24", "192.0.3.0/24")) == {"192.0.3.0/24"}


def test_a_rule_without_a_known_action_rejects() -> None:
    assert used_with(rule("Perhaps", "10.7.0.0/16"), ACCEPT_ALL, heard=("10.7.0.0/24", "192.0.2.0/24")) == {
        "192.0.2.0/24"
    }


def test_source_remote_peers_holds_for_all_that_is_heard() -> None:
    assert made_filter(rule("Accept", source="RemotePeers"))[1] == ()
    assert used_with(rule("Accept", source="RemotePeers"), heard=("192.0.2.0/24",)) == {"192.0.2.0/24"}


def test_not_in_with_lengths_is_the_opposite_of_in_with_the_same() -> None:
    lengths = PrefixLengthRange(min=24, max=24)
    heard = ("192.0.2.0/24", "192.0.2.0/25", "198.51.100.0/24")
    inside = used_with(rule("Accept", "192.0.2.0/24", "In", prefix_length=lengths), heard=heard)
    outside = used_with(rule("Accept", "192.0.2.0/24", "NotIn", prefix_length=lengths), heard=heard)
    assert (inside, outside) == ({"192.0.2.0/24"}, {"192.0.2.0/25", "198.51.100.0/24"})


def test_a_community_is_a_number_however_it_is_written() -> None:
    rejects = rule("Reject", communities=CommunityMatch(values=("65002:0001",)))
    assert used_with(rejects, ACCEPT_ALL, heard=("192.0.2.0/24",)) == set()
