"""What agent and speaker say to each other over the Unix socket: one JSON object a line, either way.

Theory: a protocol is bytes in, events out (`Decoder.feed`), so that it can be tested cut anywhere; who owns the
socket is another file's affair. Each message is a msgspec struct, told apart by its tag `t`. Agent and speaker live
in different pods and are updated at different times, so either side may be one release older: fields are only ever
added, with defaults; an unknown field is ignored by msgspec, and an unknown *message* is dropped here. What cannot
be bridged raises `VERSION`, and `Hello` carries the oldest version a side still understands.

Invariants: a line is ASCII, ends with one newline, and is at most LINE_MAX_BYTES long; a password is never in a repr.

Called by `bgp.supervisor` and `felix.bgp_link`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import msgspec

VERSION: Final = 1
OLDEST: Final = 1
LINE_MAX_BYTES: Final = 64 << 20


class Family(StrEnum):
    """An address family, spelt as ExaBGP's commands spell it."""

    IPV4 = "ipv4 unicast"
    IPV6 = "ipv6 unicast"


class NeighborId(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Who a session is with. One peer address may be reached from two local ones (two links to one router), so both
    count.

    `local` is "" where the kernel chooses the source address.
    """

    peer: str
    local: str = ""

    def __str__(self) -> str:
        return f"{self.peer} from {self.local}" if self.local else self.peer


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that ExaBGP must know to hold one session."""

    id: NeighborId
    name: str
    peer_as: int
    local_as: int
    router_id: str
    families: tuple[Family, ...]
    connect_port: int = 179
    listen_port: int = 0
    """0: this session is only dialled. Else our end also accepts on `id.local`, so that a peer that was away is
    back at once."""
    hold_time_s: int = 90
    restart_time_s: int = 120
    """Graceful restart time we ask of the peer (RFC 4724), at most 4095: the field has 12 bits. 0: no graceful
    restart."""
    password: str = ""
    """TCP MD5 key (RFC 2385), at most 80 bytes."""
    ttl_hops: int = 0
    """GTSM (RFC 5082): the peer is at most so many hops away. 0: not checked."""
    source_interface: str = ""

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in {"password"}
        )
        return f"Session({shown}, password={'(set)' if self.password else '(none)'})"


class RouteGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prefixes of one family to announce with the same attributes."""

    family: Family
    prefixes: tuple[str, ...]
    next_hop: str = "self"
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    med: int | None = None
    neighbors: tuple[NeighborId, ...] | None = None
    """Only to these; None: to all that carry the family."""


# -- both ways
# ---------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="hello"):
    """First line each way."""

    version: int = VERSION
    oldest: int = OLDEST
    program: str = ""

    def speaks_with(self, other: Hello) -> bool:
        """Whether the two sides have a version in common."""
        return self.version >= other.oldest and other.version >= self.oldest


# -- agent to speaker
# --------------------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="wanted"):
    """All sessions and all routes; replaces what was wanted before.

    `complete` is False as long as the agent has not seen all its sources: then the speaker may add and open, but
    takes nothing away and sends no End-of-RIB, so that a restarting agent never makes a peer drop routes it held
    for us.
    """

    revision: int
    complete: bool
    sessions: tuple[Session, ...] = ()
    routes: tuple[RouteGroup, ...] = ()


class Restart(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="restart"):
    """Restart ExaBGP whole (graceful restart keeps the routes)."""

    reason: str = ""


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="drain"):
    """Withdraw everything, for this node is going away; a new `Wanted` ends it."""

    reason: str = ""


class Resync(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="resync"):
    """Send the whole table again."""


# -- speaker to agent
# --------------------------------------------------------------------------------------------------


class State(StrEnum):
    """Of a session, as far as the speaker knows."""

    UP = "up"
    DOWN = "down"
    NEVER = "never"
    """Was not up since the speaker started; ExaBGP says nothing while a peer does not answer at all."""


class Cause(StrEnum):
    """What ended a session, as far as it decides about the routes it brought (RFC 4724, the helper's part)."""

    LOST = "lost"
    """The transport closed: the peer restarts, perhaps; keep its routes if it promised to forward meanwhile."""
    NOTIFIED = "notified"
    """A NOTIFICATION, either way: drop them at once."""
    OURS = "ours"
    """Our own ExaBGP ended: the peer still forwards, so keep them in any case."""


class PeerState(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="peer", omit_defaults=True):
    """A session's state; sent at each change, and for each neighbour in a table."""

    id: NeighborId
    state: State
    since_s: float
    """Wall clock, seconds since the epoch."""
    reason: str = ""
    cause: Cause = Cause.LOST
    router_id: str = ""
    remote_as: int = 0
    restart_time_s: int = 0
    """The peer's promise: how long to keep its routes while it restarts; 0: it made none."""
    restart_families: tuple[Family, ...] = ()


class Announced(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prefixes heard in one UPDATE with the same attributes and next hops."""

    prefixes: tuple[str, ...]
    next_hops: tuple[str, ...]
    attributes: Attributes


class Attributes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="kebab"):
    """Path attributes, spelt as ExaBGP spells them. `as_path` is flattened; a set counts one hop (RFC 4271
    9.1.2.2a)."""

    origin: str = "incomplete"
    as_path: tuple[int, ...] = ()
    as_path_length: int = 0
    med: int | None = None
    local_preference: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    originator_id: str = ""
    cluster_list: tuple[str, ...] = ()


class Routes(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="routes", omit_defaults=True):
    """What one neighbour changed. Withdrawals count first, as an UPDATE may hold both of one prefix."""

    id: NeighborId
    withdrawn: tuple[str, ...] = ()
    announced: tuple[Announced, ...] = ()


class EndOfRib(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="eor"):
    """The neighbour has sent all it has of this family (RFC 4724)."""

    id: NeighborId
    family: Family


class Sent(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="sent", omit_defaults=True):
    """What really went out on the wire to one neighbour, from ExaBGP's echo of it."""

    id: NeighborId
    announced: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    reset: bool = False
    """Forget what was sent before: a new session starts from nothing."""


class TableBegin(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="table-begin"):
    """The whole state follows, up to `TableEnd`; forget what was said before, but for routes held for a restarting
    peer."""


class TableEnd(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="table-end"):
    """The table is whole; what follows are changes."""


class Configured(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="configured", omit_defaults=True):
    """ExaBGP runs with this revision of the sessions, or why not."""

    revision: int
    problem: str = ""


class Speaking(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="speaking", omit_defaults=True):
    """About the speaker itself: how often ExaBGP was started, and what went wrong last."""

    starts: int
    pid: int = 0
    problem: str = ""


ToSpeaker = Hello | Wanted | Restart | Drain | Resync
ToAgent = Hello | PeerState | Routes | EndOfRib | Sent | TableBegin | TableEnd | Configured | Speaking

_M = TypeVar("_M")
_encoder = msgspec.json.Encoder()


class Garbage(ValueError):
    """The other side said something that is no message of this protocol: drop the connection."""


class _Tagged(msgspec.Struct):
    t: str = ""


class Decoder(Generic[_M]):
    """Bytes in, messages out; how the bytes are cut does not matter."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.json.Decoder[_M] = msgspec.json.Decoder(union)
        self._tags = msgspec.json.Decoder(_Tagged)
        self._known = frozenset(str(member.__struct_config__.tag) for member in getattr(union, "__args__", (union,)))
        self._rest = b""

    def feed(self, data: bytes) -> list[_M]:
        """The messages that `data` completes. Raises Garbage."""
        head, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > LINE_MAX_BYTES:
            raise Garbage(f"a line of more than {LINE_MAX_BYTES} bytes")
        if not newline:
            return []
        return [message for line in head.split(b"\n") if line for message in self._decode(line)]

    def _decode(self, line: bytes) -> tuple[_M, ...]:
        try:
            return (self._decoder.decode(line),)
        except msgspec.DecodeError as broken:
            if self._is_newer(line):
                return ()
            raise Garbage(str(broken)) from broken

    def _is_newer(self, line: bytes) -> bool:
        """Whether this is a message that only a newer release knows: those are passed over."""
        try:
            tag = self._tags.decode(line).t
        except msgspec.DecodeError:
            return False
        return bool(tag) and tag not in self._known


def for_speaker() -> Decoder[ToSpeaker]:
    """A decoder for what an agent says."""
    return Decoder(ToSpeaker)


def for_agent() -> Decoder[ToAgent]:
    """A decoder for what a speaker says."""
    return Decoder(ToAgent)


def encode(message: ToSpeaker | ToAgent) -> bytes:
    """One message as a line."""
    return _encoder.encode(message) + b"\n"
