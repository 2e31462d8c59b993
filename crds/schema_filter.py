"""Schema of BGPFilter. Each rule is checked against itself; the four lists differ only in the family of the CIDR."""

from crds.schema import AS_MAX, PRIORITY_MAX, Schema, choice, items, number, record, rule, text
from crds.schema_bgp import community

_RULES_MAX = 500

_OPERATION = record(
    "One change of a route that is accepted.",
    {
        "addCommunity": record("Add a community.", {"value": community("addCommunity.value")}, required=("value",)),
        "prependASPath": record(
            "Put AS numbers before the path; the last one ends up first.",
            {"prefix": items("AS numbers.", number("An AS number.", low=1, high=AS_MAX), most=10, min_items=1)},
            required=("prefix",),
        ),
        "setPriority": record(
            "Set the metric.", {"value": number("The metric.", low=1, high=PRIORITY_MAX)}, required=("value",)
        ),
    },
    rules=(
        rule(
            "[has(self.addCommunity), has(self.prependASPath), has(self.setPriority)].filter(given, given).size() == 1",
            "each of operations must have exactly one of addCommunity, prependASPath and setPriority",
        ),
    ),
)


def _rules(description: str, *, family: int) -> Schema:
    length_max, text_max = (32, 18) if family == 4 else (128, 43)
    length = number("A prefix length.", low=0, high=length_max)
    valid = rule(
        f"self == '' || (isCIDR(self) && cidr(self).ip().family() == {family})", f"cidr must be an IPv{family} CIDR"
    )
    one = record(
        "What a route must be, and what happens to it.",
        {
            "action": choice("What happens to a route that matches.", "Accept", "Reject"),
            "cidr": text("Compared with the route's prefix by matchOperator.", longest=text_max, rules=(valid,)),
            "matchOperator": choice("How cidr is compared.", "Equal", "NotEqual", "In", "NotIn"),
            "prefixLength": record("Limits of the route's prefix length.", {"min": length, "max": length}),
            "source": choice("Only routes learned from other BGP speakers.", "RemotePeers"),
            "interface": text("Only routes by this interface; * is a wildcard.", longest=15),
            "peerType": choice("Only to or from peers of this type.", "eBGP", "iBGP"),
            "communities": record(
                "Only routes with this community.",
                {"values": items("Exactly one.", community("communities.values"), most=1, min_items=1)},
                required=("values",),
            ),
            "asPathPrefix": items(
                "Only routes whose AS path begins so.", number("An AS number.", low=1, high=AS_MAX), most=100
            ),
            "priority": number("Only routes with this metric.", low=1, high=PRIORITY_MAX),
            "operations": items("Changes of an accepted route, in order.", _OPERATION, most=10, min_items=1),
        },
        required=("action",),
        rules=(
            rule(
                "(has(self.cidr) && self.cidr != '') == (has(self.matchOperator) && self.matchOperator != '')",
                "cidr and matchOperator must be set together",
            ),
            rule(
                "!has(self.prefixLength) || (has(self.cidr) && self.cidr != '')",
                "prefixLength must go with cidr",
            ),
            rule("!has(self.operations) || self.action == 'Accept'", "operations must go with action Accept"),
        ),
    )
    return items(description, one, most=_RULES_MAX)


BGP_FILTER = record(
    "Rules for routes that are announced and learned; the first that matches decides.",
    {
        "importV4": _rules("For IPv4 routes learned.", family=4),
        "exportV4": _rules("For IPv4 routes announced.", family=4),
        "importV6": _rules("For IPv6 routes learned.", family=6),
        "exportV6": _rules("For IPv6 routes announced.", family=6),
    },
)
