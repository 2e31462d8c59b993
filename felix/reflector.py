"""One kind of object, kept as the API server has it: list, then watch from there, for ever.

Theory: a list says how the world is at one resourceVersion; the watch that starts there says each change after it.
Bookmarks carry the version forward while nothing changes, so that a broken connection resumes where it was and costs
no list. Only 410 Gone (the server has forgotten our version) makes a new list, after a random pause, so that a
thousand agents do not list at once. A new list is compared with what is known: no difference, no poke.

Invariants: `objects` is always a state that the server once had; a failure never empties it ("API away" is not
"everything deleted"); `synced` turns true once and stays so. Pauses grow by doubling, jittered, up to `Pace.longest_s`.

Called by `felix.watches`. Works on any `crds.store.Store`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Generic, TypeVar

from crds.errors import ApiError, BadObject, Gone
from crds.meta import Resource
from crds.store import Added, Bookmark, Deleted, Modified, Store, Unreadable

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long to wait before asking again, in seconds."""

    shortest_s: float = 0.1
    longest_s: float = 15.0
    relist_spread_s: float = 3.0
    """After 410 a list waits a random part of this: one compaction hits all agents in the same second."""
    settled_s: float = 1.0
    """A watch that lived as long as this was a good one: the next starts at once."""


class Reflector(Generic[R]):
    """The objects of one kind."""

    def __init__(
        self,
        store: Store,
        kind: type[R],
        *,
        on_change: Callable[[], None],
        rng: Random,
        namespace: str = "",
        on_object: Callable[[str, R | None], None] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`on_change` follows every change that is visible in `view()`; `on_object` is told each one by key, None for
        gone."""
        self.kind = kind
        self.synced = False
        self.failing = ""
        self.lists = 0
        self.heard_s = 0.0
        """Loop time of the last sign of life from the server."""
        self._store = store
        self._namespace = namespace
        self._on_change = on_change
        self._on_object = on_object
        self._rng = rng
        self._pace = pace or Pace()
        self._objects: dict[str, R] = {}
        self._view: Mapping[str, R] | None = None
        self._version = ""
        self._failures = 0
        self._unreadable: frozenset[str] = frozenset()

    def view(self) -> Mapping[str, R]:
        """All objects by key; a value: the same mapping until something changes, and never changed itself."""
        if self._view is None:
            self._view = MappingProxyType(self._objects.copy())
        return self._view

    def get(self, key: str) -> R | None:
        """The object as last seen."""
        return self._objects.get(key)

    async def run(self) -> None:
        """Follow the server until cancelled."""
        while True:
            pause_s = await self._follow_once()
            if pause_s > 0:
                await asyncio.sleep(pause_s)

    async def _follow_once(self) -> float:
        """One list or watch; how long to wait before the next."""
        try:
            if not self._version:
                await self._list()
                return 0.0
            started_s = self._now_s()
            await self._watch()
            if self._now_s() - started_s >= self._pace.settled_s:
                return 0.0
            self._failures += 1
            return self._pace_s()
        except Gone:
            self._version = ""
            return self._rng.uniform(0.0, self._pace.relist_spread_s)
        except TimeoutError:
            return self._pace_s() if self._tell("no sign of life") else 0.0
        except (ApiError, OSError, BadObject) as failure:
            self._tell(str(failure) or type(failure).__name__)
            return self._pace_s()

    async def _list(self) -> None:
        listing = await self._store.list(self.kind, namespace=self._namespace)
        fresh = {item.key(): item for item in listing.items}
        self._version = listing.resource_version
        self.lists += 1
        self._alive()
        self._tell_unreadable(listing.unreadable)
        gone = [key for key in self._objects if key not in fresh]
        changed = [key for key, item in fresh.items() if self._differs(key, item)]
        for key in gone:
            self._put(key, None)
        for key in changed:
            self._put(key, fresh[key])
        first, self.synced = not self.synced, True
        if first or gone or changed:
            self._view = None
            self._on_change()

    async def _watch(self) -> None:
        stream = self._store.watch(self.kind, resource_version=self._version, namespace=self._namespace)
        async for event in stream:
            match event:
                case Bookmark(resource_version=version):
                    self._version = version
                case Added(object=item) | Modified(object=item):
                    self._changed(item.key(), item, version=item.metadata.resource_version)
                case Deleted(object=item):
                    self._changed(item.key(), None, version=item.metadata.resource_version)
            self._alive()

    def _changed(self, key: str, item: R | None, *, version: str) -> None:
        self._version = version
        self._put(key, item)
        self._view = None
        self._on_change()

    def _put(self, key: str, item: R | None) -> None:
        if item is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = item
        if self._on_object is not None:
            self._on_object(key, item)

    def _differs(self, key: str, item: R) -> bool:
        known = self._objects.get(key)
        return known is None or known.metadata.resource_version != item.metadata.resource_version

    def _alive(self) -> None:
        if self.failing:
            log.info("watch back kind=%s", self.kind.kind)
        self.failing = ""
        self._failures = 0
        self.heard_s = self._now_s()

    def _tell(self, why: str) -> bool:
        """Say why it fails, once for each reason; whether it failed before."""
        again, self.failing = bool(self.failing), why
        self._failures += 1
        if not again:
            log.warning('watch failed kind=%s error="%s"', self.kind.kind, why)
        return again

    def _tell_unreadable(self, unreadable: tuple[Unreadable, ...]) -> None:
        for one in unreadable:
            if one.key not in self._unreadable:
                log.warning('object left out kind=%s name=%s error="%s"', self.kind.kind, one.key, one.problem)
        self._unreadable = frozenset(one.key for one in unreadable)

    def _pace_s(self) -> float:
        longest_s = min(self._pace.longest_s, self._pace.shortest_s * 2.0 ** min(self._failures, 16))
        return longest_s * self._rng.uniform(0.5, 1.0)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
