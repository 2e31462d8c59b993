"""An API server that keeps its objects in memory: the rules of crds.fake_memory behind HTTP.

    python -m tests.bench.memory_api PORT FILE

FILE holds the first objects, a JSON list. For benchmarks of an agent whose writes must succeed (claims of blocks,
handles, notes on pods) and whose API server is, as in a data centre, on another machine: this one costs a tenth of the
processor time of a real one, so it takes little from what is measured. A real one stands in tests/functional.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from crds import bgp_kinds, blocks, cluster, core, node_status, pools
from crds.errors import ApiError
from crds.fake_memory import Body, Change, Memory, collection_of
from crds.kube_selectors import field_predicate
from crds.meta import Resource


def _kinds() -> dict[str, type[Resource]]:
    """Plural -> kind."""
    found: dict[str, type[Resource]] = {}
    for module in (blocks, bgp_kinds, cluster, core, node_status, pools):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Resource) and "plural" in vars(value):
                found[value.plural] = value
    return found


KINDS = _kinds()


class Address:
    """What a path names: kind, namespace, name, subresource."""

    def __init__(self, path: str) -> None:
        parts = [part for part in path.split("/") if part]
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        self.namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            self.namespace, parts = parts[1], parts[2:]
        self.kind = KINDS[parts[0]]
        self.name = parts[1] if len(parts) > 1 else ""
        self.subresource = parts[2] if len(parts) > 2 else ""


class Server:
    """One memory, any number of watches."""

    def __init__(self, objects: list[Body]) -> None:
        self.memory = Memory(now=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        for body in objects:
            kind = next(kind for kind in KINDS.values() if kind.kind == body["kind"])
            self.memory.create(kind, body)
        self.memory.fresh.clear()
        self.watching: list[tuple[str, asyncio.Queue[Change]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        try:
            at = Address(request.path)
            if request.method == "GET" and "watch" in request.query:
                return await self.watch(request, at)
            found = self.read(request, at) if request.method == "GET" else self.write(request, at, await request.read())
        except ApiError as error:
            status = {"kind": "Status", "status": "Failure", "code": error.status, "reason": error.reason}
            return web.json_response({**status, "message": error.message}, status=error.status)
        return web.json_response(found)

    def read(self, request: web.Request, at: Address) -> Mapping[str, Any]:
        """One object or all."""
        if at.name:
            return self.memory.get(at.kind, at.name, at.namespace)
        wanted = field_predicate(request.query.get("fieldSelector", ""), kind=at.kind.kind)
        items = [body for body in self.memory.all(at.kind, at.namespace) if wanted(body)]
        return {"kind": "List", "metadata": {"resourceVersion": str(self.memory.revision)}, "items": items}

    def write(self, request: web.Request, at: Address, raw: bytes) -> Mapping[str, Any]:
        """One write, told to the watches."""
        body = json.loads(raw) if raw else {}
        memory, found = self.memory, body
        match request.method:
            case "POST":
                found = memory.create(at.kind, body)
            case "PUT" if at.subresource == "status":
                found = memory.replace_status(at.kind, body)
            case "PUT":
                found = memory.replace(at.kind, body)
            case "PATCH":
                found = memory.patch(at.kind, at.name, body, namespace=at.namespace, subresource=at.subresource)
            case _:
                known = body.get("preconditions", {})
                version, uid = known.get("resourceVersion", ""), known.get("uid", "")
                memory.delete(at.kind, at.name, namespace=at.namespace, uid=uid, resource_version=version, grace_s=0)
        fresh, memory.fresh = memory.fresh, []
        for collection, change in fresh:
            for watched, queue in self.watching:
                if watched == collection:
                    queue.put_nowait(change)
        return found

    async def watch(self, request: web.Request, at: Address) -> web.StreamResponse:
        """Changes as they come. Nobody here asks with a selector that an object can cease to fit."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        for change in self.memory.changes_after(at.kind, int(request.query.get("resourceVersion") or 0)):
            queue.put_nowait(change)
        watcher = (collection_of(at.kind), queue)
        self.watching.append(watcher)
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            while True:
                change = await queue.get()
                kind = "DELETED" if change.new is None else "MODIFIED" if change.old is not None else "ADDED"
                shown = change.new or change.old
                await response.write(json.dumps({"type": kind, "object": shown}).encode() + b"\n")
        finally:
            self.watching.remove(watcher)


def main() -> None:
    """Serve until killed."""
    server = Server(json.loads(Path(sys.argv[2]).read_text()))
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
