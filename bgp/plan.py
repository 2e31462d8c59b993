"""The values that say with whom this node speaks BGP, and what is wrong with what was asked.

Made by `bgp.sessions`; read by the RIB, the agent and the CLI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bgp import wire


class PeerKind(Enum):
    """Why a neighbour is one; spelt as CalicoNodeStatus spells it."""

    MESH = "NodeMesh"
    NODE = "NodePeer"
    GLOBAL = "GlobalPeer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One object that cannot be followed. `str()` is the sentence for log, condition and CLI."""

    kind: str
    name: str
    field: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.field}: {self.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """A session, and what the RIB must know of it."""

    session: wire.Session
    kind: PeerKind
    source: str
    """The object that asks for it, `BGPPeer rack1` or `BGPConfiguration default`."""
    filters: tuple[str, ...] = ()
    """Names of BGPFilters, in order."""
    allowed_own_as: int = 0
    """How often our own AS may stand in a path that we accept (BGPPeer numAllowedLocalASNumbers)."""
    prefix_limit: int = 10_000

    @property
    def id(self) -> wire.NeighborId:
        return self.session.id

    @property
    def internal(self) -> bool:
        """iBGP."""
        return self.session.peer_as == self.session.local_as


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """What `sessions()` found; neighbours in the order of their ids."""

    neighbors: tuple[Neighbor, ...] = ()
    problems: tuple[Problem, ...] = ()
