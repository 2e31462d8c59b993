"""Whether the agent lives and is ready, told over HTTP on localhost, and a watchdog for a loop that hangs.

Theory: liveness and readiness differ. A live agent makes progress: its loop turns. A ready one can answer an ADD: it
has seen the whole cluster once, knows its addresses, listens for the CNI plugin. An API server that goes away later
makes an agent neither dead nor unready, for it then answers from its journal.

The watchdog is the C thread of `faulthandler`: as long as the loop turns it is re-armed; if not, it prints every
thread's stack and ends the process, and kubelet starts a new one (kernel state stays, so nothing is lost). A hang is
thus found even where nobody asks /healthz.

Called by `felix.main`, which says what readiness waits for.
"""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import Callable

from aiohttp import web

HANG_S = 60.0
"""A turn of the loop longer than this is a hang: the longest honest one (65,536 routes) takes well under a second."""
BEAT_S = 10.0
STALLED_S = 300.0
"""/healthz fails when the agent's own turn was so long ago: one is due every 90 s."""


class Health:
    """The HTTP door. `ready` gives the reasons why not, "" separated into single sentences; `metrics` the page."""

    def __init__(
        self,
        *,
        waiting_for: Callable[[], tuple[str, ...]],
        last_turn_s: Callable[[], float],
        metrics: Callable[[], bytes],
    ) -> None:
        self._waiting_for = waiting_for
        self._last_turn_s = last_turn_s
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def start(self, *, address: str, port: int) -> None:
        """Serve /healthz, /readyz and /metrics. Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        quiet_s = time.monotonic() - self._last_turn_s()
        if quiet_s > STALLED_S:
            return web.Response(status=503, text=f"last turn was {quiet_s:.0f} s ago\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._waiting_for()
        if reasons:
            return web.Response(status=503, text="".join(f"waiting for {reason}\n" for reason in reasons))
        return web.Response(text="ok\n")

    async def _metrics_page(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def watchdog() -> None:
    """Re-arm the hang detector for as long as the loop turns; disarmed when cancelled."""
    try:
        while True:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            await asyncio.sleep(BEAT_S)
    finally:
        faulthandler.cancel_dump_traceback_later()
