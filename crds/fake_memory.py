"""What a fake API server holds, and how a write changes it. Synchronous, no waiting, no faults: those are around it.

Theory: objects are JSON values, as in etcd, so that kinds seen through different trimmed structs stay one object. One
counter is the revision of everything; each change is kept with its old and new state, which is all that a watch
needs. The rules written down here are the ones of kube-apiserver that callers can meet: optimistic concurrency,
generation, the status subresource, finalizers, graceful deletion of a Pod that a node runs, preconditions, merge
patch, silent no-ops. tests/contract/test_store_*.py hold them against a real one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crds.definitions import definition_of
from crds.errors import AlreadyExists, ApiError, Conflict, Gone, Invalid, NotFound
from crds.meta import CalicoResource, Resource

Body = dict[str, Any]
Key = tuple[str, str, str]
"""Plural and group, namespace, name."""

_STATUS_KINDS = frozenset({"Pod", "Node", "Service", "Namespace"})
_SERVER_SIDE = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")
POD_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class Change:
    """`old` None: it was made. `new` None: it is gone, and `old` carries the deletion's resourceVersion."""

    revision: int
    old: Body | None
    new: Body | None


@dataclass
class Memory:
    now: Callable[[], str]
    revision: int = 100
    forgotten: int = 0
    """Changes up to this revision can no longer be watched."""
    objects: dict[Key, Body] = field(default_factory=dict)
    changes: dict[str, list[Change]] = field(default_factory=dict)
    fresh: list[tuple[str, Change]] = field(default_factory=list)
    """Changes that the watches have not been handed yet."""
    made: int = 0

    def get(self, kind: type[Resource], name: str, namespace: str) -> Body:
        try:
            return self.objects[_key(kind, name, namespace)]
        except KeyError:
            raise NotFound(f'{kind.plural} "{name}" not found') from None

    def all(self, kind: type[Resource], namespace: str) -> list[Body]:
        collection = collection_of(kind)
        found = [(key, body) for key, body in self.objects.items() if key[0] == collection]
        return [body for key, body in sorted(found, key=lambda item: item[0]) if namespace in ("", key[1])]

    def create(self, kind: type[Resource], wanted: Body) -> Body:
        body = copy.deepcopy(wanted)
        meta = body.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise ApiError(
                "resourceVersion should not be set on objects to be created", status=400, reason="BadRequest"
            )
        self.made += 1
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{self.made:05d}"
        if not meta.get("name"):
            raise Invalid("metadata.name: Required value: name or generateName is required")
        if kind.namespaced and not meta.get("namespace"):
            raise ApiError("an empty namespace may not be set during creation", status=400, reason="BadRequest")
        key = _key(kind, meta["name"], meta.get("namespace", ""))
        if key in self.objects:
            raise AlreadyExists(f'{kind.plural} "{meta["name"]}" already exists')
        if has_status(kind):
            body.pop("status", None)
        _fill_defaults(kind, body)
        meta.pop("deletionTimestamp", None)
        meta |= {"uid": f"00000000-0000-4000-8000-{self.made:012d}", "creationTimestamp": self.now(), "generation": 1}
        return self._store(kind, key, None, body)

    def replace(self, kind: type[Resource], wanted: Body) -> Body:
        old = self._matching(kind, wanted)
        new = copy.deepcopy(wanted)
        if has_status(kind):
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        return self._update(kind, old, new)

    def replace_status(self, kind: type[Resource], wanted: Body) -> Body:
        old = self._matching(kind, wanted)
        return self._update(kind, old, self._with_status(kind, old, wanted.get("status")))

    def patch(
        self, kind: type[Resource], name: str, patch: Mapping[str, Any], *, namespace: str, subresource: str
    ) -> Body:
        old = self.get(kind, name, namespace)
        merged = merge_patch(old, patch)
        self._check(kind, old, merged["metadata"])
        if subresource == "status":
            new = self._with_status(kind, old, merged.get("status"))
            if not issubclass(kind, CalicoResource):
                # Kubernetes' own kinds let labels and annotations through with the status; custom ones do not.
                new["metadata"] |= {key: merged["metadata"].get(key, {}) for key in ("labels", "annotations")}
            return self._update(kind, old, new)
        if has_status(kind):
            merged.pop("status", None)
            if "status" in old:
                merged["status"] = old["status"]
        return self._update(kind, old, merged)

    def delete(
        self, kind: type[Resource], name: str, *, namespace: str, uid: str, resource_version: str, grace_s: int | None
    ) -> None:
        old = self.get(kind, name, namespace)
        meta = old["metadata"]
        self._check(kind, old, {"uid": uid, "resourceVersion": resource_version})
        grace = POD_GRACE_S if grace_s is None else grace_s
        if kind.kind != "Pod" or not old.get("spec", {}).get("nodeName"):
            grace = 0
        if not meta.get("finalizers") and not grace:
            self._remove(kind, old)
            return
        new = copy.deepcopy(old)
        new["metadata"].setdefault("deletionTimestamp", self.now())
        new["metadata"]["deletionGracePeriodSeconds"] = grace
        if not meta.get("deletionTimestamp"):
            new["metadata"]["generation"] += 1
        if new != old:
            self._store(kind, _key(kind, name, namespace), old, new)

    def changes_after(self, kind: type[Resource], revision: int) -> list[Change]:
        if revision < self.forgotten:
            raise Gone(f"too old resource version: {revision} ({self.forgotten})")
        return [change for change in self.changes.get(collection_of(kind), []) if change.revision > revision]

    def forget(self) -> None:
        """etcd's compaction: older versions can be neither watched nor listed."""
        self.forgotten = self.revision
        self.changes.clear()

    def _matching(self, kind: type[Resource], wanted: Body) -> Body:
        meta = wanted["metadata"]
        old = self.get(kind, meta.get("name", ""), meta.get("namespace", ""))
        self._check(kind, old, meta)
        return old

    @staticmethod
    def _check(kind: type[Resource], old: Body, wanted: Mapping[str, Any]) -> None:
        have = old["metadata"]
        for name in ("uid", "resourceVersion"):
            if wanted.get(name) and wanted[name] != have[name]:
                raise Conflict(
                    f'Operation cannot be fulfilled on {kind.plural} "{have["name"]}": '
                    f"{name} is {have[name]}, not {wanted[name]}"
                )

    @staticmethod
    def _with_status(kind: type[Resource], old: Body, status: object) -> Body:
        if not has_status(kind):
            raise NotFound(f"{kind.plural} have no status subresource")
        new = copy.deepcopy(old)
        new.pop("status", None)
        if status is not None:
            new["status"] = copy.deepcopy(status)
        return new

    def _update(self, kind: type[Resource], old: Body, new: Body) -> Body:
        before, after = old["metadata"], new["metadata"]
        for name in (*_SERVER_SIDE, "deletionGracePeriodSeconds"):
            after.pop(name, None)
            if name in before:
                after[name] = before[name]
        _fill_defaults(kind, new)
        added = set(after.get("finalizers", ())) - set(before.get("finalizers", ()))
        if added and before.get("deletionTimestamp"):
            raise Invalid(f"metadata.finalizers: Forbidden: no new finalizers can be added, found {sorted(added)}")
        if _normal(new) == _normal(old):
            return old
        if _content(new) != _content(old):
            after["generation"] = before["generation"] + 1
        body = self._store(kind, _key(kind, before["name"], before.get("namespace", "")), old, new)
        kept = after.get("finalizers") or after.get("deletionGracePeriodSeconds")
        if before.get("deletionTimestamp") and not kept:
            self._remove(kind, body)
        return body

    def _store(self, kind: type[Resource], key: Key, old: Body | None, new: Body) -> Body:
        self.revision += 1
        new["metadata"]["resourceVersion"] = str(self.revision)
        self.objects[key] = new
        self._record(key[0], Change(self.revision, old, new))
        return new

    def _remove(self, kind: type[Resource], old: Body) -> None:
        self.revision += 1
        meta = old["metadata"]
        key = _key(kind, meta["name"], meta.get("namespace", ""))
        del self.objects[key]
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.revision)
        self._record(key[0], Change(self.revision, last, None))

    def _record(self, collection: str, change: Change) -> None:
        self.changes.setdefault(collection, []).append(change)
        self.fresh.append((collection, change))


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _fill_defaults(kind: type[Resource], body: Body) -> None:
    """What the manifest's schema fills into spec; Kubernetes' own kinds keep what they were given."""
    if issubclass(kind, CalicoResource) and "spec" in body:
        for name, schema in definition_of(kind).spec["properties"].items():
            if "default" in schema and body["spec"].get(name) is None:
                body["spec"][name] = schema["default"]


def has_status(kind: type[Resource]) -> bool:
    return issubclass(kind, CalicoResource) or kind.kind in _STATUS_KINDS


def collection_of(kind: type[Resource]) -> str:
    return f"{kind.plural}.{kind.group}"


def _key(kind: type[Resource], name: str, namespace: str) -> Key:
    return collection_of(kind), namespace if kind.namespaced else "", name


def _content(body: Body) -> Body:
    """What counts for generation: all but metadata and status."""
    return {name: value for name, value in body.items() if name not in ("metadata", "status")}


def _normal(body: Body) -> Body:
    """Empty maps and lists in metadata are the same as none."""
    return {**body, "metadata": {name: value for name, value in body["metadata"].items() if value}}
