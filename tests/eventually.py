"""The one place in the tests that waits.

A test that needs something to become true says so with :func:`eventually`, or inside an event loop with
`await` :func:`eventually_async`; nothing else in the tests sleeps. The condition is polled, the last failure is
shown when time runs out, and a condition that raises `AssertionError` (or an `Exception` named in `retry_on`) counts
as "not yet".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    *,
    within_s: float = 10.0,
    every_s: float = 0.05,
    what: str = "",
    retry_on: tuple[type[Exception], ...] = (),
) -> T:
    """Return the first truthy result of `condition`; fail with its last outcome after `within_s` seconds."""
    deadline_s = time.monotonic() + within_s
    not_yet: tuple[type[Exception], ...] = (AssertionError, *retry_on)
    last: object = None
    while True:
        try:
            result = condition()
            if result:
                return result
            last = result
        except not_yet as error:
            last = error
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {within_s} s: {what or condition}; last outcome: {last!r}")
        time.sleep(every_s)


async def eventually_async(
    condition: Callable[[], T], *, within_s: float = 10.0, every_s: float = 0.01, what: str = ""
) -> T:
    """The same for a test that shares its event loop with what it waits for."""
    deadline_s = time.monotonic() + within_s
    last: object = None
    while True:
        try:
            result = condition()
            if result:
                return result
            last = result
        except AssertionError as error:
            last = error
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {within_s} s: {what or condition}; last outcome: {last!r}")
        await asyncio.sleep(every_s)
