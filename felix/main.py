"""`tortie-agent`: puts the parts together, starts them in order, ends them in order.

Order of a start, and why:

    kernel prepared        forwarding on, neighbour guard in place; what cannot be done is said in one sentence
    speaker's socket       early: while the agent was away the speaker kept announcing, it is told "not complete"
    watches, IPAM          nothing is swept and nothing withdrawn before both know all
    CNI socket             only when an ADD can be answered: until then the shim itself says "try again later"
    conflist and shim      last: their being there is what makes a runtime call the node's network ready

On SIGTERM doors close first, what IPAM owes the API is written if that takes less than `FLUSH_S`, and routes, blocks
and pods stay exactly as they are: the next agent adopts them.

This is the only file that picks the real kernel.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from random import Random
from urllib.parse import urlsplit

from cni.conflist import NETWORK
from crds.credentials import from_environment
from crds.errors import BadObject
from crds.http_store import HttpStore
from felix.agent import Agent
from felix.bgp_link import BgpLink
from felix.calc.speech import Speech
from felix.cni_attach import Added, Attachments, Deleted, Hooks
from felix.cni_request import handle_for
from felix.cni_server import CniServer
from felix.health import Health, watchdog
from felix.host_files import HostFiles
from felix.kernel.events import NetlinkEvents
from felix.kernel.netlink import NetlinkKernel
from felix.kernel.protocols import IPAddress
from felix.lull import Lull
from felix.metrics import AgentMetrics, Sources
from felix.node_status import NodeStatusReporter, Seen
from felix.pod_notes import PodNotes
from felix.pod_watch import PodWatch
from felix.podnet import PodNet
from felix.podnet_reaper import Reaper
from felix.settings import Settings, parse, set_up_logging
from felix.snapshot import Sync
from felix.watches import Watches
from ipam.clock import SystemClock
from ipam.fence import FenceTimes
from ipam.journal import Journal, JournalError, JournalInUse
from ipam.node import NodeIPAM, Times

log = logging.getLogger("felix.main")

FLUSH_S = 3.0
EXIT_CANNOT_START = 1
"""A sentence on standard error says why."""


class CannotStart(Exception):
    """`str()` is the sentence."""


class Process:
    """All parts of one agent."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        rng = Random()
        credentials = from_environment()
        self.lull = Lull()
        self.kernel = NetlinkKernel()
        self.events = NetlinkEvents(own_port=self.kernel.port)
        self.journal = _journal(settings)
        self.store = HttpStore(credentials, user_agent=f"tortie-agent/{settings.node}")
        self.watches = Watches(self.store, node=settings.node, on_change=self._poke, on_churn=self._poke_soon, rng=rng)
        self.ipam = self._address_book()
        self.link = BgpLink(
            settings.run_dir / "bgp.sock", on_change=self._poke, speaker_uid=settings.speaker_uid, hold_s=0.002
        )
        self.agent = Agent(
            node=settings.node,
            watches=self.watches,
            addresses=self.ipam,
            link=self.link,
            speech=Speech(node=settings.node),
            kernel=self.kernel,
            api_addresses=_host_addresses(credentials.server),
            until_quiet=self.lull.until,
        )
        self.podnet = PodNet(self.kernel)
        self.reaper = Reaper(self.kernel)
        self.notes = PodNotes(
            self.store,
            own_pods=lambda: self.watches.snapshot().own_pods,
            until_quiet=self.lull.until,
            serves=lambda: not self.ipam.closed(),
        )
        self.attachments = Attachments(
            ipam=self.ipam,
            podnet=self.podnet,
            reaper=self.reaper,
            pods=PodWatch(self.watches),
            hooks=Hooks(on_added=self._added, on_deleted=self._deleted),
            mtu=lambda: self.agent.pod_mtu,
        )
        self.cni = CniServer(self.attachments, run_dir=settings.run_dir, not_ready=self._not_ready, lull=self.lull)
        self.reporter = NodeStatusReporter(
            self.store, node=settings.node, seen=self._seen, now=lambda: datetime.now(UTC), rng=rng
        )
        metrics = AgentMetrics(Sources(agent=self.agent, watches=self.watches, link=self.link, notes=self.notes))
        self.health = Health(
            waiting_for=self._waiting_for, last_turn_s=lambda: self.agent.last_turn_s, metrics=metrics.page
        )
        self._blocks = self.ipam.blocks()
        self._closed_kind = ""
        self._doors_open = False
        self._ready = asyncio.Event()
        self.agent.followers = (self.notes.follow, self._followed)

    def _address_book(self) -> NodeIPAM:
        return NodeIPAM(
            node=self.settings.node,
            store=self.store,
            journal=self.journal,
            clock=SystemClock(),
            times=Times(fence=FenceTimes.lasting(self.settings.fence_s)),
            network=NETWORK,
            on_change=self._ipam_changed,
            until_quiet=self.lull.until,
        )

    # who tells whom

    def _poke(self) -> None:
        self.agent.poke()

    def _poke_soon(self) -> None:
        self.agent.poke_soon()

    def _ipam_changed(self) -> None:
        """At once when a block came or went; an address more or less may wait until a burst of ADDs is over."""
        blocks = self.ipam.blocks()
        if blocks != self._blocks:
            self._blocks = blocks
            self.agent.poke()
        else:
            self.agent.pods_changed()

    def _added(self, added: Added) -> None:
        self.agent.pods_changed()
        if added.pod:
            key = f"{added.namespace}/{added.pod}"
            self.notes.added(key, uid=added.pod_uid, container_id=added.container_id, addresses=added.addresses)

    def _deleted(self, deleted: Deleted) -> None:
        self.agent.pods_changed()
        self.notes.deleted(container_id=deleted.container_id)

    def _followed(self, _turn: object) -> None:
        if not self._ready.is_set() and self.watches.snapshot().sync is Sync.COMPLETE and self.ipam.is_recovered:
            self._ready.set()

        if self._ready.is_set():
            self._tell_fence()

    def _tell_fence(self) -> None:
        """Say once why no address is given out (a clone of this node, an API server long gone), and when that ends."""
        why = self.ipam.closed()
        kind = re.sub(r"\d+", "", why)  # the sentence may count seconds
        if kind != self._closed_kind:
            self._closed_kind = kind
            if why:
                log.warning('no address is given out why="%s"', why)
            else:
                log.info("addresses are given out again")

    def _waiting_for(self) -> tuple[str, ...]:
        reasons = [f"a list of {missing}" for missing in self.watches.missing()]
        if not self.ipam.is_recovered:
            reasons.append(self.ipam.closed())
        if not reasons and not self._doors_open:
            reasons.append("the CNI socket")
        return tuple(reasons)

    def _not_ready(self) -> str:
        """For the CNI server: only what makes ADDs impossible, not what makes one of them wait."""
        missing = self.watches.missing()
        if missing:
            return f"the agent has not read the cluster's {', '.join(missing)} yet"
        return ""

    def _seen(self) -> Seen | None:
        turn = self.agent.last
        if turn is None:
            return None
        return Seen(
            turn=turn,
            link=self.link.status(),
            standing=tuple(self.agent.writer.standing.values()),
            best=self.link.rib.best(self.agent.policy(turn.snapshot, blocks=turn.blocks)),
            refused=self.link.rib.refused(),
        )

    # life

    async def run(self) -> None:
        """Until SIGTERM, SIGINT, or something ends that must not."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self._start()
            async with asyncio.TaskGroup() as group:
                for work in (
                    watchdog(),
                    self.watches.run(),
                    self.agent.run(),
                    self.ipam.run(),
                    self.reaper.run(),
                    self.reporter.run(),
                    self._open_doors(),
                ):
                    group.create_task(work)
                await stop.wait()
                log.info("stopping; routes and pods stay as they are")
                raise _Stop
        except* _Stop:
            pass
        finally:
            await self._stop()

    async def _start(self) -> None:
        _prepare(self.kernel.prepare_host, "turn on IP forwarding (is /proc/sys/net mounted writable?)")
        _prepare(self.kernel.guard_neighbours, "guard the neighbour table with nftables (is nf_tables there?)")
        try:
            debris = self.reaper.clear_debris()
        except RuntimeError as error:
            raise CannotStart(str(error)) from error
        pods = self.podnet.live()
        live = {address: pod.interface for pod in pods for address in pod.mark.addresses}
        handles = {
            address: handle_for(NETWORK, container_id=pod.mark.container_id, ifname=pod.mark.ifname)
            for pod in pods
            for address in pod.mark.addresses
        }
        log.info("start node=%s pods=%d debris=%d", self.settings.node, len(pods), debris)
        self.events.start(self.agent.kernel_changed)
        await self.link.start()
        await self._serve_health()
        await self.ipam.recover(kernel_addresses=live, kernel_handles=handles)

    async def _serve_health(self) -> None:
        address, port = self.settings.health_address, self.settings.health_port
        try:
            await self.health.start(address=address, port=port)
        except OSError as error:
            raise CannotStart(f"cannot serve health on {address} port {port}: {error.strerror}") from error

    async def _open_doors(self) -> None:
        await self._ready.wait()
        await self.attachments.sweep(network=NETWORK)
        await self.cni.start()
        self._doors_open = True
        _settle_memory()
        if why := self.ipam.state().rebuilt_because:
            log.warning('addresses were found anew from API and kernel why="%s"', why)
        log.info("ready node=%s blocks=%s", self.settings.node, ",".join(map(str, self.ipam.blocks())) or "none")
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cni.run())
            group.create_task(HostFiles(self.settings, snapshot=self.watches.snapshot).run())

    async def _stop(self) -> None:
        await self.cni.stop()
        await self.link.stop()
        await self.notes.stop()
        if self.ipam.is_recovered and not self.ipam.is_flushed:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self.ipam.turn()
        await self.health.stop()
        self.events.close()
        await self.store.close()
        self.journal.close()
        self.kernel.close()


class _Stop(Exception):
    """Asked to end."""


def _journal(settings: Settings) -> Journal:
    try:
        return Journal(state_dir=settings.state_dir, run_dir=settings.run_dir)
    except (JournalError, OSError) as error:
        raise CannotStart(f"the address journal in {settings.state_dir} cannot be opened: {error}") from error


def _prepare(step: Callable[[], None], what: str) -> None:
    try:
        step()
    except OSError as error:
        raise CannotStart(f"cannot {what}: {error}") from error


def _host_addresses(server: str) -> frozenset[IPAddress]:
    """The API server's address, where the URL names one: no BGP route may ever lead it elsewhere."""
    try:
        return frozenset({ip_address(urlsplit(server).hostname or "")})
    except ValueError:
        return frozenset()


def _settle_memory() -> None:
    """What the first lists made lives long: out of the garbage collector's sight, and freed pages back to the
    kernel (glibc keeps them otherwise)."""
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def _serve(settings: Settings) -> None:
    await Process(settings).run()


def main(argv: list[str] | None = None) -> int:
    """The command."""
    settings = parse(argv)
    set_up_logging(settings.log_level)
    try:
        asyncio.run(_serve(settings))
    except (CannotStart, JournalInUse, BadObject) as error:
        log.error("cannot start: %s", error)
        return EXIT_CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(main())
