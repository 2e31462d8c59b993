"""Tells everybody the address of a pod as soon as it has one: Calico's annotations on the Pod.

Theory: after ADD the kubelet takes seconds to write `status.podIPs`; readers of policy and services should not wait for
it. So the agent patches `cni.projectcalico.org/podIP`, `podIPs` and `containerID` right after it answered, and blanks
the addresses at DEL, which tells readers that they are gone before the Pod object is. Not in the path of the answer:
a note is kept here until it is written, retried with growing pauses, and a newer note of the same pod replaces it.

Through the status subresource, which lets annotations through and never the spec. The uid in the patch makes the API
server refuse it (409 or 422) when a new pod of the same name has taken the place.

Invariants: one write a pod at a time, in order; a late DEL of an old sandbox blanks nothing of a newer one; a pod whose
annotations name an address that no interface here has, and of which this process knows nothing, is blanked (its DEL
came while no agent was writing).

Called by `felix.main`: cni_server's hooks and the agent's turns lead here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from crds.core import CONTAINER_ID, POD_IP, POD_IPS, Pod
from crds.errors import ApiError, Conflict, Invalid, NotFound
from crds.store import Store
from felix.agent import Turn
from felix.kernel.protocols import IPAddress
from felix.lull import at_once

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Writes under way together: a burst of 250 ADDs must not open 250 connections."""
QUIET_WAIT_S = 0.1
"""How long a note waits for other pods' ADDs. A reader elsewhere knows an address 0.2 s after its ADD."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a Pod's annotations shall say. No addresses: the pod has none any more."""

    container_id: str
    uid: str
    addresses: tuple[IPAddress, ...]

    def annotations(self) -> dict[str, str]:
        """Calico's spelling: the first address, all of them, the sandbox."""
        texts = [f"{address}/{address.max_prefixlen}" for address in self.addresses]
        return {POD_IP: texts[0] if texts else "", POD_IPS: ",".join(texts), CONTAINER_ID: self.container_id}

    def patch(self) -> Mapping[str, object]:
        """As a merge patch; with the uid as condition, where it is known."""
        metadata: dict[str, object] = {"annotations": self.annotations()}
        if self.uid:
            metadata["uid"] = self.uid
        return {"metadata": metadata}


class PodNotes:
    """The writer of pods' annotations."""

    def __init__(
        self,
        store: Store,
        *,
        own_pods: Callable[[], Mapping[str, Pod]],
        until_quiet: Callable[[float], Awaitable[None]] = at_once,
        serves: Callable[[], bool] = lambda: True,
    ) -> None:
        """`own_pods`: the pods of this node as the watch shows them, by `namespace/name`. `until_quiet`: felix.lull.
        `serves`: whether this agent is the one that serves the node (the fence is open)."""
        self._store = store
        self._own_pods = own_pods
        self._until_quiet = until_quiet
        self._serves = serves
        self._known: dict[str, Note] = {}
        """The last note of each live pod, written or not."""
        self._unwritten: dict[str, Note] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._checked: Mapping[str, Pod] | None = None
        self.failures = 0

    @property
    def pending(self) -> int:
        """Notes not written yet."""
        return len(self._unwritten)

    def added(self, key: str, *, uid: str, container_id: str, addresses: tuple[IPAddress, ...]) -> None:
        """An ADD of the pod `namespace/name` was answered."""
        note = Note(container_id=container_id, uid=uid, addresses=addresses)
        self._known[key] = note
        self._write(key, note)

    def deleted(self, *, container_id: str) -> None:
        """A DEL was answered. Ignored where a newer sandbox of the pod stands."""
        for key, note in self._known.items():
            if note.container_id == container_id:
                del self._known[key]
                self._write(key, Note(container_id=container_id, uid=note.uid, addresses=()))
                return
        for key, pod in self._own_pods().items():
            noted = pod.metadata.annotations
            if key not in self._known and noted.get(CONTAINER_ID) == container_id and noted.get(POD_IPS):
                self._write(key, Note(container_id=container_id, uid=pod.metadata.uid, addresses=()))
                return

    def follow(self, turn: Turn) -> None:
        """Blank what is left of DELs that nobody wrote down.

        Not while another agent may serve this node: a clone has none of its pods' interfaces, and they live.
        """
        if turn.snapshot.own_pods is self._checked or not self._serves():
            return
        self._checked = turn.snapshot.own_pods
        for key, pod in turn.snapshot.own_pods.items():
            if key in self._known or key in self._unwritten or not pod.metadata.annotations.get(POD_IPS):
                continue
            container_id = pod.metadata.annotations.get(CONTAINER_ID, "")
            if container_id and not any(address in turn.pods for address in pod.addresses) and not pod.finished:
                self._write(key, Note(container_id=container_id, uid=pod.metadata.uid, addresses=()))

    async def stop(self) -> None:
        """Give up what is not written; the next agent sees to it."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _write(self, key: str, note: Note) -> None:
        self._unwritten[key] = note
        if key not in self._tasks:
            task = asyncio.create_task(self._write_all(key), name=f"note {key}")
            self._tasks[key] = task
            task.add_done_callback(lambda _task: self._tasks.pop(key, None))

    async def _write_all(self, key: str) -> None:
        pause_s = PAUSE_FIRST_S
        await self._until_quiet(QUIET_WAIT_S)
        while (note := self._unwritten.get(key)) is not None:
            if await self._write_one(key, note):
                pause_s = PAUSE_FIRST_S
                if self._unwritten.get(key) is note:
                    del self._unwritten[key]
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    async def _write_one(self, key: str, note: Note) -> bool:
        """Whether there is nothing more to do about this note."""
        namespace, _, name = key.partition("/")
        try:
            async with self._slots:
                await self._store.patch(Pod, name, note.patch(), namespace=namespace, subresource="status")
        except (NotFound, Conflict, Invalid):  # gone, or another pod of that name
            return True
        except (ApiError, OSError) as error:
            # 403 too: an API server that is starting refuses everybody until it has read its roles.
            log.info('pod not noted yet pod=%s error="%s"', key, error)
            self.failures += 1
            return False
        return True
