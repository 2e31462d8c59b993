"""Deletes dead pod links, many at a time.

Theory: deleting one link waits 16-20 ms for RCU, whatever the machine; deleting a group of 64 waits 25 ms. So a DEL
only marks its link dead and this deletes all the dead every PAUSE_S, in a thread, for the call blocks. Before that it
makes the kernel forget the connections of their addresses (ipam lets an address cool down for longer than this takes).

Invariants: nothing but links in our two groups is deleted, and at start it is checked that all of these are ours.
Called by felix.cni_server (wake) and felix.agent (run).
"""

from __future__ import annotations

import asyncio
import logging

from felix.kernel.names import BUILDING_GROUP, DEAD_GROUP, POD_PREFIX
from felix.kernel.protocols import IPAddress, PodKernel

log = logging.getLogger(__name__)

PAUSE_S = 0.1
"""How long the dead are collected: one RCU wait for all of them."""


class Reaper:
    """One for each agent."""

    def __init__(self, kernel: PodKernel, *, pause_s: float = PAUSE_S) -> None:
        self._kernel = kernel
        self._pause_s = pause_s
        self._work = asyncio.Event()
        self._addresses: set[IPAddress] = set()
        self._lock = asyncio.Lock()

    def clear_debris(self) -> int:
        """At start: delete what an earlier agent left half-built or dead. Returns how many links. Raises RuntimeError
        if a stranger's link is in one of our groups."""
        found = [link for link in self._kernel.list_links() if link.group in (BUILDING_GROUP, DEAD_GROUP)]
        for link in found:
            if link.kind != "veth" or not link.name.startswith(POD_PREFIX):
                raise RuntimeError(f"{link.name} is in link group {link.group}, which Tortie uses: move it to another")
        for group in {link.group for link in found}:
            self._kernel.delete_group(group)
        return len(found)

    def wake(self, addresses: tuple[IPAddress, ...] = ()) -> None:
        """There is a dead link; forget the flows of these addresses."""
        self._addresses.update(addresses)
        self._work.set()

    async def reap_now(self) -> None:
        """Delete the dead and wait for it."""
        async with self._lock:
            self._work.clear()
            addresses, self._addresses = tuple(self._addresses), set()
            try:
                await asyncio.to_thread(self._reap, addresses)
            except OSError:
                self._addresses.update(addresses)
                self._work.set()
                raise

    def _reap(self, addresses: tuple[IPAddress, ...]) -> None:
        self._kernel.delete_group(DEAD_GROUP)
        self._kernel.forget_flows(addresses)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._work.wait()
            await asyncio.sleep(self._pause_s)
            try:
                await self.reap_now()
            except OSError as error:
                log.warning("dead pod links stay for now error=%s", error)
