"""ExaBGP's configuration and environment, as one canonical text.

Theory: the text is a function of the sessions alone, sorted and written in full, so "did anything change?" is a
comparison of bytes, and an unchanged session never flaps. ExaBGP expands backslashes before it reads quotes, and
takes a newline for what it is; so nothing is escaped here: each value must match its own narrow pattern, and what
does not is refused by name. No templates (a template overrides the neighbour that inherits it), the process section
first (a later error would otherwise make ExaBGP believe that it has no helper), booleans always with a value (a
bare `manual-eor;` means false).

Called by `bgp.supervisor`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from bgp import wire

PROCESS: Final = "relay"
RESTART_TIME_MAX_S: Final = 4095
PASSWORD_MAX_BYTES: Final = 80
AS_MAX: Final = (1 << 32) - 1

_WORD = re.compile(r"[A-Za-z0-9._/+-]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9 ._:/+=-]{1,253}", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9._-]{1,15}", re.ASCII)


class Unsafe(ValueError):
    """A value that must not get into the text: `field: problem`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text, the sessions that are in it, and why others are not."""

    text: str
    mark: str
    """Address of the mark: ExaBGP lists it if, and only if, it runs with exactly this text."""
    sessions: tuple[wire.Session, ...]
    refused: tuple[str, ...]


def render(sessions: Iterable[wire.Session], *, relay: tuple[str, ...]) -> Rendered:
    """The whole file. `relay` is the relay's command, each word a path. Raises Unsafe for a bad command only."""
    for word in relay:
        _match(_WORD, "relay", word)
    chosen: dict[wire.NeighborId, wire.Session] = {}
    parts = [f"process {PROCESS} {{\n    run {' '.join(relay)};\n    encoder json;\n}}\n"]
    refused = []
    for session in sorted(sessions, key=lambda session: session.id):
        if session.id in chosen:
            taken_by = chosen[session.id].name
            refused.append(f"session {session.name!r}: id: {session.id} is already taken by {taken_by!r}")
            continue
        try:
            parts.append(neighbor(session))
        except Unsafe as problem:
            refused.append(f"session {session.name!r}: {problem}")
        else:
            chosen[session.id] = session
    mark = _mark("".join(parts))
    parts.insert(
        1,
        f"neighbor {mark} {{\n    router-id 0.0.0.1;\n    local-as 65535;\n    peer-as 65535;\n"
        "    passive true;\n    family { ipv4 unicast; }\n}\n",
    )
    return Rendered(text="".join(parts), mark=mark, sessions=tuple(chosen.values()), refused=tuple(refused))


def _mark(text: str) -> str:
    """A neighbour that nobody can be (240.0.0.0/4 is no unicast address), passive, named by the digest of the text.

    ExaBGP drops a reload without a word when it is busy. `show neighbor` lists addresses and nothing else that would
    tell two configurations apart; the mark makes it tell them all.
    """
    return str(IPv4Address(int(IPv4Address("240.0.0.0")) | int.from_bytes(sha256(text.encode()).digest()[:3], "big")))


def neighbor(session: wire.Session) -> str:
    """One neighbour in full. Raises Unsafe."""
    lines = [*_identity(session), *_transport(session), *_capabilities(session)]
    lines.append(
        f"api {{ processes [ {PROCESS} ]; neighbor-changes; receive {{ parsed; open; update; }} "
        "send { parsed; update; } }"
    )
    body = "".join(f"    {line}\n" for line in lines)
    return f"neighbor {_address('peer', session.id.peer)} {{\n{body}}}\n"


def _identity(session: wire.Session) -> Iterable[str]:
    peer = _address("peer", session.id.peer)
    yield f'description "{_match(_NAME, "name", session.name)}";'
    router_id = _address("router_id", session.router_id)
    if router_id.version != 4 or int(router_id) == 0:
        raise Unsafe("router_id", f"must be an IPv4 address other than 0.0.0.0, is {session.router_id!r}")
    yield f"router-id {router_id};"
    if session.id.local:
        local = _address("local", session.id.local)
        if local.version != peer.version or local == peer:
            raise Unsafe("local", f"must be another address of the family of {peer}, is {session.id.local!r}")
        yield f"local-address {local};"
    yield f"local-as {_within('local_as', session.local_as, 1, AS_MAX)};"
    yield f"peer-as {_within('peer_as', session.peer_as, 1, AS_MAX)};"


def _transport(session: wire.Session) -> Iterable[str]:
    if session.hold_time_s != 0:
        _within("hold_time_s", session.hold_time_s, 3, 65535)
    yield f"hold-time {session.hold_time_s};"
    if session.connect_port != 179:
        yield f"connect {_within('connect_port', session.connect_port, 1, 65535)};"
    if session.listen_port and session.id.local and not ip_address(session.id.local).is_link_local:
        yield f"listen {_within('listen_port', session.listen_port, 1, 65535)};"
    if session.password:
        secret = session.password.encode()
        if len(secret) > PASSWORD_MAX_BYTES or not secret.isascii():
            raise Unsafe("password", f"must be ASCII and at most {PASSWORD_MAX_BYTES} bytes")
        yield "md5-base64 true;"
        yield f'md5-password "{base64.b64encode(secret).decode("ascii")}";'
    if session.ttl_hops:
        yield f"incoming-ttl {256 - _within('ttl_hops', session.ttl_hops, 1, 255)};"
    if session.source_interface:
        yield f"source-interface {_match(_INTERFACE, 'source_interface', session.source_interface)};"
    elif ip_address(session.id.peer).is_link_local:
        raise Unsafe("source_interface", f"must name the interface of the link-local peer {session.id.peer}")


def _capabilities(session: wire.Session) -> Iterable[str]:
    if not session.families:
        raise Unsafe("families", "must name at least one")
    yield "manual-eor true;"
    yield f"family {{ {' '.join(f'{family.value};' for family in sorted(set(session.families)))} }}"
    restart = _within("restart_time_s", session.restart_time_s, 0, RESTART_TIME_MAX_S)
    graceful = f"graceful-restart {restart}; " if restart else ""
    yield f"capability {{ {graceful}route-refresh enable; }}"


def environment(*, user: str) -> dict[str, str]:
    """ExaBGP's settings as environment variables, which beat any file. `user` must be in passwd."""
    return {
        "exabgp_api_ack": "true",
        "exabgp_api_cli": "false",
        "exabgp_api_compact": "false",
        "exabgp_api_respawn": "true",
        # A helper killed while ExaBGP writes to it leaves ExaBGP alive with every session stopped: better it exits.
        "exabgp_api_terminate": "true",
        "exabgp_daemon_daemonize": "false",
        "exabgp_daemon_drop": "true",
        "exabgp_daemon_user": user,
        "exabgp_log_destination": "stderr",
        "exabgp_log_level": "WARNING",
        "exabgp_log_short": "false",
        "exabgp_tcp_attempts": "0",
        "exabgp_tcp_delay": "0",
    }


def _match(pattern: re.Pattern[str], field: str, value: str) -> str:
    if not pattern.fullmatch(value):
        raise Unsafe(field, f"must match {pattern.pattern}, is {value!r}")
    return value


def _within(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise Unsafe(field, f"must lie in {low}..{high}, is {value}")
    return value


def _address(field: str, text: str) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise Unsafe(field, f"must be an address, is {text!r}") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise Unsafe(field, f"must be an address without a zone, is {text!r}")
    return address
