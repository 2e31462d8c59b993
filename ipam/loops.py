"""The two loops behind a node's answers: renew the Lease, and work through what the API does not show yet.

They know nothing of IPAM: when to run, when to wait, how to back off. They are apart so that a write that hangs never
delays a renewal. Both end only when cancelled. Called by NodeIPAM.run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ipam.backoff import Backoff


async def renew_forever(renew: Callable[[], Awaitable[float]], *, at_once: asyncio.Event, rng: random.Random) -> None:
    """Call `renew`, which says in how many seconds it is due again; sooner when `at_once` is set."""
    while True:
        wait_s = await renew()
        await _wait(at_once, wait_s * (0.9 + 0.1 * rng.random()))
        at_once.clear()


async def work_forever(
    turn: Callable[[], Awaitable[bool]],
    *,
    wake: asyncio.Event,
    gather: Callable[[], Awaitable[None]],
    idle_s: float,
    backoff: Backoff,
) -> None:
    """Call `turn` after `wake` is set and `gather` has waited, or every `idle_s`; after a failed one back off,
    whatever happens."""
    while True:
        await _wait(wake, idle_s)
        wake.clear()
        await gather()
        if await turn():
            backoff.reset()
        else:
            await asyncio.sleep(backoff.next_s())
            wake.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
