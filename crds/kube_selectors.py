"""Kubernetes' own label and field selectors (not Calico's language), evaluated on an object's JSON values.

Only for fakes: a real API server does this itself. Labels: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`,
`!a`, joined by commas. Fields: `path=value`, `path==value`, `path!=value`; as with the real one, only metadata.name
and metadata.namespace for every kind, and the few that a kind declares. Called by crds.fake_store alone.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from crds.errors import ApiError

Predicate = Callable[[Mapping[str, Any]], bool]

_FIELDS_OF = {
    "Pod": frozenset({"spec.nodeName", "status.phase", "spec.serviceAccountName", "spec.hostNetwork"}),
    "Node": frozenset({"spec.unschedulable"}),
    "Secret": frozenset({"type"}),
    "BlockAffinity": frozenset({"spec.node"}),
    "CalicoNodeStatus": frozenset({"spec.node"}),
    "Event": frozenset({"reason", "type", "involvedObject.kind", "involvedObject.name", "involvedObject.uid"}),
}
_ALWAYS = frozenset({"metadata.name", "metadata.namespace"})
_SET = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[^\s!=,()]+)\s*$")


def label_predicate(selector: str) -> Predicate:
    tests = [_label_test(part) for part in re.split(r",(?![^()]*\))", selector)] if selector.strip() else []
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def field_predicate(selector: str, *, kind: str) -> Predicate:
    tests = [_field_test(part, kind=kind) for part in selector.split(",")] if selector.strip() else []
    return lambda obj: all(test(obj) for test in tests)


def _label_test(part: str) -> Predicate:
    if found := _SET.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        key = found["key"]
        if found["not"]:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    raise _bad_request(f"unable to parse requirement: {part!r}")


def _field_test(part: str, *, kind: str) -> Predicate:
    found = _EQUAL.match(part)
    if found is None:
        raise _bad_request(f"invalid field selector {part!r}")
    path, value = found["key"], found["value"]
    if path not in _ALWAYS | _FIELDS_OF.get(kind, frozenset()):
        raise _bad_request(f"field label not supported: {path}")
    wanted = found["op"] != "!="
    return lambda obj: (_at(obj, path) == value) == wanted


def _at(obj: Mapping[str, Any], path: str) -> str:
    here: Any = obj
    for step in path.split("."):
        here = here.get(step, "") if isinstance(here, Mapping) else ""
    return str(here).lower() if isinstance(here, bool) else str(here)


def _bad_request(message: str) -> ApiError:
    return ApiError(message, status=400, reason="BadRequest")
