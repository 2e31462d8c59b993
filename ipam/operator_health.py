"""What the operator tells of itself: /healthz, /readyz and /metrics on localhost.

healthy: the election loop turns, and on the leader the reconcile loop too; a process that is not healthy is to be
restarted. ready: this replica could work now; a candidate that waits for the Lease is ready, or a rolling update would
never go on. Bodies are one line for people: role, and what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Health:
    """`problem` is "" when all is well."""

    role: str
    problem: str


async def serve_health(*, address: str, port: int, health: Callable[[], Health], collector: Collector) -> web.AppRunner:
    """Listen; the caller ends it with `cleanup()`. Raises OSError if the port is taken."""
    registry = CollectorRegistry()
    registry.register(collector)

    async def check(_: web.Request) -> web.Response:
        now = health()
        text = f"{now.role}: {now.problem or 'ok'}\n"
        return web.Response(text=text, status=503 if now.problem else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", check), web.get("/readyz", check), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    return runner
