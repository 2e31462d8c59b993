"""What goes over the agent's socket between shim.c and felix.cni_server: bytes in, values out, no socket here.

    request  "TCN1" u32:length | u32:deadline_ms, environment "CNI_X=y\\0"... "\\0", stdin    (+ SCM_RIGHTS descriptor)
    answer   u32:exit_status u32:length | text for stdout

In the machine's byte order: both ends run on one machine. A frame that is cut off is no request: a shim that was
killed while it sent has asked for nothing. The same frames are the tombstones that the shim leaves for a DEL while the
agent is away.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cni.spec import CniCall, CniError, Code, parse_call

MAGIC = b"TCN1"
REQUEST_MAX = (1 << 20) + (1 << 16) + 64
_HEAD = struct.Struct("=4sI")
_DEADLINE = struct.Struct("=I")
_ANSWER = struct.Struct("=II")


class BadFrame(ValueError):
    """The peer does not speak our protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A whole frame, not looked into yet."""

    environment: dict[str, str]
    stdin: bytes
    deadline_ms: int

    def call(self, *, netns_fd: int | None) -> CniCall:
        """Checked, or CniError."""
        return parse_call(self.environment, self.stdin, netns_fd=netns_fd, deadline_ms=self.deadline_ms)


class RequestDecoder:
    """Collects one frame. How the bytes are cut does not matter."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Request | None:
        """The request once it is whole, else None. BadFrame for anything else, also for bytes behind the frame."""
        self._data += data
        if not MAGIC.startswith(bytes(self._data[:4])):
            raise BadFrame("not a request of the shim")
        if len(self._data) < _HEAD.size:
            return None
        length = _HEAD.unpack_from(self._data)[1]
        if length > REQUEST_MAX:
            raise BadFrame(f"a request of {length} bytes is too long")
        if len(self._data) < _HEAD.size + length:
            return None
        if len(self._data) > _HEAD.size + length:
            raise BadFrame("bytes behind the request")
        return _decode_body(bytes(self._data[_HEAD.size :]))


def _decode_body(body: bytes) -> Request:
    if len(body) < 5:
        raise BadFrame("a request without environment")
    (deadline_ms,) = _DEADLINE.unpack_from(body)
    at = 4
    environment: dict[str, str] = {}
    while True:
        end = body.find(b"\0", at)
        if end < 0:
            raise BadFrame("an environment without end")
        if end == at:
            break
        key, _, value = body[at:end].decode("utf-8", errors="replace").partition("=")
        environment[key] = value
        at = end + 1
    return Request(environment=environment, stdin=body[at + 1 :], deadline_ms=deadline_ms)


def encode_request(environment: dict[str, str], stdin: bytes, *, deadline_ms: int = 55_000) -> bytes:
    """What the shim sends; for tests and tools."""
    lines = b"".join(f"{key}={value}".encode() + b"\0" for key, value in environment.items())
    body = _DEADLINE.pack(deadline_ms) + lines + b"\0" + stdin
    return _HEAD.pack(MAGIC, len(body)) + body


def encode_answer(text: bytes) -> bytes:
    """Success."""
    return _ANSWER.pack(0, len(text)) + text


def encode_error(error: CniError, *, version: str) -> bytes:
    """Failure: the text is the error, the exit status 1."""
    text = error.encode(version)
    return _ANSWER.pack(1, len(text)) + text


def decode_answer(data: bytes) -> tuple[int, bytes]:
    """(exit status, text) of a whole answer."""
    if len(data) < _ANSWER.size:
        raise BadFrame("half an answer")
    status, length = _ANSWER.unpack_from(data)
    if len(data) != _ANSWER.size + length:
        raise BadFrame("half an answer")
    return status, data[_ANSWER.size :]


__all__ = ["BadFrame", "CniCall", "CniError", "Code", "Request", "RequestDecoder", "decode_answer", "encode_answer"]
