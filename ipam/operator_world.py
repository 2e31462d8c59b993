"""The cluster as the operator sees it: one `Seen` for each kind, and an immutable view for a pass.

Filled by kopf's events, by the answers to own writes, and by a full list at the start and every few minutes. The
Leases of the agents are listed, not watched: renewals would be most of all events, and the fence counts in hours.

`Hearing` is the guard against a deaf watch (a connection or a task that died without a word, the classic end of
operators): if a list shows versions of which no event tells within a grace, the process must end, for a restart is
the one repair that always works. The list itself keeps the view right meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPeer
from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Lease, Node
from crds.meta import Resource
from crds.pools import IPAMConfiguration, IPPool, IPReservation
from crds.store import Store
from ipam.operator_blocks import BlockFacts, BlockIndex, facts_of
from ipam.operator_seen import Seen, version_of

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)

NAMESPACE = "tortie-system"

WATCHED: tuple[type[Resource], ...] = (
    IPPool,
    IPAMBlock,
    BlockAffinity,
    IPAMHandle,
    IPReservation,
    IPAMConfiguration,
    BGPConfiguration,
    BGPPeer,
    BGPFilter,
    Node,
)
"""What kopf watches. All of cluster scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything a planner may look at. All maps go by object name."""

    index: BlockIndex
    objects: Mapping[type[Resource], Mapping[str, Any]]
    leases: Mapping[str, Lease]

    def of(self, kind: type[R]) -> Mapping[str, R]:
        """The objects of one kind by name."""
        return self.objects[kind]


class Hearing:
    """Which versions a list showed that the events of a kind still owe us."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._owed: dict[tuple[str, str], tuple[int, float]] = {}

    def owe(self, plural: str, name: str, *, version: int, now_s: float) -> None:
        """A list showed this version and no event had; an older debt of the same object stays."""
        self._owed.setdefault((plural, name), (version, now_s))

    def heard(self, plural: str, name: str, *, version: int) -> None:
        """An event told of this version."""
        debt = self._owed.get((plural, name))
        if debt is not None and version >= debt[0]:
            del self._owed[(plural, name)]

    def forgive(self, plural: str, name: str) -> None:
        """The object is gone: kopf, after a list of its own, never tells of those that vanished meanwhile."""
        self._owed.pop((plural, name), None)

    def deaf(self, *, now_s: float) -> tuple[str, ...]:
        """Kinds whose events are overdue."""
        return tuple(
            sorted({kind for (kind, _), (_, since_s) in self._owed.items() if now_s - since_s > self._grace_s})
        )


class World:
    """The latest of everything. Not thread-safe: lives in one event loop."""

    def __init__(self, *, deaf_after_s: float = 120.0) -> None:
        self._seen: dict[type[Resource], Seen[Any]] = {kind: Seen() for kind in WATCHED}
        self._leases: dict[str, Lease] = {}
        self._facts: dict[str, tuple[str, BlockFacts | None]] = {}
        self.hearing = Hearing(grace_s=deaf_after_s)

    def tell(self, obj: Resource) -> bool:
        """A watch event: the object is now like this. True if that was news."""
        meta = obj.metadata
        self.hearing.heard(obj.plural, meta.name, version=version_of(meta.resource_version))
        return self._seen[type(obj)].put(obj)

    def tell_deleted(self, kind: type[Resource], name: str, *, resource_version: str) -> bool:
        """A watch event: the object is gone."""
        self.hearing.heard(kind.plural, name, version=version_of(resource_version))
        return self._seen[kind].drop(name, resource_version=resource_version)

    def written(self, obj: Resource) -> None:
        """What the server answered to a write of ours."""
        if type(obj) in self._seen:
            self._seen[type(obj)].put(obj)

    def removed(self, obj: Resource) -> None:
        """The server accepted our deletion. One that others' finalizers keep comes back with its next event."""
        if type(obj) in self._seen and not obj.metadata.finalizers:
            self._seen[type(obj)].drop(obj.metadata.name, resource_version="")
        elif isinstance(obj, Lease):
            self._leases.pop(obj.metadata.name, None)

    async def relist(self, store: Store, *, now_s: float) -> None:
        """List every watched kind. Raises ApiError or OSError; what was listed until then stays."""
        for kind in WATCHED:
            listing = await store.list(kind)
            for unreadable in listing.unreadable:
                log.warning("unreadable object kind=%s name=%s %s", kind.kind, unreadable.key, unreadable.problem)
            seen = self._seen[kind]
            for name in seen.relist(listing.items, resource_version=listing.resource_version):
                known = seen.objects.get(name)
                if known is None:
                    self.hearing.forgive(kind.plural, name)
                else:
                    version = version_of(known.metadata.resource_version)
                    self.hearing.owe(kind.plural, name, version=version, now_s=now_s)

    async def list_leases(self, store: Store) -> None:
        """List the Leases of all agents."""
        listing = await store.list(Lease, namespace=NAMESPACE)
        self._leases = {lease.metadata.name: lease for lease in listing.items}

    def view(self) -> View:
        """A value that later news does not change."""
        objects = {kind: dict(seen.objects) for kind, seen in self._seen.items()}
        return View(index=BlockIndex(self._block_facts(objects[IPAMBlock])), objects=objects, leases=dict(self._leases))

    def _block_facts(self, blocks: Mapping[str, IPAMBlock]) -> list[BlockFacts]:
        facts: dict[str, tuple[str, BlockFacts | None]] = {}
        for name, block in blocks.items():
            version = block.metadata.resource_version
            known = self._facts.get(name)
            facts[name] = known if known is not None and known[0] == version else (version, facts_of(block))
        self._facts = facts
        return [fact for _, fact in facts.values() if fact is not None]
