"""`tortie-operator`: leader election, health and metrics around the kopf operator of ipam.handlers.

A candidate waits for the Lease; the leader runs kopf in this same loop, so that whatever stops the loop stops the
renewals too. Losing the Lease ends the process (the caller restarts it, and it becomes a candidate). SIGTERM ends kopf,
then gives the Lease back, so the next leader need not wait. A thread with nothing else to do ends the process hard when
the Lease is overdue and the loop does not get round to it: a leader that hangs must not wake up and go on.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from crds.errors import ApiError, BadObject
from crds.http_store import HttpStore
from ipam.handlers import USER_AGENT, Running, serve
from ipam.operator_health import Health, serve_health
from ipam.operator_leader import Election, LeaderTimes, Role
from ipam.operator_settings import leader_times_from, settings_from

log = logging.getLogger("tortie-operator")

STUCK_S = 180.0
"""The reconcile loop finishes a pass at least every 15 s; one that has not for so long hangs."""


class Lost(RuntimeError):
    """Somebody else may hold the Lease by now."""


@dataclass(slots=True)
class Status:
    """What health and metrics read."""

    running: Running = field(default_factory=Running)
    role: Role = Role.CANDIDATE
    led_since_s: float = 0.0

    def health(self) -> Health:
        """For the endpoint: a leader whose loop hangs is not well."""
        reconciler = self.running.reconciler
        if self.role is Role.LEADER:
            last_s = (reconciler.last_pass_s if reconciler else None) or self.led_since_s
            if time.monotonic() - last_s > STUCK_S:
                return Health(self.role.value, f"no pass of the reconcile loop for {STUCK_S:.0f} s")
        return Health(self.role.value, "")


class Metrics(Collector):
    """Read at the moment of a scrape; nothing is counted on the side."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        reconciler = self._status.running.reconciler
        leads = self._status.role is Role.LEADER
        yield GaugeMetricFamily("tortie_operator_leader", "1 on the replica that leads", value=float(leads))
        passes = CounterMetricFamily(
            "tortie_operator_passes", "Reconcile passes", value=reconciler.passes if reconciler else 0
        )
        writes = CounterMetricFamily(
            "tortie_operator_writes", "Objects written", value=reconciler.writes if reconciler else 0
        )
        yield passes
        yield writes


def main() -> None:
    """Entry point; exit status 0 after SIGTERM, 1 if the Lease was lost or the operator failed, 2 for a bad setting."""
    options = _options()
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        settings_from(os.environ)
        code = asyncio.run(run(health_address=options.health_address, health_port=options.health_port))
    except BadObject as problem:
        print(f"tortie-operator: {problem}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tortie-operator", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--health-address", default="127.0.0.1", help="where /healthz, /readyz and /metrics listen")
    parser.add_argument("--health-port", type=int, default=9098)
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args()


async def run(*, health_address: str, health_port: int) -> int:
    """Campaign, lead, end. Returns the exit status."""
    times = leader_times_from(os.environ)
    status = Status()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)  # until kopf, once it runs, takes the signals over
    web_server = await serve_health(
        address=health_address, port=health_port, health=status.health, collector=Metrics(status)
    )
    async with HttpStore.from_environment(user_agent=USER_AGENT) as store:
        election = Election(
            store=store, identity=_identity(), times=times, monotonic_s=time.monotonic, wall_stamp=_micro_stamp
        )
        try:
            return await _campaign_and_lead(election, times, status, stopping)
        finally:
            await _say_good_bye(election, web_server, times)


async def _campaign_and_lead(election: Election, times: LeaderTimes, status: Status, stopping: asyncio.Event) -> int:
    log.info("waiting for the lease")
    while not stopping.is_set():
        if await _step(election, times) is Role.LEADER:
            break
        await _pause(stopping, times.retry_s)
    if stopping.is_set():
        return 0
    log.info("leading")
    status.role, status.led_since_s = Role.LEADER, time.monotonic()
    threading.Thread(target=_watchdog, args=(election, times), daemon=True, name="watchdog").start()
    renewing = asyncio.create_task(_renew(election, times), name="renew")
    serving = asyncio.create_task(serve(status.running), name="kopf")
    await asyncio.wait({renewing, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        log.error("lost the lease, ending: %s", renewing.exception())
        os._exit(1)  # nothing to clean up is worth a write after the Lease is gone
    renewing.cancel()
    if error := serving.exception():
        log.error("ending: %r", error)
        return 1
    return 0


async def _renew(election: Election, times: LeaderTimes) -> None:
    while True:
        await asyncio.sleep(times.retry_s)
        role = await _step(election, times)
        if election.is_overdue():
            raise Lost("not renewed in time")
        if role is Role.CANDIDATE:
            raise Lost("somebody else holds it")


async def _step(election: Election, times: LeaderTimes) -> Role | None:
    try:
        async with asyncio.timeout(times.deadline_s / 3):
            return await election.step()
    except (ApiError, OSError) as error:
        log.warning("lease: the API server does not answer error=%r", str(error))
        return None


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


def _watchdog(election: Election, times: LeaderTimes) -> None:
    while not election.is_released:
        time.sleep(times.retry_s)
        if election.is_overdue() and not election.is_released:
            os._exit(1)


async def _say_good_bye(election: Election, web_server: web.AppRunner, times: LeaderTimes) -> None:
    try:
        async with asyncio.timeout(times.deadline_s / 3):
            await election.release()
    except (ApiError, OSError) as error:
        log.warning("lease not given back, the next leader waits for it to run out error=%r", str(error))
    await web_server.cleanup()


def _identity() -> str:
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


def _micro_stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


if __name__ == "__main__":
    main()
