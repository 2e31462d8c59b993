"""The speaker's brain: what ExaBGP must be told next, and what the agent must hear.

Theory: pure; events and `now_s` go in, lines for ExaBGP (`take`) and messages for the agent (`reports`) come out.
For each neighbour three sets are compared: what is wanted, what ExaBGP was told and not untold (`told`; it re-sends
that by itself when a session comes back), and what it was given since the session came up (`given`).

Invariants:
- Only neighbours that are up are told anything: one route queued for a dead neighbour makes ExaBGP drop every reload.
- At each `up` a neighbour gets its whole set, withdrawals of what is wanted no more (else ExaBGP revives it), then
  End-of-RIB, in this order always: a withdrawal that goes first opens a gap. Never an End-of-RIB before a complete
  wanted set is known, for the peer then drops what it kept for us.
- `told` changes when a line is written, not when it is queued, so that a queue thrown away loses nothing.
- A session that shall go is first emptied, for with graceful restart its end alone leaves the routes at the peer.

Called by `bgp.supervisor`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bgp import commands, wire
from bgp import exabgp_events as ev
from bgp.commands import Offer

IN_FLIGHT_MAX: Final = 50
"""Lines written and not answered: far below what fits a pipe, for an ExaBGP that blocks on its helper loses all
sessions."""


@dataclass(frozen=True, slots=True)
class Command:
    """A line, and what writing it makes true."""

    line: str
    announces: Mapping[str, Offer] = field(default_factory=dict)
    withdraws: tuple[str, ...] = ()
    end: wire.Family | None = None


@dataclass(slots=True)
class Peer:
    """What is known of one session."""

    session: wire.Session
    state: wire.PeerState
    told: dict[str, Offer] = field(default_factory=dict)
    given: dict[str, Offer] = field(default_factory=dict)
    ended: set[wire.Family] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    table: dict[str, tuple[tuple[str, ...], wire.Attributes]] = field(default_factory=dict)
    heard_end: set[wire.Family] = field(default_factory=set)
    promise: ev.Open | None = None
    queue: deque[Command] = field(default_factory=deque)

    @property
    def up(self) -> bool:
        return self.state.state is wire.State.UP


def _identity(session: wire.Session) -> tuple[object, ...]:
    """What ExaBGP knows a neighbour by; if it changes, everything told is forgotten."""
    return (session.id, session.local_as, session.peer_as, session.router_id, session.families)


class Speaker:
    """State of one speaker."""

    def __init__(self) -> None:
        self.wanted = wire.Wanted(revision=0, complete=False)
        self.draining = False
        self.reports: list[wire.ToAgent] = []
        self.problems: dict[str, str] = {}
        self._peers: dict[wire.NeighborId, Peer] = {}
        self._general: deque[Command] = deque()
        self._in_flight: deque[Command] = deque()
        self._offers: dict[wire.NeighborId, dict[str, Offer]] = {}

    # -- what is wanted

    def want(self, wanted: wire.Wanted) -> None:
        """A new wanted set. An incomplete one takes nothing away from what is known."""
        if not wanted.complete:
            wanted = _merged(self.wanted, wanted)
        self.wanted = wanted
        self.draining = False
        self._refresh_all()

    def drain(self) -> None:
        """Withdraw all; the next `want` ends it."""
        self.draining = True
        self._refresh_all()

    def drained(self) -> bool:
        """Every withdrawal was seen to go out, or its session is down."""
        return self.draining and all(not peer.sent and not peer.told for peer in self._peers.values() if peer.up)

    def leaving(self) -> frozenset[wire.NeighborId]:
        """Sessions that ExaBGP holds, that shall go, and that still have something out."""
        wanted = {session.id for session in self.wanted.sessions}
        return frozenset(key for key, peer in self._peers.items() if key not in wanted and peer.up and peer.sent)

    def expect(self, sessions: Iterable[wire.Session], *, now_s: float) -> None:
        """ExaBGP is about to run with these sessions; those that will go are still there."""
        coming = {session.id: session for session in sessions}
        going = [peer.session for key, peer in self._peers.items() if key not in coming]
        self.configured([*coming.values(), *going], now_s=now_s)

    def configured(self, sessions: Iterable[wire.Session], *, now_s: float) -> None:
        """ExaBGP now runs with these sessions."""
        fresh: dict[wire.NeighborId, Peer] = {}
        for session in sessions:
            known = self._peers.get(session.id)
            if known is not None and _identity(known.session) == _identity(session):
                known.session = session
                fresh[session.id] = known
            else:
                state = wire.PeerState(id=session.id, state=wire.State.NEVER, since_s=now_s)
                fresh[session.id] = Peer(session=session, state=state)
                self.reports.append(state)
        self._peers = fresh
        self._refresh_all()

    # -- what happens

    def exabgp_gone(self, *, now_s: float, reason: str) -> None:
        """The process ended: it remembers nothing of what it was told."""
        self._general.clear()
        self._in_flight.clear()
        for peer in self._peers.values():
            if peer.up:
                self._down(peer, now_s=now_s, reason=reason, cause=wire.Cause.OURS)
            peer.told.clear()
            peer.queue.clear()

    def hear(self, event: ev.Event, *, now_s: float) -> None:
        """Take in one event."""
        match event:
            case ev.Answer(ok=ok):
                command = self._in_flight.popleft() if self._in_flight else None
                if not ok:
                    self.problems["command"] = f"ExaBGP refused: {command.line[:200] if command else '(unknown)'}"
            case ev.Unreadable(line=line, why=why):
                self.problems["event"] = f"ExaBGP said something unreadable ({why}): {line[:200]}"
            case ev.Shown() | ev.Stopping():
                pass
            case _:
                peer = self._find(event.peer, event.local)
                if peer is not None:
                    self._of_peer(peer, event, now_s=now_s)

    def _of_peer(self, peer: Peer, event: ev.Event, *, now_s: float) -> None:
        key = peer.session.id
        match event:
            case ev.Open():
                peer.promise = event
            case ev.Up():
                self._up(peer, event, now_s=now_s)
            case ev.Down(reason=reason) if peer.up:
                cause = wire.Cause.NOTIFIED if event.notified else wire.Cause.LOST
                self._down(peer, now_s=now_s, reason=reason, cause=cause)
            case ev.Heard(withdrawn=withdrawn, announced=announced) if peer.up:
                for prefix in withdrawn:
                    peer.table.pop(prefix, None)
                for group in announced:
                    path = (group.next_hops, group.attributes)
                    peer.table.update(dict.fromkeys(group.prefixes, path))
                self.reports.append(wire.Routes(id=key, withdrawn=withdrawn, announced=announced))
            case ev.HeardEnd(family=family) if peer.up:
                peer.heard_end.add(family)
                self.reports.append(wire.EndOfRib(id=key, family=family))
            case ev.Told(announced=names, withdrawn=gone):
                peer.sent.difference_update(gone)
                peer.sent.update(names)
                self.reports.append(wire.Sent(id=key, announced=names, withdrawn=gone))
            case _:
                pass

    def _up(self, peer: Peer, event: ev.Up, *, now_s: float) -> None:
        self._forget_session(peer)
        promise = peer.promise
        peer.state = wire.PeerState(
            id=peer.session.id,
            state=wire.State.UP,
            since_s=now_s,
            remote_as=event.remote_as,
            router_id=promise.router_id if promise else "",
            restart_time_s=promise.restart_time_s if promise else 0,
            restart_families=promise.restart_families if promise else (),
        )
        self.reports += (peer.state, wire.Sent(id=peer.session.id, reset=True))
        self._refresh(peer)

    def _down(self, peer: Peer, *, now_s: float, reason: str, cause: wire.Cause) -> None:
        peer.state = wire.PeerState(
            id=peer.session.id,
            state=wire.State.DOWN,
            since_s=now_s,
            reason=reason or "internal error in ExaBGP",
            cause=cause,
            remote_as=peer.state.remote_as,
            router_id=peer.state.router_id,
            restart_time_s=peer.state.restart_time_s,
            restart_families=peer.state.restart_families,
        )
        self._forget_session(peer)
        self.reports.append(peer.state)

    @staticmethod
    def _forget_session(peer: Peer) -> None:
        peer.given.clear()
        peer.ended.clear()
        peer.sent.clear()
        peer.table.clear()
        peer.heard_end.clear()
        peer.queue.clear()

    def _find(self, peer: str, local: str) -> Peer | None:
        return self._peers.get(wire.NeighborId(peer, local)) or self._peers.get(wire.NeighborId(peer))

    # -- what to tell ExaBGP

    def ask_neighbors(self) -> None:
        """Have it list its neighbours; the answer is a `Shown`."""
        self._general.append(Command(commands.SHOW_NEIGHBORS))

    def take(self) -> list[str]:
        """Lines to write now. Round robin, so that one neighbour's big set does not hold up the others' End-of-RIB."""
        lines: list[str] = []
        while len(self._in_flight) < IN_FLIGHT_MAX:
            before = len(lines)
            for command in self._next_round():
                self._in_flight.append(command)
                lines.append(command.line)
            if len(lines) == before:
                break
        return lines

    def waiting(self) -> int:
        """Lines written that have no answer yet."""
        return len(self._in_flight)

    def busy(self) -> bool:
        """Whether something is still to be told or answered: a reload now would be lost."""
        return bool(self._in_flight or self._general or any(peer.queue for peer in self._peers.values()))

    def _next_round(self) -> Iterator[Command]:
        if self._general:
            yield self._general.popleft()
        for peer in self._peers.values():
            if peer.queue and peer.up:
                command = peer.queue.popleft()
                peer.told.update(command.announces)
                peer.given.update(command.announces)
                for prefix in command.withdraws:
                    peer.told.pop(prefix, None)
                    peer.given.pop(prefix, None)
                if command.end is not None:
                    peer.ended.add(command.end)
                yield command

    def _refresh_all(self) -> None:
        self._offers = self._offers_by_neighbor()
        for peer in self._peers.values():
            self._refresh(peer)

    def _refresh(self, peer: Peer) -> None:
        """Queue what this neighbour lacks, instead of what was queued before."""
        peer.queue.clear()
        if not peer.up:
            return
        key = peer.session.id
        wanted = self._offers.get(key, {})
        surplus = {prefix: offer for prefix, offer in peer.told.items() if prefix not in wanted}
        lacking = {prefix: offer for prefix, offer in wanted.items() if peer.given.get(prefix) != offer}
        # The new before the old goes: where a block is replaced by its pods' addresses, or these by it, no packet
        # finds neither.
        for line in commands.announce(key, lacking):
            peer.queue.append(Command(line.text, announces={prefix: lacking[prefix] for prefix in line.prefixes}))
        for line in commands.withdraw(key, surplus):
            peer.queue.append(Command(line.text, withdraws=line.prefixes))
        if self.wanted.complete:
            for family in sorted(set(peer.session.families) - peer.ended):
                peer.queue.append(Command(commands.end_of_rib(key, family), end=family))

    def _offers_by_neighbor(self) -> dict[wire.NeighborId, dict[str, Offer]]:
        """Wanted routes of each wanted session. A bad group is left out and becomes a problem."""
        found: dict[wire.NeighborId, dict[str, Offer]] = {session.id: {} for session in self.wanted.sessions}
        self.problems.pop("routes", None)
        if self.draining:
            return found
        for group in self.wanted.routes:
            try:
                offers = commands.offers(group)
            except ValueError as error:
                self.problems["routes"] = f"a route cannot be announced: {error}"
                continue
            for session in self.wanted.sessions:
                if group.family in session.families and (group.neighbors is None or session.id in group.neighbors):
                    found[session.id].update(offers)
        return found

    # -- what the agent hears

    def whole(self) -> Iterator[wire.ToAgent]:
        """Everything, for an agent that knows nothing."""
        self.reports.clear()
        yield wire.TableBegin()
        for key, peer in self._peers.items():
            yield peer.state
            groups: defaultdict[tuple[tuple[str, ...], int], list[str]] = defaultdict(list)
            attributes: dict[int, wire.Attributes] = {}
            for prefix, (next_hops, path) in peer.table.items():
                groups[next_hops, id(path)].append(prefix)
                attributes[id(path)] = path
            for (next_hops, path_id), prefixes in groups.items():
                announced = wire.Announced(
                    prefixes=tuple(prefixes), next_hops=next_hops, attributes=attributes[path_id]
                )
                yield wire.Routes(id=key, announced=(announced,))
            for family in sorted(peer.heard_end):
                yield wire.EndOfRib(id=key, family=family)
            yield wire.Sent(id=key, announced=tuple(sorted(peer.sent)), reset=True)
        yield wire.TableEnd()

    def up(self) -> frozenset[wire.NeighborId]:
        """Sessions that are up."""
        return frozenset(key for key, peer in self._peers.items() if peer.up)

    def agrees(self, shown: ev.Shown) -> bool:
        """Whether ExaBGP lists as established what it told us to be up."""
        listed = {peer.session.id for pair in shown.established if (peer := self._find(*pair)) is not None}
        return listed == self.up()

    def not_as_wanted(self) -> tuple[str, ...]:
        """Sentences about sessions that are up and lack something."""
        return tuple(
            f"{peer.session.name} ({key}): {len(peer.queue)} commands are waiting"
            for key, peer in self._peers.items()
            if peer.up and peer.queue
        )


def _merged(held: wire.Wanted, new: wire.Wanted) -> wire.Wanted:
    """Union of both, the new one counting where they differ. Later groups win, so the new ones come last."""
    sessions = {session.id: session for session in (*held.sessions, *new.sessions)}
    routes = tuple(dict.fromkeys((*held.routes, *new.routes)))
    return wire.Wanted(revision=new.revision, complete=held.complete, sessions=tuple(sessions.values()), routes=routes)
