"""One pod on a light node, from "bound here" to "gone": a thread that brings the world in line with the Pod object.

What for: the pod worker of the kubelet stand-in.

Theory: the worker holds the newest Pod object and looks again whenever that changes, and once a second. Each look
takes one of few steps: set up, watch the process, tear down. A step that fails is tried again after a back-off
that doubles; a failed ADD is followed by DEL with the same container ID, and the next try has a new one, as
containerd does it. Deletion ends with the removal of the object from the API, which only the kubelet may do.

Invariants: never two workers for one pod UID. Nothing is reported Running before its process runs.

Called by: kubelet.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import kubelet_objects, runtime, sandbox
from lab.api import Api, ApiRefused
from lab.kubelet_objects import NodeIdentity, PodState
from lab.runtime import CniFailed
from lab.sandbox import Record

Json = dict[str, Any]

CONF_DIRECTORY = Path("/etc/cni/net.d")
PLUGINS = Path("/opt/cni/bin")
FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 5.0
POLL_S = 1.0


def now() -> str:
    """The time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class PodWorker(threading.Thread):
    """Owner of one pod here. `pod` is None for a record on disk whose Pod the API no longer has."""

    def __init__(self, pod: Json | None, *, record: Record | None, api: Api, identity: NodeIdentity) -> None:
        meta = pod["metadata"] if pod else {"name": record.name if record else "?"}
        super().__init__(name=f"pod-{meta['name']}", daemon=True)
        self._pod = pod
        self._record = record
        self._api = api
        self._identity = identity
        self._news: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
        self._child: subprocess.Popen[bytes] | None = None
        self._reported: Json = {}
        self._finished = False
        self.retry_s = FIRST_RETRY_S

    def see(self, pod: Json | None) -> None:
        """Hand over the newest object; None when it is gone from the API."""
        self._news.put(pod)

    def run(self) -> None:
        """Look, act, wait; ends when nothing of the pod is left."""
        until_s = 0.0
        wakes: Callable[[Json | None], bool] = _anything
        while True:
            self._await_news(until_s=until_s, wakes=wakes)
            try:
                if self._look():
                    return
                until_s, wakes = time.monotonic() + POLL_S, _anything
                self.retry_s = FIRST_RETRY_S
            except (CniFailed, ApiRefused, OSError, subprocess.CalledProcessError) as error:
                print(f"event=retry pod={self.name} wait_s={self.retry_s} problem={str(error)!r}", flush=True)
                # A back-off must last: our own status patches come back as news too.
                until_s, wakes = time.monotonic() + self.retry_s, _its_end
                self.retry_s = min(self.retry_s * 2, LONGEST_RETRY_S)

    def _await_news(self, *, until_s: float, wakes: Callable[[Json | None], bool]) -> None:
        """Return at `until_s`, or at news that `wakes`; the newest object is taken on either way."""
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                self._pod = self._news.get(timeout=left_s)
            except queue.Empty:
                return
            if self._news.empty() and wakes(self._pod):
                return

    def _look(self) -> bool:
        """One step; True when the pod is gone for good."""
        pod = self._pod
        if pod is None or _its_end(pod):
            self._tear_down(grace_s=_grace_s(pod))
            if pod is not None:
                self._remove_object(pod)
            return True
        if self._finished or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
            self._tear_down(grace_s=0)
            return False
        if self._record is not None and self._record.netns and not Path(self._record.netns).exists():
            self._tear_down(grace_s=0)  # the node was rebooted: what the record describes is gone
        if self._record is None or (self._record.result is None and not self._record.host_network):
            self._set_up(pod)
        self._mind_process(pod)
        return False

    def _set_up(self, pod: Json) -> None:
        """Namespace and ADD. On failure everything is taken back, and the Pod says why."""
        if self._record is not None:
            self._tear_down(grace_s=0)
        record = sandbox.save(sandbox.fresh(pod, port_mappings=kubelet_objects.port_mappings(pod)))
        self._record = record
        if record.host_network:
            return
        try:
            conf = runtime.find(CONF_DIRECTORY)
            if conf is None:
                raise CniFailed(runtime.TRY_AGAIN_LATER, f"no CNI configuration in {CONF_DIRECTORY} yet")
            sandbox.make_namespace(record)
            result = runtime.add(conf, record.attachment(), path=PLUGINS)
        except CniFailed as error:
            self._complain(pod, error)
            self._tear_down(grace_s=0)
            raise
        self._record = sandbox.save(replace(record, result=result, conf=conf.name))

    def _mind_process(self, pod: Json) -> None:
        """Start the process, notice its end, report."""
        record = self._record
        assert record is not None
        code = self._child.poll() if self._child is not None else None
        if record.pid and not record.running:
            code = code if code is not None else 1
            policy = pod["spec"].get("restartPolicy", "Always")
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                phase = "Succeeded" if code == 0 else "Failed"
                self._report(PodState(phase=phase, addresses=self._addresses(), exit_code=code))
                self._finished = True
                self._tear_down(grace_s=0)
                return
            record = replace(record, restarts=record.restarts + 1)
        if not record.running:
            command, env = kubelet_objects.pod_command(pod)
            self._record, self._child = sandbox.start(record, command, env)
        self._report(PodState(phase="Running", addresses=self._addresses(), restarts=record.restarts))

    def _tear_down(self, *, grace_s: float) -> None:
        """Process, DEL, namespace, record: in this order, each idempotent."""
        record = self._record
        if record is None:
            return
        sandbox.stop(record, grace_s=grace_s)
        if self._child is not None:
            self._child.wait()
            self._child = None
        if not record.host_network:
            conf = runtime.find(CONF_DIRECTORY)
            if conf is not None:
                runtime.delete(conf, record.attachment(), path=PLUGINS, result=record.result)
            elif record.result is not None:
                raise CniFailed(runtime.TRY_AGAIN_LATER, "no CNI configuration to call DEL with")
            sandbox.drop_namespace(record)
        sandbox.forget(record)
        self._record = None

    def _remove_object(self, pod: Json) -> None:
        meta = pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        try:
            self._api.delete(_path(pod), body)
        except ApiRefused as refused:
            if refused.status not in {404, 409}:
                raise

    def _addresses(self) -> tuple[str, ...]:
        if self._record is None or self._record.host_network:
            return self._identity.addresses
        return kubelet_objects.result_addresses(self._record.result or {})

    def _complain(self, pod: Json, error: CniFailed) -> None:
        """A pod that cannot start says so in its status and by an Event, as under a real kubelet."""
        self._report(PodState(phase="Pending", reason="ContainerCreating", message=str(error)))
        note = kubelet_objects.event(
            pod, node=self._identity.name, reason="FailedCreatePodSandBox", message=str(error), now=now()
        )
        self._api.post(f"/api/v1/namespaces/{pod['metadata']['namespace']}/events", note)

    def _report(self, state: PodState) -> None:
        """Patch the status if it says something new."""
        pod = self._pod
        assert pod is not None
        addresses = self._identity.addresses
        timeless = kubelet_objects.pod_status(pod, state, host_addresses=addresses, now="")
        timeless["status"].pop("startTime")
        if timeless != self._reported:
            status = kubelet_objects.pod_status(pod, state, host_addresses=addresses, now=now())
            self._api.patch(f"{_path(pod)}/status", status)
            self._reported = timeless


def _anything(_pod: Json | None) -> bool:
    return True


def _its_end(pod: Json | None) -> bool:
    return pod is None or "deletionTimestamp" in pod["metadata"]


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _grace_s(pod: Json | None) -> float:
    return float(pod["metadata"].get("deletionGracePeriodSeconds", 0)) if pod else 0.0
