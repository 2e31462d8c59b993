"""What HttpStore makes of a server that misbehaves: a real HTTP server on loopback, told what to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crds import http_store
from crds.credentials import Credentials, Token
from crds.errors import ApiError, Forbidden, Gone, TooManyRequests, Unauthorized
from crds.http_store import HttpStore
from crds.http_watch import WatchDecoder
from crds.pools import IPPool
from crds.store import Added, Bookmark, Deleted, Modified

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pool(name: str, version: str = "5") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}, "spec": {"cidr": "10.0.0.0/16"}}


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[HttpStore]]]:
    """`await serve(handler)`: a store whose server answers everything with the handler."""
    closing: list[Callable[[], Awaitable[None]]] = []

    async def start(handler: Handler, *, token: Token | None = None, page: int = 500) -> HttpStore:
        server = web.Server(handler)  # type: ignore[arg-type]
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        store = HttpStore(Credentials(server=f"http://127.0.0.1:{port}", token=token or Token("t")), page=page)
        closing.extend([store.close, runner.cleanup])
        return store

    yield start
    for close in closing:
        await close()


def refusal(status: int, reason: str, message: str = "why") -> web.Response:
    return web.json_response({"kind": "Status", "code": status, "reason": reason, "message": message}, status=status)


async def test_an_expired_token_is_read_again_and_the_call_repeated(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        if len(seen) == 1:
            (tmp_path / "next").write_text("new")
            (tmp_path / "next").replace(file)
            return refusal(401, "Unauthorized")
        return web.json_response(pool("a"))

    store = await serve(handler, token=Token(file=file))
    assert (await store.get(IPPool, "a")).name == "a"
    assert seen == ["Bearer old", "Bearer new"]


async def test_a_token_that_stays_the_same_is_not_tried_twice(serve: Any) -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        calls.append(request.path)
        return refusal(401, "Unauthorized")

    with pytest.raises(Unauthorized):
        await (await serve(handler)).get(IPPool, "a")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [(403, "Forbidden", Forbidden), (429, "TooManyRequests", TooManyRequests), (500, "InternalError", ApiError)],
)
async def test_a_refusal_keeps_the_servers_sentence(serve: Any, status: int, reason: str, kind: type[ApiError]) -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return refusal(status, reason, "because of this")

    with pytest.raises(kind, match="because of this"):
        await (await serve(handler)).get(IPPool, "a")


async def test_a_refusal_without_a_status_object_is_a_refusal_too(serve: Any) -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text="bad gateway, says a proxy")

    with pytest.raises(ApiError, match="says a proxy") as caught:
        await (await serve(handler)).get(IPPool, "a")
    assert caught.value.status == 502


async def test_a_server_that_never_answers_is_a_timeout(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_store, "WATCH_SILENCE_S", 0.1)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
        await asyncio.Event().wait()
        return response

    stream = (await serve(handler)).watch(IPPool, resource_version="1")
    assert await anext(stream) == Bookmark("9")
    with pytest.raises(TimeoutError, match="ippools"):
        await anext(stream)


async def test_a_refused_connection_is_a_connection_error() -> None:
    async with HttpStore(Credentials(server="http://127.0.0.1:1")) as store:
        with pytest.raises(ConnectionError, match="ippools"):
            await store.list(IPPool)


async def test_a_connection_that_breaks_in_an_answer_is_a_connection_error(serve: Any) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"metadata":')
        assert request.transport is not None
        request.transport.abort()
        return response

    with pytest.raises(ConnectionError):
        await (await serve(handler)).get(IPPool, "a")


async def test_a_watch_ends_when_the_server_ends_it(serve: Any) -> None:
    asked: dict[str, str] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.update(request.query)
        return web.Response(body=event("ADDED", pool("a")) + event("DELETED", pool("a", "6")))

    store = await serve(handler)
    events = [event async for event in store.watch(IPPool, resource_version="4", labels="a=b", fields="c=d")]
    assert [type(event) for event in events] == [Added, Deleted]
    assert asked == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "4",
        "timeoutSeconds": "300",
        "labelSelector": "a=b",
        "fieldSelector": "c=d",
    }


@pytest.mark.parametrize(
    "body",
    [
        event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),
        event("MODIFIED", {"metadata": {"name": "a"}, "spec": {"cidr": 7}}),
    ],
)
async def test_a_watch_that_cannot_go_on_says_list_again(serve: Any, body: bytes) -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    with pytest.raises(Gone):
        await anext((await serve(handler)).watch(IPPool, resource_version="4"))


async def test_pages_that_expire_are_asked_again_in_one_piece(serve: Any) -> None:
    asked: list[tuple[str | None, str | None]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        limit, continued = request.query.get("limit"), request.query.get("continue")
        asked.append((limit, continued))
        if continued:
            return refusal(410, "Expired")
        meta = {"resourceVersion": "9"} | ({"continue": "more"} if limit else {})
        return web.json_response({"metadata": meta, "items": [pool("a"), pool("b")]})

    listing = await (await serve(handler, page=2)).list(IPPool)
    assert [found.name for found in listing.items] == ["a", "b"]
    assert asked == [("2", None), ("2", "more"), (None, None)]


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 50, 10_000])
def test_the_decoder_does_not_care_how_bytes_are_cut(cut: int) -> None:
    body = b"".join(
        [
            event("ADDED", pool("a")),
            event("MODIFIED", pool("a", "6")),
            b"\n",
            event("BOOKMARK", {"kind": "IPPool", "metadata": {"resourceVersion": "7"}}),
            event("DELETED", pool("a", "8")),
        ]
    )
    decoder = WatchDecoder(IPPool)
    events = [found for at in range(0, len(body), cut) for found in decoder.feed(body[at : at + cut])]
    assert [type(found) for found in events] == [Added, Modified, Bookmark, Deleted]
