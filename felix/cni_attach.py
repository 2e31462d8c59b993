"""What happens at ADD, DEL, CHECK and GC, without a socket: values in, values out, the kernel and IPAM in between.

    ADD   pod shown by the watch -> addresses (durable) -> pair, pod's side -> policy in place -> up -> result
    DEL   link dead -> addresses freed -> reaper woken

Invariants: an ADD that ends without a result has undone all it did, in reverse order, also when it is cancelled (the
runtime gave up). A DEL succeeds whatever is missing, reads nothing from the pod's namespace, and goes by the container
ID alone, so it never hits a newer container of the same pod. Two calls for one attachment never run together.

Called by felix.cni_server. Rebuilds nothing from memory: what lives is read off the kernel.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

from cni.spec import (
    CniCall,
    CniError,
    Code,
    Command,
    IPAddress,
    Result,
    ResultInterface,
    ResultIp,
    merged,
    own_addresses,
)
from crds.values import HandleID
from felix.cni_request import PodInfo, PodLookup, assign_request, handle_for, handle_of
from felix.kernel.names import POD_MAC
from felix.kernel.protocols import Netns
from felix.podnet import PodNet, RefusedNamespace, Wiring
from felix.podnet_reaper import Reaper
from ipam.requests import AssignAnswer, Assigned, AssignRequest, Exhausted, TryLater

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

POD_WAIT_S = 10.0
"""How long an ADD waits for the watch to show its pod: the runtime is often faster, an outage lasts longer."""


class Ipam(Protocol):
    """What is used of ipam.node.NodeIPAM."""

    async def assign(self, request: AssignRequest) -> AssignAnswer:
        """Addresses, durably; the same ones for the same handle."""

    async def release(self, handle: HandleID) -> tuple[IPAddress, ...]:
        """Free a handle; idempotent."""

    def allocations(self) -> Mapping[HandleID, tuple[IPAddress, ...]]:
        """All that is given out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A finished ADD, told after the answer."""

    namespace: str
    pod: str
    pod_uid: str
    container_id: str
    interface: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A finished DEL; `addresses` () if there was nothing."""

    container_id: str
    interface: str
    addresses: tuple[IPAddress, ...]


async def no_policy(_interface: str) -> None:
    """Where no policy is enforced, it is in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the agent adds. `policy_ready` is awaited before a new link goes up; the others are told, and must not
    raise or block."""

    policy_ready: Callable[[str], object] = no_policy
    on_added: Callable[[Added], None] = lambda _added: None
    on_deleted: Callable[[Deleted], None] = lambda _deleted: None


