"""The operator's ears: kopf's event handlers, and the task that they wake.

    kopf run -m ipam.handlers --standalone --all-namespaces      one operator, without leader election
    tortie-operator                                              the same under a Lease (ipam.operator_main)

kopf lists and watches; each event puts its object into the World and pokes the Reconciler, nothing more. Only
`on.event` handlers are registered: they make kopf leave no annotation, no finalizer and no state on any object, and ask
for no right but list and watch. Everything that is decided is decided in operator_reconcile from what is then.

kopf reconnects a watch that is silent for `inactivity_timeout` (the API server sends a bookmark every minute), and the
server ends each after `server_timeout`. Should all that fail, the Reconciler raises Deaf; whatever it raises ends the
process, because a restart is the same code as normal work.

The only module that imports kopf.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import kopf

from crds import credentials
from crds.codec import from_wire
from crds.errors import BadObject
from crds.http_store import HttpStore
from crds.meta import Resource
from ipam.operator_reconcile import Reconciler, wall_stamp
from ipam.operator_settings import settings_from
from ipam.operator_world import WATCHED, World

log = logging.getLogger(__name__)

USER_AGENT = "tortie-operator"


@dataclass(slots=True)
class Running:
    """What one run of the operator consists of; kopf hands it to the handlers as `memo.running`."""

    reconciler: Reconciler | None = None
    world: World | None = None
    task: asyncio.Task[None] | None = None
    failure: BaseException | None = None


async def serve(running: Running) -> None:
    """Run kopf in this loop until SIGTERM or SIGINT. Raises what the Reconciler died of."""
    await kopf.operator(standalone=True, clusterwide=True, memo=kopf.Memo(running=running))
    if running.failure is not None:
        raise running.failure


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: Any, **_: Any) -> None:
    """Configure kopf and start the loop."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.inactivity_timeout = 70.0
    settings.watching.server_timeout = 300  # kopf writes it into the query as it is; the API server refuses "300.0"
    settings.watching.connect_timeout = 5.0
    settings.networking.request_timeout = 30.0
    running: Running = memo.setdefault("running", Running())
    running.world = World()
    running.task = asyncio.create_task(_work(running, running.world), name="reconcile")


@kopf.on.cleanup()
async def stop(memo: Any, **_: Any) -> None:
    """End the loop; what it was writing is planned again by the next one."""
    running: Running = memo.running
    if running.task is not None:
        running.task.cancel()
        await asyncio.wait([running.task], timeout=5)


async def _work(running: Running, world: World) -> None:
    try:
        async with HttpStore.from_environment(user_agent=USER_AGENT) as store:
            running.reconciler = Reconciler(
                world=world,
                store=store,
                settings=settings_from(os.environ),
                monotonic_s=time.monotonic,
                stamp=wall_stamp,
            )
            await running.reconciler.run()
    except Exception as error:
        log.exception("the operator cannot go on and ends")
        running.failure = error
        os.kill(os.getpid(), signal.SIGTERM)


@kopf.on.login()
async def login(**_: Any) -> kopf.ConnectionInfo:
    """The credentials that our own store uses; kopf asks again after a 401, so a replaced token is read anew."""
    where = credentials.from_environment()
    return kopf.ConnectionInfo(
        server=where.server,
        ca_data=_base64(where.ca),
        certificate_data=_base64(where.certificate),
        private_key_data=_base64(where.key),
        scheme="Bearer",
        token=where.token.current() or None,
        insecure=where.verify.name == "CERT_NONE",
        default_namespace=where.namespace,
    )


def _base64(pem: bytes) -> str | None:
    return base64.b64encode(pem).decode() if pem else None


def _listener(kind: type[Resource]) -> Callable[..., Awaitable[None]]:
    # A coroutine, or kopf would run it in a thread, and the World belongs to the loop.
    async def listen(event: Any, memo: Any, **_: Any) -> None:
        running: Running = memo.running
        if running.world is not None and _tell(running.world, kind, event) and running.reconciler is not None:
            running.reconciler.poke()

    return listen


def _tell(world: World, kind: type[Resource], event: Any) -> bool:
    raw = event["object"]
    meta = raw.get("metadata", {})
    name, version = meta.get("name", ""), meta.get("resourceVersion", "")
    if event["type"] == "DELETED":
        return world.tell_deleted(kind, name, resource_version=version)
    try:
        return world.tell(from_wire(kind, dict(raw)))
    except BadObject as problem:
        # As if it were not there; the list says so too.
        log.warning("unreadable object kind=%s name=%s %s", kind.kind, name, problem)
        return world.tell_deleted(kind, name, resource_version=version)


for _kind in WATCHED:
    kopf.on.event(_kind.group, _kind.version, _kind.plural, id=f"see-{_kind.plural}")(_listener(_kind))
