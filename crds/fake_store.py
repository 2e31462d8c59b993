"""A Store in memory that behaves like an API server, for tests of everything above it.

Theory: `crds.fake_memory` holds the rules, `crds.fake_faults` the accidents, this module joins them and feeds the
watches. It passes the same contract tests as HttpStore against a real kube-apiserver. What it does not do: schema and
CEL validation, namespaces that must exist, RBAC.

    store = FakeStore()
    store.fail_next("replace", IPAMBlock, Conflict())                 # or moment=Moment.AFTER: written, answer lost
    hold = store.hold("create", BlockAffinity); await hold.reached.wait(); hold.release()
    store.go_away(ConnectionError("refused")); store.come_back()      # the API server is away: watches break too
    store.compact(); store.end_watches(); store.bookmark()            # Gone, server close, bookmark
    store.calls                                                       # what was asked, to count writes

Belongs to one event loop. Clock: `now` gives RFC 3339 text; by default a clock that stands still.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from crds.codec import from_wire, to_wire
from crds.errors import BadObject, Gone
from crds.fake_faults import Call, Faults, Hold, Moment, Verb
from crds.fake_memory import Body, Change, Memory, collection_of
from crds.kube_selectors import Predicate, field_predicate, label_predicate
from crds.meta import Resource
from crds.store import Added, Bookmark, Deleted, Listing, Modified, Unreadable, WatchEvent, versioned

R = TypeVar("R", bound=Resource)


class _End:
    """The server closes a watch."""


_Item = Change | Bookmark | BaseException | _End


class FakeStore:
    def __init__(self, *objects: Resource, now: Callable[[], str] = lambda: "2026-01-01T00:00:00Z") -> None:
        self._memory = Memory(now=now)
        self._faults = Faults()
        self._watchers: list[tuple[type[Resource], asyncio.Queue[_Item]]] = []
        for obj in objects:
            self.put(obj)

    # --- hooks for tests ---------------------------------------------------------------------------------------

    @property
    def calls(self) -> list[Call]:
        return self._faults.calls

    def put(self, obj: R) -> R:
        """Store an object as it is given, status too, past faults: the state of the world before a test, or somebody
        else's write in the middle of one. Replaces what is there."""
        memory, kind, body = self._memory, type(obj), to_wire(obj)
        body["metadata"].pop("resourceVersion", None)
        there = [o for o in memory.all(kind, obj.metadata.namespace) if o["metadata"]["name"] == obj.name]
        stored = memory.replace(kind, body) if there else memory.create(kind, body)
        if body.get("status"):
            status = {"metadata": {}, "status": body["status"]}
            stored = memory.patch(kind, obj.name, status, namespace=obj.metadata.namespace, subresource="status")
        if obj.deleting:
            grace = {"namespace": obj.metadata.namespace, "uid": "", "resource_version": "", "grace_s": None}
            memory.delete(kind, obj.name, **grace)  # type: ignore[arg-type]
        self._publish()
        return from_wire(kind, stored)

    def fail_next(
        self,
        verb: Verb,
        kind: type[Resource] | None,
        error: BaseException,
        *,
        moment: Moment = Moment.BEFORE,
        times: int = 1,
    ) -> None:
        """The next `times` calls of the verb on the kind (None: any kind) raise `error`."""
        self._faults.fail_next(verb, kind, error, moment=moment, times=times)

    def hold(self, verb: Verb, kind: type[Resource] | None = None) -> Hold:
        """Let calls of the verb wait until the returned Hold is released."""
        return self._faults.hold(verb, kind)

    def go_away(self, error: BaseException | None = None) -> None:
        """The API server is unreachable: running watches break, every call fails."""
        self._faults.away = error or ConnectionError("the API server is away")
        self._send(None, self._faults.away)

    def come_back(self) -> None:
        self._faults.away = None

    def compact(self) -> None:
        """Forget history: a watch from an older resourceVersion raises Gone."""
        self._memory.forget()

    def end_watches(self, kind: type[Resource] | None = None) -> None:
        """The server closes the watches of the kind (None: all)."""
        self._send(kind, _End())

    def break_watches(self, error: BaseException, kind: type[Resource] | None = None) -> None:
        self._send(kind, error)

    def bookmark(self, kind: type[Resource] | None = None) -> None:
        self._send(kind, Bookmark(str(self._memory.revision)))

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watchers)

    # --- the Store protocol ------------------------------------------------------------------------------------

    async def get(self, kind: type[R], name: str, *, namespace: str = "") -> R:
        await self._faults.before("get", kind, _key(namespace, name))
        return from_wire(kind, self._memory.get(kind, name, namespace))

    async def list(self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[R]:
        await self._faults.before("list", kind, namespace)
        wanted = _predicate(kind, labels, fields)
        good: list[R] = []
        bad: list[Unreadable] = []
        for body in self._memory.all(kind, namespace):
            if not wanted(body):
                continue
            try:
                good.append(from_wire(kind, body))
            except BadObject as problem:
                bad.append(Unreadable(key=body["metadata"]["name"], problem=problem))
        return Listing(tuple(good), str(self._memory.revision), tuple(bad))

    async def create(self, obj: R) -> R:
        await self._faults.before("create", type(obj), obj.key())
        return self._written("create", type(obj), self._memory.create(type(obj), to_wire(obj)))

    async def replace(self, obj: R) -> R:
        versioned(obj)
        await self._faults.before("replace", type(obj), obj.key())
        return self._written("replace", type(obj), self._memory.replace(type(obj), to_wire(obj)))

    async def replace_status(self, obj: R) -> R:
        versioned(obj)
        await self._faults.before("replace_status", type(obj), obj.key())
        return self._written("replace_status", type(obj), self._memory.replace_status(type(obj), to_wire(obj)))

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, object], *, namespace: str = "", subresource: str = ""
    ) -> R:
        await self._faults.before("patch", kind, _key(namespace, name))
        stored = self._memory.patch(kind, name, patch, namespace=namespace, subresource=subresource)
        return self._written("patch", kind, stored)

    async def delete(
        self,
        kind: type[R],
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        resource_version: str = "",
        grace_period_s: int | None = None,
    ) -> None:
        await self._faults.before("delete", kind, _key(namespace, name))
        self._memory.delete(
            kind, name, namespace=namespace, uid=uid, resource_version=resource_version, grace_s=grace_period_s
        )
        self._publish()
        self._faults.after("delete", kind)

    async def watch(
        self, kind: type[R], *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        await self._faults.before("watch", kind, namespace)
        selected = _predicate(kind, labels, fields)

        def wanted(body: Mapping[str, Any]) -> bool:
            return namespace in ("", body["metadata"].get("namespace", "")) and selected(body)

        queue: asyncio.Queue[_Item] = asyncio.Queue()
        if resource_version in ("", "0"):
            backlog = [Change(0, None, body) for body in self._memory.all(kind, namespace)]
        else:
            backlog = self._memory.changes_after(kind, int(resource_version))
        for change in backlog:
            queue.put_nowait(change)
        watcher = (kind, queue)
        self._watchers.append(watcher)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, _End):
                    return
                if isinstance(item, BaseException):
                    raise item
                event = item if isinstance(item, Bookmark) else _event(kind, item, wanted)
                if event is not None:
                    yield event
        finally:
            self._watchers.remove(watcher)

    # --- feeding the watches -----------------------------------------------------------------------------------

    def _written(self, verb: Verb, kind: type[R], stored: Body) -> R:
        self._publish()
        self._faults.after(verb, kind)
        return from_wire(kind, stored)

    def _publish(self) -> None:
        """Hand every change since the last call to the watches of its kind."""
        fresh, self._memory.fresh = self._memory.fresh, []
        for collection, change in fresh:
            for watched, queue in self._watchers:
                if collection_of(watched) == collection:
                    queue.put_nowait(change)

    def _send(self, kind: type[Resource] | None, item: _Item) -> None:
        for watched, queue in list(self._watchers):
            if kind in (None, watched):
                queue.put_nowait(item)


def _event(kind: type[R], change: Change, wanted: Predicate) -> WatchEvent[R] | None:
    """What a watch with this selector sees of the change: to it, an object that no longer fits is deleted."""
    was = change.old is not None and wanted(change.old)
    now = change.new is not None and wanted(change.new)
    try:
        if change.new is not None and now:
            obj = from_wire(kind, change.new)
            return Modified(obj) if was else Added(obj)
        if change.old is not None and was:
            last = copy.deepcopy(change.old)
            last["metadata"]["resourceVersion"] = str(change.revision)
            return Deleted(from_wire(kind, last))
    except BadObject as problem:
        raise Gone(f"an object cannot be read, list again: {problem}") from None
    return None


def _predicate(kind: type[Resource], labels: str, fields: str) -> Predicate:
    by_label, by_field = label_predicate(labels), field_predicate(fields, kind=kind.kind)
    return lambda body: by_label(body) and by_field(body)


def _key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
