"""The API server as IPAM calls it: every call has an end.

A call that hangs must cost one time-out, never the loop (facts: a collector that hung on one call leaked for hours).
A call that timed out may still have been carried out; since all writes are compare-and-swap and every retry starts by
reading, that is the same case as a conflict.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from crds.errors import ApiError
from crds.meta import Resource
from crds.store import Listing, Store

R = TypeVar("R", bound=Resource)

AWAY = (ApiError, OSError)
"""The API server does not answer or refuses for now (TimeoutError is an OSError). Conflicts are caught before these."""


class BoundedStore:
    """A Store's reads and writes, each limited to `timeout_s` seconds."""

    def __init__(self, store: Store, *, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s

    async def get(self, kind: type[R], name: str, *, namespace: str = "") -> R:
        async with asyncio.timeout(self._timeout_s):
            return await self._store.get(kind, name, namespace=namespace)

    async def list(self, kind: type[R], *, labels: str = "") -> Listing[R]:
        async with asyncio.timeout(self._timeout_s):
            return await self._store.list(kind, labels=labels)

    async def create(self, obj: R) -> R:
        async with asyncio.timeout(self._timeout_s):
            return await self._store.create(obj)

    async def replace(self, obj: R) -> R:
        async with asyncio.timeout(self._timeout_s):
            return await self._store.replace(obj)

    async def delete(self, obj: Resource) -> None:
        """Delete exactly this version of the object."""
        meta = obj.metadata
        async with asyncio.timeout(self._timeout_s):
            await self._store.delete(
                type(obj),
                meta.name,
                namespace=meta.namespace,
                uid=meta.uid,
                resource_version=meta.resource_version,
            )
