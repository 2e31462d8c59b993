"""The Store of agent and operator: aiohttp and msgspec, straight to the API server, without the kubernetes package.

Theory: a list is decoded page by page straight into typed structs, a watch line by line, so that ten thousand Pods
cost ten megabytes and an event eight microseconds. One connection pool keeps TLS sessions open; it is bounded, the
rate of requests is not (the API server's priority and fairness does that, and IPAM must not queue behind it).

Invariants: every call ends, by answer or timeout. A watch that is silent for `WATCH_SILENCE_S` raises TimeoutError:
bookmarks come about once a minute, so silence means a dead connection. TCP keepalive notices a vanished peer sooner.
A 401 makes the token file be read once more, and the call is tried once more if the token is another one.
Network trouble is ConnectionError or TimeoutError, never an aiohttp exception.

    async with HttpStore.from_environment() as store:
        listing = await store.list(IPPool)

Called by felix.main, ipam.operator_main; belongs to one event loop.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
import msgspec

from crds import credentials
from crds.codec import decode, decode_list, delete_options, encode
from crds.credentials import Credentials
from crds.errors import Gone
from crds.http_watch import WatchDecoder, status_error
from crds.meta import Resource
from crds.store import Listing, Unreadable, WatchEvent, versioned

R = TypeVar("R", bound=Resource)

CALL_S = 30.0
"""A whole call, lists apart: the API server's own limit is 60 s; a caller who loops wants to know sooner."""
LIST_S = 60.0
CONNECT_S = 5.0
WATCH_ASK_S = 300
"""How long a watch may last at most; the server is asked to end it then, so that load moves between servers."""
WATCH_SILENCE_S = 120.0
PAGE = 500
CONNECTIONS = 64
"""Watches hold one each, about fifteen in an agent; the rest is for calls."""


class HttpStore:
    def __init__(self, where: Credentials, *, user_agent: str = "tortie", page: int = PAGE) -> None:
        self._where = where
        self._user_agent = user_agent
        self._page = page
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_environment(cls, *, user_agent: str = "tortie") -> HttpStore:
        """From KUBECONFIG, or the Pod's service account, or ~/.kube/config. Raises BadObject."""
        return cls(credentials.from_environment(), user_agent=user_agent)

    async def __aenter__(self) -> HttpStore:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; running watches end with an error."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, kind: type[R], name: str, *, namespace: str = "") -> R:
        return decode(kind, await self._call("GET", kind.path(name, namespace=namespace)))

    async def list(self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[R]:
        query = _query(labels, fields)
        try:
            return await self._pages(kind, namespace, {**query, "limit": str(self._page)})
        except Gone:  # the snapshot behind the pages was compacted away between two of them
            return await self._pages(kind, namespace, query)

    async def create(self, obj: R) -> R:
        path = obj.path(namespace=obj.metadata.namespace)
        return decode(type(obj), await self._call("POST", path, body=encode(obj)))

    async def replace(self, obj: R) -> R:
        return await self._put(obj, "")

    async def replace_status(self, obj: R) -> R:
        return await self._put(obj, "status")

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, object], *, namespace: str = "", subresource: str = ""
    ) -> R:
        path = kind.path(name, namespace=namespace, subresource=subresource)
        body = msgspec.json.encode(patch)
        return decode(kind, await self._call("PATCH", path, body=body, content_type="application/merge-patch+json"))

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
        options = delete_options(uid=uid, resource_version=resource_version, grace_period_s=grace_period_s)
        await self._call("DELETE", kind.path(name, namespace=namespace), body=msgspec.json.encode(options))

    async def watch(
        self, kind: type[R], *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        query = {
            **_query(labels, fields),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_ASK_S),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=WATCH_SILENCE_S)
        decoder = WatchDecoder(kind)
        path = kind.path(namespace=namespace)
        async with _trouble_named(path), self._answer("GET", path, query=query, timeout=timeout) as answer:
            async for chunk in answer.content.iter_any():
                for event in decoder.feed(chunk):
                    yield event

    async def _pages(self, kind: type[R], namespace: str, query: dict[str, str]) -> Listing[R]:
        items: list[R] = []
        bad: list[Unreadable] = []
        while True:
            body = await self._call("GET", kind.path(namespace=namespace), query=query, total_s=LIST_S)
            page, unreadable = decode_list(kind, body)
            items += page.items
            bad += [Unreadable(key=key, problem=problem) for key, problem in unreadable]
            if not page.metadata.continue_:
                return Listing(tuple(items), page.metadata.resource_version, tuple(bad))
            query = {**query, "continue": page.metadata.continue_}

    async def _put(self, obj: R, subresource: str) -> R:
        versioned(obj)
        path = obj.path(obj.name, namespace=obj.metadata.namespace, subresource=subresource)
        return decode(type(obj), await self._call("PUT", path, body=encode(obj)))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        total_s: float = CALL_S,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        async with (
            _trouble_named(path),
            self._answer(method, path, query=query, body=body, content_type=content_type, timeout=timeout) as answer,
        ):
            return await answer.read()

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer, its body not yet read; a refusal raises."""
        session = self._open()
        for attempt in (1, 2):
            headers = {"Content-Type": content_type} if body is not None else {}
            if token := self._where.token.current():
                headers["Authorization"] = f"Bearer {token}"
            async with session.request(
                method,
                self._where.server + path,
                params=query,
                data=body,
                headers=headers,
                timeout=timeout,
                server_hostname=self._where.server_name or None,
            ) as answer:
                if answer.status == 401 and attempt == 1 and self._where.token.read_again():
                    continue
                if answer.status >= 300:
                    raise status_error(await answer.read(), status=answer.status)
                yield answer
                return

    def _open(self) -> aiohttp.ClientSession:
        """The session, made inside the running loop at first use."""
        if self._session is None:
            context = self._where.ssl_context()
            connector = aiohttp.TCPConnector(
                limit=CONNECTIONS,
                ssl=context if context is not None else True,
                keepalive_timeout=90,
                socket_factory=_keepalive_socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={"Accept": "application/json", "User-Agent": self._user_agent},
            )
        return self._session


def _keepalive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A TCP socket that notices within about 12 s that the other side is gone, idle or with data unacknowledged: a node
    with two links, one of them cut, must not wait long before it asks again over the other."""
    family, kind, protocol, _name, _where = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 6)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12_000)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


@asynccontextmanager
async def _trouble_named(path: str) -> AsyncIterator[None]:
    """aiohttp's exceptions as the two that Store promises."""
    try:
        yield
    except TimeoutError as error:
        raise TimeoutError(f"no answer from the API server for {path}") from error
    except aiohttp.ClientError as error:
        raise ConnectionError(f"the API server cannot be asked for {path}: {error}") from error


def _query(labels: str, fields: str) -> dict[str, str]:
    wanted = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in wanted.items() if value}
