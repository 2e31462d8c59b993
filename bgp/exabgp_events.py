"""What ExaBGP says, as events: JSON lines and the bare `done` and `error` that answer commands.

Theory: bytes in, events out, cut anywhere. Reading rules learnt from ExaBGP 5.0.15: `connected`, and `down` before
any `up`, mean nothing and are passed on for the caller to weigh; one prefix under two next hops is one route
(global and link-local); an UPDATE may withdraw and announce the same prefix, withdrawal first; the names of the
graceful-restart flags are swapped. An UPDATE whose attributes cannot be read withdraws its prefixes (RFC 7606),
never keeps what they said before.

Invariant: no line, however odd, raises; what is not understood becomes `Unreadable`.

Called by `bgp.supervisor`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bgp import wire

LINE_MAX_BYTES: Final = 64 << 20
_ATTRIBUTES_KEPT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To the oldest command without one."""

    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Neighbours that ExaBGP holds, answer to `show neighbor json`; the `Answer` follows."""

    established: frozenset[tuple[str, str]]
    neighbors: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    peer: str
    local: str
    remote_as: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    peer: str
    local: str
    reason: str

    @property
    def notified(self) -> bool:
        """A NOTIFICATION ended it, either way."""
        return self.reason.startswith("notification")


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """The peer's OPEN: who it is, and its promise."""

    peer: str
    local: str
    router_id: str
    remote_as: int
    restart_time_s: int
    restart_families: tuple[wire.Family, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    peer: str
    local: str
    withdrawn: tuple[str, ...]
    announced: tuple[wire.Announced, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardEnd:
    peer: str
    local: str
    family: wire.Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Echo of an UPDATE that went out."""

    peer: str
    local: str
    announced: tuple[str, ...]
    withdrawn: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldEnd:
    """Echo of our End-of-RIB."""

    peer: str
    local: str
    family: wire.Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """ExaBGP's last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    line: str
    why: str


Event = Answer | Shown | Up | Down | Open | Heard | HeardEnd | Told | ToldEnd | Stopping | Unreadable


class _Address(msgspec.Struct):
    local: str = ""
    peer: str = ""


class _Asn(msgspec.Struct):
    peer: Any = 0


class _Nlri(msgspec.Struct):
    nlri: str


class _EndOfRib(msgspec.Struct):
    afi: str
    safi: str


class _Update(msgspec.Struct):
    attribute: msgspec.Raw = msgspec.Raw(b"{}")
    announce: dict[str, dict[str, list[_Nlri]]] = {}
    withdraw: dict[str, list[_Nlri]] = {}


class _Message(msgspec.Struct):
    update: _Update | None = None
    eor: _EndOfRib | None = None


class _Neighbor(msgspec.Struct):
    address: _Address = msgspec.field(default_factory=_Address)
    asn: _Asn = msgspec.field(default_factory=_Asn)
    state: str = ""
    reason: str = ""
    direction: str = ""
    message: _Message | None = None
    open: dict[str, Any] | None = None


class _Line(msgspec.Struct):
    type: str = ""
    neighbor: _Neighbor | None = None
    notification: Any = None


class _Segment(msgspec.Struct):
    element: str = ""
    value: list[int] = []


class _Attribute(msgspec.Struct, rename="kebab"):
    origin: str = "incomplete"
    as_path: dict[str, _Segment] = {}
    med: int | None = None
    local_preference: int | None = None
    community: list[list[int] | str] = []
    large_community: list[list[int] | str] = []
    originator_id: str = ""
    cluster_list: list[str] = []
    error: str = ""


class EventDecoder:
    """One for each run of ExaBGP."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._line = msgspec.json.Decoder(_Line)
        self._attribute = msgspec.json.Decoder(_Attribute)
        self._seen: dict[bytes, wire.Attributes | None] = {}

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._rest.append(data)
            return []
        whole = b"".join([*self._rest, head])
        self._rest = [tail] if tail else []
        return [event for line in whole.split(b"\n") if line.strip() for event in self._read(line.strip())]

    def _read(self, line: bytes) -> Iterator[Event]:
        if line in {b"done", b"error"}:
            yield Answer(ok=line == b"done")
            return
        try:
            if line.startswith(b"["):
                yield _shown(msgspec.json.decode(line))
            else:
                yield from self._event(self._line.decode(line))
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield Unreadable(line=line[:500].decode("ascii", "backslashreplace"), why=str(error))

    def _event(self, line: _Line) -> Iterator[Event]:
        neighbor = line.neighbor
        if neighbor is None:
            if line.notification == "shutdown":
                yield Stopping()
            return
        peer, local = neighbor.address.peer, neighbor.address.local
        match line.type, neighbor.state:
            case "state", "up":
                yield Up(peer=peer, local=local, remote_as=_number(neighbor.asn.peer))
            case "state", "down":
                yield Down(peer=peer, local=local, reason=neighbor.reason)
            case "open", _ if neighbor.direction == "receive" and neighbor.open is not None:
                yield _open(peer, local, neighbor.open)
            case "update", _ if neighbor.message is not None:
                yield from self._update(peer, local, neighbor.direction, neighbor.message)
            case _:
                pass

    def _update(self, peer: str, local: str, direction: str, message: _Message) -> Iterator[Event]:
        if message.eor is not None:
            family = wire.Family(f"{message.eor.afi} {message.eor.safi}")
            kind = HeardEnd if direction == "receive" else ToldEnd
            yield kind(peer=peer, local=local, family=family)
        update = message.update
        if update is None:
            return
        withdrawn = tuple(item.nlri for items in update.withdraw.values() for item in items)
        next_hops: defaultdict[str, list[str]] = defaultdict(list)
        for family_hops in update.announce.values():
            for next_hop, items in family_hops.items():
                for item in items:
                    next_hops[item.nlri].append(next_hop)
        if direction == "send":
            yield Told(peer=peer, local=local, announced=tuple(next_hops), withdrawn=withdrawn)
            return
        if not next_hops:
            yield Heard(peer=peer, local=local, withdrawn=withdrawn, announced=())
            return
        attributes = self._attributes(bytes(update.attribute))
        if attributes is None:
            yield Heard(peer=peer, local=local, withdrawn=(*withdrawn, *next_hops), announced=())
            return
        groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for prefix, hops in next_hops.items():
            groups[tuple(sorted(set(hops)))].append(prefix)
        announced = tuple(
            wire.Announced(prefixes=tuple(prefixes), next_hops=hops, attributes=attributes)
            for hops, prefixes in groups.items()
        )
        yield Heard(peer=peer, local=local, withdrawn=withdrawn, announced=announced)

    def _attributes(self, raw: bytes) -> wire.Attributes | None:
        """None where they cannot be trusted. Equal bytes are read once: routes come in long runs of equal
        attributes."""
        if raw not in self._seen:
            if len(self._seen) >= _ATTRIBUTES_KEPT:
                self._seen.clear()
            try:
                self._seen[raw] = _attributes(self._attribute.decode(raw))
            except msgspec.MsgspecError:
                self._seen[raw] = None
        return self._seen[raw]


def _attributes(read: _Attribute) -> wire.Attributes | None:
    if read.error == "treat-as-withdraw":
        return None
    path: list[int] = []
    length = 0
    for _, segment in sorted(read.as_path.items(), key=lambda item: int(item[0])):
        path.extend(segment.value)
        if segment.element == "as-sequence":
            length += len(segment.value)
        elif segment.element == "as-set":
            length += 1
    return wire.Attributes(
        origin=read.origin,
        as_path=tuple(path),
        as_path_length=length,
        med=read.med,
        local_preference=read.local_preference,
        communities=_communities(read.community),
        large_communities=_communities(read.large_community),
        originator_id=read.originator_id,
        cluster_list=tuple(read.cluster_list),
    )


def _communities(read: list[list[int] | str]) -> tuple[str, ...]:
    return tuple(item if isinstance(item, str) else ":".join(map(str, item)) for item in read)


def _open(peer: str, local: str, read: dict[str, Any]) -> Open:
    restart = read.get("capabilities", {}).get("64", {})
    families = tuple(
        family for family in wire.Family if family.value.replace(" ", "/") in restart.get("address-family-flags", {})
    )
    return Open(
        peer=peer,
        local=local,
        router_id=str(read.get("router_id", "")),
        remote_as=_number(read.get("capabilities", {}).get("65", {}).get("asn4", read.get("asn", 0))),
        restart_time_s=int(restart.get("time", 0)) if families else 0,
        restart_families=families,
    )


def _shown(read: list[dict[str, Any]]) -> Shown:
    def key(item: dict[str, Any]) -> tuple[str, str]:
        return (str(item["peer"]["address"]), str(item["local"]["address"]))

    return Shown(
        neighbors=frozenset(key(item) for item in read),
        established=frozenset(key(item) for item in read if item.get("fsm") == "ESTABLISHED"),
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
