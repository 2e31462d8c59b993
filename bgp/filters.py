"""BGPFilter import rules: the first rule whose every match holds decides; if none does, the import policy goes on.

Theory: parsed once into values; a rule that cannot be followed (`crds.filters` says which, to the operator too) becomes
a problem and is left out if it would accept, and rejects whatever its CIDR matches if it would reject: a rule that is
not understood never lets anything in. Export rules and `operations` are not yet followed (problems say so).

Made by `parse_filter`; called by `bgp.import_policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from bgp import wire
from bgp.plan import Problem
from crds.bgp_kinds import BGPFilter, FilterRule
from crds.errors import BadObject
from crds.filters import check_import_rule, check_match, filter_problems

IPNetwork = IPv4Network | IPv6Network


class Action(Enum):
    """Both end the search."""

    ACCEPT = "Accept"
    REJECT = "Reject"


class Operator(Enum):
    """How a prefix is compared with the rule's CIDR."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; a match that is None always holds."""

    action: Action
    cidr: IPNetwork | None = None
    operator: Operator = Operator.IN
    lengths: range | None = None
    """Of prefixes inside `cidr`."""
    peer_type: str = ""
    community: str = ""
    as_path_prefix: tuple[int, ...] = ()

    def matches(self, prefix: IPNetwork, attributes: wire.Attributes, *, peer_type: str) -> bool:
        """Whether every match holds. `peer_type` is eBGP or iBGP."""
        return (
            (not self.peer_type or self.peer_type == peer_type)
            and (not self.community or self.community in (*attributes.communities, *attributes.large_communities))
            and attributes.as_path[: len(self.as_path_prefix)] == self.as_path_prefix
            and (self.cidr is None or self._compares(prefix, self.cidr))
        )

    def _compares(self, prefix: IPNetwork, cidr: IPNetwork) -> bool:
        match self.operator:
            case Operator.EQUAL:
                return prefix == cidr
            case Operator.NOT_EQUAL:
                return prefix != cidr
            case Operator.IN:
                return self._inside(prefix, cidr)
            case Operator.NOT_IN:
                return not self._inside(prefix, cidr)

    def _inside(self, prefix: IPNetwork, cidr: IPNetwork) -> bool:
        """As BIRD's `prefix ~ [cidr{min,max}]`, so NotIn with lengths is the opposite of In with the same."""
        return (
            prefix.version == cidr.version
            and prefix.subnet_of(cidr)  # type: ignore[arg-type]
            and (self.lengths is None or prefix.prefixlen in self.lengths)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One BGPFilter's import side, by IP version."""

    name: str
    rules_v4: tuple[Rule, ...] = ()
    rules_v6: tuple[Rule, ...] = ()

    def decide(self, prefix: IPNetwork, attributes: wire.Attributes, *, peer_type: str) -> Action | None:
        """None: no rule says anything."""
        rules = self.rules_v4 if prefix.version == 4 else self.rules_v6
        return next((r.action for r in rules if r.matches(prefix, attributes, peer_type=peer_type)), None)


def parse_filter(wanted: BGPFilter) -> tuple[Filter, tuple[Problem, ...]]:
    """The filter, and what in it is not followed as written."""
    name, spec = wanted.metadata.name, wanted.spec
    return (
        Filter(name=name, rules_v4=_rules(spec.import_v4, version=4), rules_v6=_rules(spec.import_v6, version=6)),
        tuple(
            Problem(kind="BGPFilter", name=name, field=bad.field, sentence=bad.problem) for bad in filter_problems(spec)
        ),
    )


def _rules(given: tuple[FilterRule, ...], *, version: int) -> tuple[Rule, ...]:
    parsed = (_parse_rule(rule, version=version) for rule in given)
    return tuple(rule for rule in parsed if rule is not None)


def _parse_rule(rule: FilterRule, *, version: int) -> Rule | None:
    try:
        check_import_rule(rule, at="", version=version)
    except BadObject:
        return None if rule.action == "Accept" else _rejects_instead(rule, version=version)
    cidr = ip_network(rule.cidr) if rule.cidr else None
    found = [int(part) for part in rule.communities.values[0].split(":")] if rule.communities else []
    return Rule(
        action=Action(rule.action),
        cidr=cidr,
        operator=Operator(rule.match_operator) if rule.cidr else Operator.IN,
        lengths=_lengths(rule, cidr),
        peer_type=rule.peer_type,
        community=":".join(map(str, found)),
        as_path_prefix=rule.as_path_prefix,
    )


def _rejects_instead(rule: FilterRule, *, version: int) -> Rule:
    """All that a rule which is not understood may have been meant to reject: of its matches, the CIDR alone counts."""
    try:
        check_match(rule, at="", version=version)
    except BadObject:
        return Rule(action=Action.REJECT)
    if not rule.cidr:
        return Rule(action=Action.REJECT)
    if rule.prefix_length and rule.match_operator != "In":
        return Rule(action=Action.REJECT)  # how the two go together is what was not understood
    return Rule(action=Action.REJECT, cidr=ip_network(rule.cidr), operator=Operator(rule.match_operator))


def _lengths(rule: FilterRule, cidr: IPNetwork | None) -> range | None:
    if rule.prefix_length is None or cidr is None:
        return None
    high = cidr.max_prefixlen if rule.prefix_length.max is None else rule.prefix_length.max
    return range(max(cidr.prefixlen, rule.prefix_length.min or 0), high + 1)
