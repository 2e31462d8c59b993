"""What makes a rule of a BGPFilter usable, as far as the object itself can tell: one set of rules for all who read it.

The agent follows an import rule and the operator writes the filter's condition, and they must never differ. A rule
that is wrong, or asks for a match that Tortie does not follow, is not half followed: if it accepts, it accepts
nothing; if it rejects, it rejects whatever its `cidr` matches, or every route where that cannot be read. So such a
rule never lets in more than is written.

Pure. Called by `bgp.filters` and `ipam.operator_status`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from crds.bgp_kinds import BGPFilterSpec, FilterRule
from crds.errors import BadObject
from crds.values import parse_network

AS_MAX = 4294967295
_COMMUNITY = re.compile(r"(\d{1,5}):(\d{1,5})|(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)


class Unfollowed(BadObject):
    """Legal in Calico's API, but not followed by Tortie."""


def check_rule(rule: FilterRule, *, at: str, version: int) -> None:
    """Raises BadObject for a mistake. `at`: `spec.importV4[0]`; `version`: 4 or 6."""
    if rule.action not in ("Accept", "Reject"):
        raise BadObject(f"{at}.action", f"must be Accept or Reject, is {rule.action!r}")
    check_match(rule, at=at, version=version)
    if rule.peer_type not in ("", "eBGP", "iBGP"):
        raise BadObject(f"{at}.peerType", f"must be eBGP or iBGP, is {rule.peer_type!r}")
    if rule.source not in ("", "RemotePeers"):
        raise BadObject(f"{at}.source", f"must be RemotePeers, is {rule.source!r}")
    if rule.operations and rule.action != "Accept":
        raise BadObject(f"{at}.operations", "needs action: Accept")
    if rule.communities is not None:
        if len(rule.communities.values) != 1:
            raise BadObject(
                f"{at}.communities.values", f"must hold one community, holds {len(rule.communities.values)}"
            )
        check_community(rule.communities.values[0], at=f"{at}.communities.values[0]")


def check_match(rule: FilterRule, *, at: str, version: int) -> None:
    """Whether the prefixes that a rule is about can be read. Raises BadObject."""
    if bool(rule.cidr) != bool(rule.match_operator):
        raise BadObject(f"{at}.matchOperator", "cidr and matchOperator must be given together")
    if not rule.cidr:
        if rule.prefix_length:
            raise BadObject(f"{at}.prefixLength", "needs cidr")
        return
    cidr = parse_network(rule.cidr, field=f"{at}.cidr")
    if cidr.version != version:
        raise BadObject(f"{at}.cidr", f"must be an IPv{version} range, is {cidr}")
    if rule.match_operator not in ("Equal", "NotEqual", "In", "NotIn"):
        allowed = "Equal, NotEqual, In or NotIn"
        raise BadObject(f"{at}.matchOperator", f"must be {allowed}, is {rule.match_operator!r}")
    if rule.prefix_length:
        low, high = rule.prefix_length.min or 0, rule.prefix_length.max
        for end, length, least in (("min", low, 0), ("max", cidr.max_prefixlen if high is None else high, low)):
            if not least <= length <= cidr.max_prefixlen:
                raise BadObject(f"{at}.prefixLength.{end}", f"must lie in {least}..{cidr.max_prefixlen}, is {length}")


def check_import_rule(rule: FilterRule, *, at: str, version: int) -> None:
    """Raises BadObject, or Unfollowed; either says what the rule means then."""
    try:
        check_rule(rule, at=at, version=version)
        for name in ("interface", "priority"):
            if getattr(rule, name):
                raise Unfollowed(f"{at}.{name}", "cannot be followed yet")
        if rule.prefix_length and rule.match_operator not in ("In", "NotIn"):
            raise Unfollowed(f"{at}.prefixLength", f"cannot be followed with matchOperator {rule.match_operator}")
    except BadObject as bad:
        means = "accepts nothing" if rule.action == "Accept" else "rejects whatever its cidr matches"
        raise type(bad)(bad.field, f"{bad.problem}, so the rule {means}") from None


def filter_problems(spec: BGPFilterSpec) -> Iterator[BadObject]:
    """Everything in a filter that is not followed as written, mistakes and `Unfollowed`, in the order of the fields."""
    for version, name, rules in ((4, "importV4", spec.import_v4), (6, "importV6", spec.import_v6)):
        for index, rule in enumerate(rules):
            at = f"spec.{name}[{index}]"
            try:
                check_import_rule(rule, at=at, version=version)
            except BadObject as bad:
                yield bad
            else:
                if rule.operations:
                    yield Unfollowed(f"{at}.operations", "cannot be followed yet; the routes are accepted as they come")
    for version, name, rules in ((4, "exportV4", spec.export_v4), (6, "exportV6", spec.export_v6)):
        for index, rule in enumerate(rules):
            try:
                check_rule(rule, at=f"spec.{name}[{index}]", version=version)
            except BadObject as bad:
                yield bad
        if rules:
            yield Unfollowed(f"spec.{name}", "cannot be followed yet, so routes are announced as if it were empty")


def check_community(text: str, *, at: str) -> None:
    """Raises BadObject."""
    found = _COMMUNITY.fullmatch(text)
    parts = [int(part) for part in found.groups() if part] if found else []
    if not parts or max(parts) > (65535 if len(parts) == 2 else AS_MAX):
        raise BadObject(
            at, f"must be aa:nn (16 bits each) or aa:nn:mm (32 bits each) or a name given above, is {text!r}"
        )
