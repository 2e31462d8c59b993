"""BGPFilter import rules: the first rule whose every match holds decides; if none does, the import policy goes on.

Theory: parsed once into values; a rule that cannot be followed becomes a problem and is left out if it would accept,
and rejects whatever its CIDR matches if it would reject: a rule that is not understood never lets anything in.
Export rules and `operations` are not yet followed (problems say so).

Made by `parse_filter`; called by `bgp.import_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from bgp import wire
from bgp.plan import Problem
from crds.bgp_kinds import BGPFilter, FilterRule

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
    peer_type: str = ""
    community: str = ""
    as_path_prefix: tuple[int, ...] = ()

    def matches(self, prefix: IPNetwork, attributes: wire.Attributes, *, peer_type: str) -> bool:
        """Whether every match holds. `peer_type` is eBGP or iBGP."""
        return (
            (not self.peer_type or self.peer_type == peer_type)
            and (not self.community or self.community in (*attributes.communities, *attributes.large_communities))
            and attributes.as_path[: len(self.as_path_prefix)] == self.as_path_prefix
            and (self.lengths is None or prefix.prefixlen in self.lengths)
            and (self.cidr is None or self._compares(prefix, self.cidr))
        )

    def _compares(self, prefix: IPNetwork, cidr: IPNetwork) -> bool:
        match self.operator:
            case Operator.EQUAL:
                return prefix == cidr
            case Operator.NOT_EQUAL:
                return prefix != cidr
            case Operator.IN:
                return _inside(prefix, cidr)
            case Operator.NOT_IN:
                return not _inside(prefix, cidr)


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
    """The filter, and what in it cannot be followed."""
    name = wanted.metadata.name
    problems: list[Problem] = []

    def rules(field: str, given: tuple[FilterRule, ...], version: int) -> Iterator[Rule]:
        for number, rule in enumerate(given):
            parsed, why = _parse_rule(rule, version=version)
            if why:
                problems.append(Problem(kind="BGPFilter", name=name, field=f"spec.{field}[{number}]", sentence=why))
            if parsed is not None:
                yield parsed

    return (
        Filter(
            name=name,
            rules_v4=tuple(rules("importV4", wanted.spec.import_v4, 4)),
            rules_v6=tuple(rules("importV6", wanted.spec.import_v6, 6)),
        ),
        tuple(problems),
    )


def _parse_rule(rule: FilterRule, *, version: int) -> tuple[Rule | None, str]:
    try:
        action = Action(rule.action)
    except ValueError:
        return None, f"action must be Accept or Reject, is {rule.action!r}"
    unknown = [name for name in ("interface", "priority", "operations") if getattr(rule, name)]
    why = f"{', '.join(unknown)} cannot be followed yet" if unknown else ""
    if unknown and unknown != ["operations"] and action is Action.ACCEPT:
        return None, f"{why}, so the rule accepts nothing"
    try:
        cidr = ip_network(rule.cidr) if rule.cidr else None
        if cidr is not None and cidr.version != version:
            raise ValueError("is of the other family")
        operator = Operator(rule.match_operator) if rule.cidr else Operator.IN
    except ValueError as error:
        stands = Rule(action=action) if action is Action.REJECT else None
        return stands, f"cidr {rule.cidr!r} {rule.match_operator!r} cannot be read ({error}); the rule accepts nothing"
    lengths = None
    if rule.prefix_length is not None:
        low = cidr.prefixlen if cidr is not None else 0
        low = max(low, rule.prefix_length.min or 0)
        high = rule.prefix_length.max if rule.prefix_length.max is not None else (32 if version == 4 else 128)
        lengths = range(low, high + 1)
    parsed = Rule(
        action=action,
        cidr=cidr,
        operator=operator,
        lengths=lengths,
        peer_type=rule.peer_type,
        community=rule.communities.values[0] if rule.communities and rule.communities.values else "",
        as_path_prefix=rule.as_path_prefix,
    )
    return parsed, why


def _inside(prefix: IPNetwork, cidr: IPNetwork) -> bool:
    return prefix.version == cidr.version and prefix.subnet_of(cidr)  # type: ignore[arg-type]
