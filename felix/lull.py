"""When nobody waits for an answer: what may wait waits for that.

Theory: one loop answers ADDs and does everything else. While a burst of pods starts, each millisecond spent behind the
answers (writes to the API server, looks at the kernel, notes on pods) is taken from pods that wait. So whoever has such
work asks `until(at_most_s)` first: it returns once no request has been under way for QUIET_S, and after `at_most_s` in
any case, so a node that is never quiet does all its work too, only in larger and fewer pieces.

Invariants: `begin` and `end` come in pairs, from the loop's thread. Nothing waits longer than it asked for.
Called by felix.cni_server (begin, end), felix.agent, felix.pod_notes and IPAM's write-behind (until).
"""

from __future__ import annotations

import asyncio

QUIET_S = 0.005
"""Between an answer and the next request of a burst passes less."""


class Lull:
    """One for each agent."""

    def __init__(self) -> None:
        self._under_way = 0
        self._begun = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """A request came."""
        self._under_way += 1
        self._begun += 1
        self._idle.clear()

    def end(self) -> None:
        """It is answered."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    async def until(self, at_most_s: float) -> None:
        """Wait for quiet, at most so long."""
        try:
            async with asyncio.timeout(at_most_s):
                while True:
                    begun = self._begun
                    await asyncio.sleep(QUIET_S)
                    if begun == self._begun and not self._under_way:
                        return
                    await self._idle.wait()
        except TimeoutError:
            return


async def at_once(_at_most_s: float) -> None:
    """For whoever need not wait."""
