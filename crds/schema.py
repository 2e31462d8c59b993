"""How an OpenAPI schema with CEL rules is written down in Python: a dozen small functions that return JSON values.

Theory: a CustomResourceDefinition is data; writing it as YAML by hand repeats the same eight lines for each field and
lets spelling drift from the structs. Here a field is one line. `crds.definitions` collects them, `crds.generate`
prints them, and a test holds the property names against the structs' wire names.

Rules for messages: one sentence that names the field and says what is allowed; the API server puts the value before
it. Rules for cost: every list, map and string that a CEL rule walks has a bound, else the API server refuses the CRD.
Called by crds.schema_*.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

CIDR_MAX = 48
"""Longest CIDR text: eight groups of four, an embedded IPv4 address, /128."""
SELECTOR_MAX = 1024
NAME_MAX = 253
AS_MAX = 4294967295
PRIORITY_MAX = 2147483646

DURATION = r"^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$"


def _clean(schema: Schema) -> Schema:
    """Without what says nothing."""
    return {key: value for key, value in schema.items() if value not in ([], 0, "", None)}


def _named(more: dict[str, Any]) -> Schema:
    """Python's keyword `min_items` as OpenAPI's minItems."""
    return {"".join([key.split("_")[0], *map(str.title, key.split("_")[1:])]): value for key, value in more.items()}


def rule(expression: str, message: str, *, at: str = "", old: str = "") -> Schema:
    """One CEL rule. `at` is the field below this one that an error should name; `old` allows oldSelf to be absent."""
    made: Schema = {"rule": expression, "message": message}
    if at:
        made["fieldPath"] = f".{at}"
    if old:
        made["optionalOldSelf"] = True
    return made


def record(
    description: str, properties: dict[str, Schema], *, required: tuple[str, ...] = (), rules: tuple[Schema, ...] = ()
) -> Schema:
    return _clean(
        {
            "type": "object",
            "description": description,
            "required": list(required),
            "properties": properties,
            "x-kubernetes-validations": list(rules),
        }
    )


def text(description: str, *, longest: int = 0, rules: tuple[Schema, ...] = (), **more: Any) -> Schema:
    """`more`: pattern, format, default, enum ... as OpenAPI spells them."""
    return _clean(
        {
            "type": "string",
            "description": description,
            "maxLength": longest,
            "x-kubernetes-validations": list(rules),
        }
    ) | _named(more)


def choice(description: str, *allowed: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, "enum": list(allowed)} | _named(more)


def number(description: str, *, low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    made: Schema = {"type": "integer", "description": description, "format": "int64"}
    if low is not None:
        made["minimum"] = low
    if high is not None:
        made["maximum"] = high
        if high < 2**31:
            made["format"] = "int32"
    return made | _named(more)


def flag(description: str, **more: Any) -> Schema:
    return {"type": "boolean", "description": description} | _named(more)


def items(description: str, item: Schema, *, most: int = 0, kind: str = "atomic", **more: Any) -> Schema:
    """A list; `kind` is atomic or set."""
    return _clean(
        {
            "type": "array",
            "description": description,
            "items": item,
            "maxItems": most,
            "x-kubernetes-list-type": kind,
        }
    ) | _named(more)


def table(description: str, value: Schema, **more: Any) -> Schema:
    """A map from free keys to values."""
    return {"type": "object", "description": description, "additionalProperties": value} | _named(more)


def cidr(description: str, *, field: str, rules: tuple[Schema, ...] = ()) -> Schema:
    """A CIDR; further `rules` need not check that it is one."""
    valid = rule("isCIDR(self)", f"{field} must be a CIDR such as 10.1.0.0/16 or fd00:1::/48")
    guarded = tuple(other | {"rule": f"!isCIDR(self) || ({other['rule']})"} for other in rules)
    return text(description, longest=CIDR_MAX, rules=(valid, *guarded))


def selector(description: str, *, field: str, **more: Any) -> Schema:
    """A selector in Calico's language. CEL cannot parse it; what the language refuses becomes a condition."""
    no_global = rule("!self.contains('global(')", f"{field} must not use global(), which is for policies only")
    return text(description, longest=SELECTOR_MAX, rules=(no_global,), **more)


def address(description: str, *, field: str, family: int = 0) -> Schema:
    check = f"isIP(self) && ip(self).family() == {family}" if family else "isIP(self)"
    what = f"an IPv{family} address" if family else "an IP address"
    return text(description, longest=64, rules=(rule(f"self == '' || ({check})", f"{field} must be {what}"),))


CONDITIONS: Schema = {
    "type": "array",
    "description": "What the operator and the agents say about this object; at most one entry of each type.",
    "maxItems": 32,
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": record(
        "One aspect of the object's state.",
        {
            "type": text("CamelCase name of the aspect.", longest=316),
            "status": choice("Whether it holds.", "True", "False", "Unknown"),
            "reason": text("CamelCase word for why.", longest=1024),
            "message": text("A sentence for people.", longest=32768),
            "lastTransitionTime": text("When status last changed.", format="date-time"),
            "observedGeneration": number("The metadata.generation that this was said about.", low=0),
        },
        required=("type", "status"),
    ),
}

STATUS: Schema = record("Written by Tortie alone.", {"conditions": CONDITIONS})
