"""Bytes <-> wire objects.

Theory: `msgspec` decodes JSON straight into typed structs, about twenty times faster than through dicts, and checks
types on the way; unknown fields are skipped without being built. Decoders are made once a kind and kept. apiVersion
and kind follow from the Python type, so they are added on the way out and not looked at on the way in (the items of
a Kubernetes list of a built-in kind do not carry them).

Invariant: content that does not fit raises BadObject with the wire's own path of the field, never msgspec's error.
"""

import re
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from crds.errors import BadObject
from crds.meta import Resource, Wire

R = TypeVar("R", bound=Resource)


class ListMeta(Wire, frozen=True, kw_only=True):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class WireList(Wire, Generic[R], frozen=True, kw_only=True):
    """A page of a Kubernetes list."""

    metadata: ListMeta = ListMeta()
    items: tuple[R, ...] = ()


class RawList(Wire, frozen=True, kw_only=True):
    """The same page with its items not yet decoded: to find the one that does not fit."""

    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] = ()


class NamedOnly(Wire, frozen=True, kw_only=True):
    """Enough of any object to say which one it is."""

    metadata: dict[str, Any] = msgspec.field(default_factory=dict)

    def key(self) -> str:
        return "/".join(str(self.metadata[k]) for k in ("namespace", "name") if self.metadata.get(k))


@cache
def decoder(kind: type[R]) -> "msgspec.json.Decoder[R]":
    return msgspec.json.Decoder(kind)


@cache
def list_decoder(kind: type[R]) -> "msgspec.json.Decoder[WireList[R]]":
    return msgspec.json.Decoder(WireList[kind])  # type: ignore[valid-type]


_raw_list_decoder = msgspec.json.Decoder(RawList)
_named_decoder = msgspec.json.Decoder(NamedOnly)


def decode(kind: type[R], body: bytes | msgspec.Raw) -> R:
    """One object. Raises BadObject("spec.asNumber", "Expected `int`, got `str`")."""
    try:
        obj: R = decoder(kind).decode(body)
    except msgspec.MsgspecError as error:
        raise bad_object(error) from None
    return obj


def decode_list(kind: type[R], body: bytes) -> tuple[WireList[R], tuple[tuple[str, BadObject], ...]]:
    """A page, and the objects on it that do not fit (key and problem): one bad object never hides the others."""
    try:
        return list_decoder(kind).decode(body), ()
    except msgspec.MsgspecError:
        pass
    try:
        raw = _raw_list_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise bad_object(error) from None
    good: list[R] = []
    bad: list[tuple[str, BadObject]] = []
    for item in raw.items:
        try:
            good.append(decode(kind, item))
        except BadObject as problem:
            bad.append((key_of(item), problem))
    return WireList(metadata=raw.metadata, items=tuple(good)), tuple(bad)


def key_of(body: bytes | msgspec.Raw) -> str:
    """namespace/name of an object of any kind, "?" when it has none."""
    try:
        return _named_decoder.decode(body).key() or "?"
    except msgspec.MsgspecError:
        return "?"


def to_wire(obj: Resource) -> dict[str, Any]:
    """The object as JSON values, with apiVersion and kind."""
    return {"apiVersion": obj.api_version(), "kind": obj.kind, **msgspec.to_builtins(obj)}


def encode(obj: Resource) -> bytes:
    return msgspec.json.encode(to_wire(obj))


def from_wire(kind: type[R], value: dict[str, Any]) -> R:
    """The object made of JSON values (a parsed YAML file, a fake's memory)."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.MsgspecError as error:
        raise bad_object(error) from None


_PATH = re.compile(r" - at `\$\.?(?P<path>.*)`$")


def bad_object(error: msgspec.MsgspecError) -> BadObject:
    """msgspec's "Expected `int`, got `str` - at `$.spec.x`" as a BadObject of field spec.x."""
    text = str(error)
    found = _PATH.search(text)
    if found is None:
        return BadObject("object", text)
    return BadObject(found["path"] or "object", text[: found.start()])


def delete_options(*, uid: str, resource_version: str, grace_period_s: int | None) -> dict[str, Any]:
    """metav1.DeleteOptions: delete only the object of this uid and version; "" does not care."""
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
    wanted = {"uid": uid, "resourceVersion": resource_version}
    if preconditions := {key: value for key, value in wanted.items() if value}:
        options["preconditions"] = preconditions
    if grace_period_s is not None:
        options["gracePeriodSeconds"] = grace_period_s
    return options
