"""The Store: the one door to the API server, as a protocol, so that the core can be driven by a fake.

Theory: every write is a compare-and-swap. `replace` and `replace_status` need metadata.resourceVersion and raise
Conflict when the object has changed since; `patch` may carry `{"metadata": {"resourceVersion": ...}}`; `delete` may
name uid and resourceVersion. Nobody takes a lock: who loses reads again and thinks again. A watch is ONE connection:
it ends whenever the server likes, and the caller starts the next from the last resourceVersion it saw, or lists again
after Gone. (`felix.reflector` is that loop.)

Invariants, held for every implementation by tests/contract/test_store_*.py:
- what `create`, `replace`, `patch` return is what is now stored, with the new resourceVersion;
- a write that changes nothing keeps resourceVersion and sends no event;
- status and the rest are written apart: `replace` ignores status, `replace_status` ignores all else (for kinds that
  have the subresource);
- an object with finalizers is only marked by `delete`; removing the last finalizer removes it;
- `list` shows one moment, its `resource_version` is where a watch continues without a gap.

Implementations: fake_store.FakeStore, http_store.HttpStore; kube_store.KubeStore has the same verbs, synchronous.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from crds.errors import BadObject
from crds.meta import Resource

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An object that the API server holds and this version cannot read. It is as if it were not there, but said."""

    key: str
    problem: BadObject


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    items: tuple[R, ...]
    resource_version: str
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, slots=True)
class Added(Generic[R]):
    object: R


@dataclass(frozen=True, slots=True)
class Modified(Generic[R]):
    object: R


@dataclass(frozen=True, slots=True)
class Deleted(Generic[R]):
    """The last state, with the deletion's resourceVersion. Also sent when an object no longer fits the selector."""

    object: R


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing happened up to this resourceVersion: a later watch may start here."""

    resource_version: str


WatchEvent = Added[R] | Modified[R] | Deleted[R] | Bookmark


class Store(Protocol):
    """All methods raise ApiError's subclasses, TimeoutError, or ConnectionError."""

    async def get(self, kind: type[R], name: str, *, namespace: str = "") -> R: ...

    async def list(self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[R]:
        """All objects of the kind, or of one namespace; `labels` and `fields` are Kubernetes' selector texts."""
        ...

    async def create(self, obj: R) -> R: ...

    async def replace(self, obj: R) -> R: ...

    async def replace_status(self, obj: R) -> R: ...

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, object], *, namespace: str = "", subresource: str = ""
    ) -> R:
        """A JSON merge patch (RFC 7386): None removes a key, lists are replaced whole."""
        ...

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
        """Asks for deletion, if uid and resourceVersion (where given) are still the object's.

        `grace_period_s` concerns Pods: 0 removes one at once, which is the kubelet's part.
        """
        ...

    def watch(
        self, kind: type[R], *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        """Events after `resource_version`, over one connection. Ends when the server closes it.

        Raises Gone when the version is too old (list again), TimeoutError after a long silence without a bookmark.
        An object that cannot be read raises Gone too: the list that follows reports it as unreadable.
        """
        ...


def versioned(obj: Resource) -> str:
    """The object's resourceVersion, without which there is no compare-and-swap."""
    if not obj.metadata.resource_version:
        raise BadObject("metadata.resourceVersion", "must be given: every write is a compare-and-swap")
    return obj.metadata.resource_version
