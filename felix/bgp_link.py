"""The agent's ear for BGP: a Unix socket on which the speaker reports, and is told what is wanted.

Theory: agent and speaker live and die apart. The speaker connects, says hello, gives the whole table, then changes without a
gap; we hand it the whole wanted set whenever it connects or the set changes. While the speaker is away, its routes stay as
stale ones, as for a peer that restarts. Everything said goes into `rib`; the agent only hears "look again".

Invariants: only root or the speaker's uid may connect; one speaker at a time (the newest wins); a broken line ends the
connection, never the agent.

Called by `felix.agent`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bgp import wire
from bgp.rib import IPAddress, NeighborView, Rib
from bgp.sessions import Problem, SessionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """For CLI, metrics and health."""

    connected: bool
    speaker: str
    """Program and version of the speaker, "" if it is away."""
    configured: bool
    """ExaBGP runs with exactly the sessions that are wanted."""
    problem: str
    """Why not, in one sentence."""
    starts: int
    """How often the speaker started ExaBGP."""
    synced: bool
    neighbors: tuple[NeighborView, ...]
    problems: tuple[Problem, ...]


class BgpLink:
    """The listening end."""

    rib: Rib

    def __init__(
        self, path: Path, *, on_change: Callable[[], None], speaker_uid: int | None = None, hold_s: float = 0.05
    ) -> None:
        """`on_change` is called in the loop, at most once in `hold_s`, when `rib.best` or `rib.synced` may answer anew."""
        raise NotImplementedError

    async def start(self) -> None:
        """Listen. Replaces a socket that a dead agent left."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop listening and hang up; the speaker keeps announcing what was wanted last."""
        raise NotImplementedError

    def want(
        self,
        plan: SessionPlan,
        routes: tuple[wire.RouteGroup, ...],
        *,
        own_addresses: frozenset[IPAddress],
        complete: bool = True,
    ) -> None:
        """Sessions and routes from now on. Cheap when nothing changed. `complete=False` before the agent has seen all its
        sources: the speaker then takes nothing away and sends no End-of-RIB."""
        raise NotImplementedError

    def drain(self, reason: str) -> None:
        """Withdraw everything: this node is going away. The next `want` that differs ends it."""
        raise NotImplementedError

    def synced(self) -> bool:
        """`rib.synced` by the loop's clock; False as long as no speaker has given a whole table."""
        raise NotImplementedError

    def status(self) -> LinkStatus:
        """What to show."""
        raise NotImplementedError
