"""Work behind the answers waits for a quiet moment, and not longer than it asked for."""

from __future__ import annotations

import asyncio

from felix.lull import Lull

LONG_S = 60.0


async def test_in_quiet_nobody_waits_long() -> None:
    await asyncio.wait_for(Lull().until(LONG_S), LONG_S / 2)


async def test_work_waits_until_the_last_request_is_answered() -> None:
    lull = Lull()
    lull.begin()
    lull.begin()
    waiting = asyncio.create_task(lull.until(LONG_S))
    lull.end()
    done, _ = await asyncio.wait({waiting}, timeout=0.02)
    assert not done
    lull.end()
    await asyncio.wait_for(waiting, LONG_S / 2)


async def test_a_node_that_is_never_quiet_does_its_work_all_the_same() -> None:
    lull = Lull()
    lull.begin()
    await asyncio.wait_for(lull.until(0.01), LONG_S / 2)
