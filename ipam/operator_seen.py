"""What the watches have shown: one kind's latest objects, right whatever the order of news.

Three sources tell about the same objects: watch events, answers to the operator's own writes, and a full list now and
then. Each carries the resourceVersion, which the API server counts upwards through all objects of a kind, so newer
always wins and order of arrival does not matter. A deletion leaves its resourceVersion behind as a tombstone until the
next list, or a list that was older than the deletion would bring the dead back.

The list is not only a repair: objects that it shows and the events did not, for long, mean that a watch is deaf, and
`relist` says which (kopf, after its own relist, never tells of objects that vanished meanwhile).

Called by operator_world, which holds one of these for each kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from crds.meta import Resource

R = TypeVar("R", bound=Resource)


def version_of(text: str) -> int:
    """resourceVersion as the number it is (Kubernetes since 1.35 says so; etcd always had it so); "" is 0."""
    return int(text) if text.isdigit() else 0


class Seen(Generic[R]):
    """The objects of one kind, by name."""

    def __init__(self) -> None:
        self._objects: dict[str, R] = {}
        self._tombstones: dict[str, int] = {}

    @property
    def objects(self) -> dict[str, R]:
        """The latest objects by name. Read only; copy it to keep it."""
        return self._objects

    def put(self, obj: R) -> bool:
        """An object as it was at its resourceVersion; True if that was news."""
        name, version = obj.metadata.name, version_of(obj.metadata.resource_version)
        known = self._objects.get(name)
        if known is not None and version_of(known.metadata.resource_version) >= version:
            return False
        if self._tombstones.get(name, -1) >= version:
            return False
        self._objects[name] = obj
        return True

    def drop(self, name: str, *, resource_version: str) -> bool:
        """The object was deleted at `resource_version` ("" = whatever we have is gone); True if that was news."""
        known = self._objects.get(name)
        known_version = version_of(known.metadata.resource_version) if known else 0
        version = version_of(resource_version) or known_version
        self._tombstones[name] = max(version, self._tombstones.get(name, 0))
        if known is None or known_version > version:
            return False
        del self._objects[name]
        return True

    def relist(self, items: Iterable[R], *, resource_version: str) -> frozenset[str]:
        """A full list as of `resource_version`; the names about which the events had not told, in either way."""
        at = version_of(resource_version)
        listed = {item.metadata.name: item for item in items}
        untold: set[str] = set()
        for name, item in listed.items():
            if self.put(item):
                untold.add(name)
        for name, known in list(self._objects.items()):
            if name not in listed and version_of(known.metadata.resource_version) <= at:
                del self._objects[name]
                untold.add(name)
        self._tombstones = {name: version for name, version in self._tombstones.items() if version > at}
        return frozenset(untold)
