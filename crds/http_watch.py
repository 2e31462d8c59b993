"""The watch protocol: bytes of a response body in, watch events out. Owns no connection and no clock.

A watch answers one JSON object a line: {"type": "ADDED", "object": {...}}. How the bytes are cut into chunks means
nothing, and a line may be as long as an object (over a megabyte). Called by crds.http_store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from crds.codec import ListMeta, decode, key_of
from crds.errors import ApiError, BadObject, Gone, api_error
from crds.meta import Resource, Wire
from crds.store import Added, Bookmark, Deleted, Modified, WatchEvent

R = TypeVar("R", bound=Resource)


class WireEvent(Wire, frozen=True, kw_only=True):
    type: str
    object: msgspec.Raw


class WireStatus(Wire, frozen=True, kw_only=True):
    """metav1.Status, the body of every refusal."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _Versioned(Wire, frozen=True, kw_only=True):
    metadata: ListMeta = ListMeta()


_events = msgspec.json.Decoder(WireEvent)
_statuses = msgspec.json.Decoder(WireStatus)
_versions = msgspec.json.Decoder(_Versioned)


class WatchDecoder(Generic[R]):
    """Collects bytes until a line is whole."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._pending: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[WatchEvent[R]]:
        """The events that `chunk` completes. Raises Gone and other ApiErrors that the server sends in the stream."""
        first, newline, rest = chunk.partition(b"\n")
        self._pending.append(first)
        if not newline:
            return
        line = b"".join(self._pending)
        self._pending.clear()
        yield from self._event(line)
        *lines, tail = rest.split(b"\n")
        self._pending.append(tail)
        for line in lines:
            yield from self._event(line)

    def _event(self, line: bytes) -> Iterator[WatchEvent[R]]:
        if not line.strip():
            return
        try:
            event = _events.decode(line)
        except msgspec.MsgspecError as error:
            raise ConnectionError(f"the watch of {self._kind.plural} sent no event: {error}") from None
        match event.type:
            case "ADDED":
                yield Added(self._object(event))
            case "MODIFIED":
                yield Modified(self._object(event))
            case "DELETED":
                yield Deleted(self._object(event))
            case "BOOKMARK":
                yield Bookmark(_versions.decode(event.object).metadata.resource_version)
            case _:
                raise status_error(bytes(event.object), status=500)

    def _object(self, event: WireEvent) -> R:
        try:
            return decode(self._kind, event.object)
        except BadObject as problem:
            # Skipping it would leave the object's old state standing; a list says plainly that it cannot be read.
            raise Gone(f"{self._kind.kind} {key_of(event.object)} cannot be read, list again: {problem}") from None


def status_error(body: bytes, *, status: int) -> ApiError:
    """The exception for a refusal; `status` is the HTTP code, in case the body does not say."""
    try:
        said = _statuses.decode(body)
    except msgspec.MsgspecError:
        return api_error(status, message=body[:200].decode(errors="replace").strip())
    return api_error(said.code or status, reason=said.reason, message=said.message)