class _Turn:
    """Those who want to work on one attachment: one at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Attachments:
    """The pod interfaces of this node."""

    def __init__(
        self,
        *,
        ipam: Ipam,
        podnet: PodNet,
        reaper: Reaper,
        pods: PodLookup,
        hooks: Hooks | None = None,
        mtu: Callable[[], int] = lambda: 1500,
        pod_wait_s: float = POD_WAIT_S,
    ) -> None:
        """`mtu`: for pods whose configuration names none, in bytes."""
        self._ipam, self._podnet, self._reaper, self._pods = ipam, podnet, reaper, pods
        self.hooks = hooks or Hooks()
        self._mtu = mtu
        self._pod_wait_s = pod_wait_s
        self._busy: dict[HandleID, _Turn] = {}

    @asynccontextmanager
    async def _alone(self, handle: HandleID) -> AsyncIterator[None]:
        turn = self._busy.setdefault(handle, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._busy[handle]

    # ADD

    async def add(self, call: CniCall) -> tuple[Result, Added]:
        """Raises CniError. Once it returns, `undo` takes it back if the answer cannot be given."""
        if call.netns_fd is None:
            raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS must be the path of the pod's network namespace")
        try:
            netns = self._podnet.open_netns(call.netns_fd)
        except RefusedNamespace as error:
            raise CniError(Code.INVALID_ENVIRONMENT, str(error)) from None
        try:
            async with self._alone(handle_of(call)):
                return await self._add(call, netns)
        finally:
            netns.close()

    async def _add(self, call: CniCall, netns: Netns) -> tuple[Result, Added]:
        pod = await self._known_pod(call)
        standing = self._podnet.find(container_id=call.container_id, ifname=call.ifname)
        if standing is not None:
            same = self._wiring(call, standing.mark.addresses)
            if standing.mark.netns == netns.identity and not self._podnet.check(same, netns=netns):
                return self._result(call, same), _added(call, pod, same)  # the same ADD again
            self._podnet.undo(same)
            await self._reaper.reap_now()
        handle = handle_of(call)
        wiring: Wiring | None = None
        assigning = asyncio.ensure_future(self._assign(assign_request(call, pod)))
        try:
            # In these two turns of the loop IPAM chooses and its journal goes to the disk. The kernel makes the pair
            # while the disk works; where there is no address, that is known by now and nothing is made.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            wiring = self._wiring(call, assigning.result() if assigning.done() else ())
            await self._create(wiring, netns)
            wiring = self._wiring(call, await assigning)
            self._podnet.furnish(wiring, netns=netns)
            ready = self.hooks.policy_ready(wiring.interface)
            if hasattr(ready, "__await__"):
                await ready
            self._podnet.raise_up(wiring, netns=netns)
        except OSError as error:
            await self._take_back(handle, wiring, assigning)
            raise _kernel_refused(error) from error
        except BaseException:
            await self._take_back(handle, wiring, assigning)
            raise
        return self._result(call, wiring), _added(call, pod, wiring)

    async def _known_pod(self, call: CniCall) -> PodInfo | None:
        if not call.pod:
            return None
        try:
            async with asyncio.timeout(self._pod_wait_s):
                pod = await self._pods.wait_pod(namespace=call.namespace, name=call.pod, uid=call.pod_uid)
        except TimeoutError:
            pod = None
        if pod is None:
            raise CniError(
                Code.TRY_AGAIN_LATER, f"the API server has not shown pod {call.namespace}/{call.pod} to this node yet"
            )
        return pod

    async def _assign(self, request: AssignRequest) -> tuple[IPAddress, ...]:
        match await self._ipam.assign(request):
            case Assigned(addresses=addresses):
                return addresses
            case Exhausted(why=why):
                raise CniError(Code.NO_ADDRESS, why)
            case TryLater(why=why):
                raise CniError(Code.TRY_AGAIN_LATER, why)
            case unreachable:
                assert_never(unreachable)

    async def _create(self, wiring: Wiring, netns: Netns) -> None:
        try:
            self._podnet.create(wiring, netns=netns)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            # The dead link of a DEL may still hold the name in this namespace, or ours on the host.
            await self._reaper.reap_now()
            if netns.find_link(wiring.ifname) is not None:
                raise CniError(
                    Code.INVALID_ENVIRONMENT, f"the pod's namespace already has an interface {wiring.ifname}"
                ) from None
            self._podnet.create(wiring, netns=netns)

    async def _take_back(
        self, handle: HandleID, wiring: Wiring | None, assigning: asyncio.Future[tuple[IPAddress, ...]]
    ) -> None:
        """Undo, in reverse. Shielded: a second cancellation must not leave half of it."""
        if wiring is not None:
            self._podnet.undo(wiring)
        await asyncio.shield(asyncio.ensure_future(self._give_back(handle, assigning)))
        self._reaper.wake(() if wiring is None else wiring.addresses)

    async def _give_back(self, handle: HandleID, assigning: asyncio.Future[tuple[IPAddress, ...]]) -> None:
        assigning.cancel()
        await asyncio.gather(assigning, return_exceptions=True)
        await self._ipam.release(handle)

    async def undo(self, call: CniCall) -> None:
        """Take back a finished ADD whose answer nobody hears."""
        await self.delete(call)

    def _wiring(self, call: CniCall, addresses: tuple[IPAddress, ...]) -> Wiring:
        return Wiring(
            container_id=call.container_id,
            ifname=call.ifname,
            addresses=addresses,
            mtu=call.config.mtu or self._mtu(),
        )

    def _result(self, call: CniCall, wiring: Wiring) -> Result:
        ours = Result(
            interfaces=(
                ResultInterface(name=wiring.interface, mac=POD_MAC.hex(":"), mtu=wiring.mtu),
                ResultInterface(
                    name=wiring.ifname, mac=wiring.pod_mac.hex(":"), mtu=wiring.mtu, sandbox=call.netns_path
                ),
            ),
            ips=tuple(
                ResultIp(address=f"{address}/{address.max_prefixlen}", interface=1) for address in wiring.addresses
            ),
        )
        return merged(call.config.prev_result, ours)

    # the other commands

    async def delete(self, call: CniCall) -> Deleted:
        """Idempotent."""
        handle = handle_of(call)
        async with self._alone(handle):
            return await self._delete(handle, container_id=call.container_id, ifname=call.ifname)

    async def _delete(self, handle: HandleID, *, container_id: str, ifname: str) -> Deleted:
        mark = self._podnet.delete(container_id=container_id, ifname=ifname)
        freed = await self._ipam.release(handle)
        addresses = freed or (() if mark is None else mark.addresses)
        if mark is not None or addresses:
            self._reaper.wake(addresses)
        interface = Wiring(container_id=container_id, ifname=ifname, addresses=()).interface
        return Deleted(container_id=container_id, interface=interface, addresses=addresses)

    async def check(self, call: CniCall) -> None:
        """CniError with all that is wrong."""
        previous = call.config.prev_result
        if previous is None:
            raise CniError(Code.INVALID_CONFIG, "CHECK needs prevResult")
        if call.netns_fd is None:
            raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS must be the path of the pod's network namespace")
        addresses = own_addresses(previous, ifname=call.ifname)
        if not addresses:
            raise CniError(Code.INVALID_CONFIG, f"prevResult has no address of {call.ifname}")
        try:
            netns = self._podnet.open_netns(call.netns_fd)
        except RefusedNamespace as error:
            raise CniError(Code.INVALID_ENVIRONMENT, str(error)) from None
        try:
            problems = list(self._podnet.check(self._wiring(call, addresses), netns=netns))
        finally:
            netns.close()
        given = self._ipam.allocations().get(handle_of(call), ())
        if set(given) != set(addresses):
            problems.append("IPAM has given this container other addresses than prevResult says")
        if problems:
            raise CniError(Code.CHECK_FAILED, "; ".join(problems))

    async def collect(self, call: CniCall) -> None:
        """GC: undo what is ours and not in `cni.dev/valid-attachments`."""
        valid = {(entry.container_id, entry.ifname) for entry in call.config.attachments()}
        network = call.config.name
        handles = {handle_for(network, container_id=container_id, ifname=ifname) for container_id, ifname in valid}
        for pod in self._podnet.live():
            owner = (pod.mark.container_id, pod.mark.ifname)
            handle = handle_for(network, container_id=owner[0], ifname=owner[1])
            if owner in valid or handle in self._busy:
                continue
            log.info("GC deletes interface=%s container=%s", pod.interface, owner[0])
            self._told(await self._delete(handle, container_id=owner[0], ifname=owner[1]))
        await self._free_except(handles, network=network)

    async def sweep(self, *, network: str) -> None:
        """At the agent's start: free the addresses of attachments that have no interface, as after a crash in the
        middle of an ADD, or a reboot."""
        marks = [pod.mark for pod in self._podnet.live()]
        handles = {handle_for(network, container_id=mark.container_id, ifname=mark.ifname) for mark in marks}
        await self._free_except(handles, network=network)

    async def _free_except(self, keep: set[HandleID], *, network: str) -> None:
        for handle in list(self._ipam.allocations()):
            if handle.startswith(f"{network}.") and handle not in keep and handle not in self._busy:
                self._reaper.wake(await self._ipam.release(handle))

    def _told(self, deleted: Deleted) -> None:
        self.hooks.on_deleted(deleted)

    async def run(self, call: CniCall) -> None:
        """Any command but ADD and STATUS."""
        match call.command:
            case Command.DEL:
                self._told(await self.delete(call))
            case Command.CHECK:
                await self.check(call)
            case Command.GC:
                await self.collect(call)
            case _:
                raise CniError(Code.INVALID_ENVIRONMENT, f"{call.command.value} is not for the agent")


def _added(call: CniCall, pod: PodInfo | None, wiring: Wiring) -> Added:
    return Added(
        namespace=call.namespace,
        pod=call.pod,
        pod_uid="" if pod is None else pod.uid,
        container_id=call.container_id,
        interface=wiring.interface,
        addresses=wiring.addresses,
    )


def _kernel_refused(error: OSError) -> CniError:
    return CniError(Code.INTERNAL, f"the kernel refused the pod's network: {error.strerror}")
