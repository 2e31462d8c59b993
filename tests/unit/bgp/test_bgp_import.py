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


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (rule("Accept", "10.0.0.1/8"), "has host bits set"),
        (rule("Accept", "fd00::/64"), "other family"),
        (rule("Accept", "10.0.0.0/8", "Near"), "'Near' is not a valid"),
        (rule("Perhaps"), "action must be Accept or Reject, is 'Perhaps'"),
        (rule("Accept", interface="eth0"), "interface cannot be followed yet, so the rule accepts nothing"),
    ],
)
def test_a_rule_that_is_not_understood_lets_nothing_in(bad: FilterRule, sentence: str) -> None:
    chosen, problems = made_filter(bad)
    assert sentence in problems[0]
    assert problems[0].startswith("BGPFilter f: spec.importV4[0]: ")
    assert chosen.rules_v4 == ()
