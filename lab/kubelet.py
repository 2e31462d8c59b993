"""A stand-in for the kubelet: registers the node, runs the Pods bound to it through CNI, reports their status.

What for: to show and test pod networking on a real Kubernetes API without containers, images and 80 MB a node. What
touches the network is done exactly as kubelet and containerd do it; what does not (images, probes, volumes,
cgroups) is left out. A pod's process is its first container's `command`, run from the node's file system in the
pod's network namespace.

Theory: list and watch the Pods with `spec.nodeName` of this node; one thread per pod (`kubelet_pod`). Ready is
reported once a CNI configuration is there and, for CNI 1.1.0, STATUS succeeds. State is on disk, so a restarted
stand-in adopts its running pods.

Invariants: uses a kubelet's own credentials (`system:node:NAME`, the Node authorizer), and never more.

Called by: node_init, as `python -m lab.kubelet CONFIG.json`.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lab import kubelet_objects, runtime, sandbox
from lab.api import Api, ApiRefused
from lab.kubelet_objects import NodeIdentity
from lab.kubelet_pod import CONF_DIRECTORY, PLUGINS, PodWorker, now
from lab.runtime import CniFailed

Json = dict[str, Any]

STATUS_EVERY_S = 5.0
"""How often a kubelet asks its runtime for the state of the network, once the node is Ready."""
STATUS_EAGER_S = 0.25
"""The same while the node is not Ready."""
HEARTBEAT_S = 60.0


class Kubelet:
    """The whole stand-in. `run` never returns."""

    def __init__(self, *, api: Api, identity: NodeIdentity) -> None:
        self._api = api
        self._identity = identity
        self._workers: dict[str, PodWorker] = {}

    def run(self) -> None:
        """Register, adopt, watch."""
        _until_it_works(self._register, what="register")
        threading.Thread(target=self._report_node, name="node-status", daemon=True).start()
        records = {record.uid: record for record in sandbox.load_all()}
        threading.Thread(target=_collect_garbage, args=(list(records.values()),), daemon=True).start()
        pods, version = _until_it_works(self._list, what="list")
        for uid, record in records.items():
            self._start_worker(uid, pods.get(uid), record)
        while True:
            self._see(pods)
            try:
                self._watch(version)
            except (OSError, http.client.HTTPException, ApiRefused, ValueError) as error:
                print(f"event=watch-ended problem={str(error)!r}", flush=True)
            pods, version = _until_it_works(self._list, what="list")

    def _register(self) -> None:
        body = kubelet_objects.node_object(self._identity)
        try:
            self._api.post("/api/v1/nodes", body)
        except ApiRefused as refused:
            if refused.status != 409:
                raise
            meta = body["metadata"]
            patch = {"metadata": {"labels": meta["labels"], "annotations": meta["annotations"]}}
            self._api.patch(f"/api/v1/nodes/{self._identity.name}", patch)

    def _list(self) -> tuple[dict[str, Json], str]:
        answer = self._api.get("/api/v1/pods", fieldSelector=f"spec.nodeName={self._identity.name}")
        return {pod["metadata"]["uid"]: pod for pod in answer["items"]}, answer["metadata"]["resourceVersion"]

    def _see(self, pods: dict[str, Json]) -> None:
        """A complete list: tell every worker, start those that lack."""
        for uid, worker in list(self._workers.items()):
            worker.see(pods.get(uid))
        for uid, pod in pods.items():
            self._see_one(uid, pod)

    def _see_one(self, uid: str, pod: Json | None) -> None:
        worker = self._workers.get(uid)
        if worker is not None and worker.is_alive():
            worker.see(pod)
        elif pod is not None:
            self._start_worker(uid, pod, None)
        else:
            self._workers.pop(uid, None)

    def _start_worker(self, uid: str, pod: Json | None, record: sandbox.Record | None) -> None:
        self._workers[uid] = PodWorker(pod, record=record, api=self._api, identity=self._identity)
        self._workers[uid].start()

    def _watch(self, version: str) -> None:
        query = {"fieldSelector": f"spec.nodeName={self._identity.name}", "timeoutSeconds": "300"}
        for seen in self._api.watch("/api/v1/pods", resourceVersion=version, **query):
            if seen["type"] == "ERROR":
                raise ValueError(seen["object"].get("message", "watch error"))
            if seen["type"] == "BOOKMARK":
                continue
            pod = seen["object"]
            self._see_one(pod["metadata"]["uid"], None if seen["type"] == "DELETED" else pod)

    def _report_node(self) -> None:
        """Keep the Node's Ready condition true to the CNI configuration."""
        said, said_s = None, 0.0
        while True:
            problem = _network_problem()
            due = time.monotonic() - said_s > HEARTBEAT_S
            if problem != said or due:
                try:
                    status = kubelet_objects.node_status(self._identity, problem=problem, now=now())
                    self._api.patch(f"/api/v1/nodes/{self._identity.name}/status", status)
                    said, said_s = problem, time.monotonic()
                except (ApiRefused, OSError, http.client.HTTPException) as error:
                    print(f"event=node-status-failed problem={str(error)!r}", flush=True)
                    if isinstance(error, ApiRefused) and error.status == 404:
                        _until_it_works(self._register, what="register")
            time.sleep(STATUS_EAGER_S if problem else STATUS_EVERY_S)


def _network_problem() -> str:
    """What a runtime would say of its network: '' when it is ready."""
    try:
        conf = runtime.find(CONF_DIRECTORY)
        if conf is None:
            return f"no CNI configuration in {CONF_DIRECTORY}"
        if conf.speaks_status:
            runtime.status(conf, path=PLUGINS)
    except (CniFailed, ValueError, OSError) as error:
        return f"the network plugin is not ready: {error}"
    return ""


def _collect_garbage(records: list[sandbox.Record]) -> None:
    """GC once at start, for what an earlier life left behind."""
    try:
        conf = runtime.find(CONF_DIRECTORY)
        if conf is not None and conf.speaks_status:
            runtime.collect_garbage(conf, [r.attachment() for r in records], path=PLUGINS)
    except (CniFailed, ValueError, OSError) as error:
        print(f"event=gc-failed problem={str(error)!r}", flush=True)


def _until_it_works(step: Any, *, what: str) -> Any:
    wait_s = 0.1
    while True:
        try:
            return step()
        except (ApiRefused, OSError, http.client.HTTPException, ValueError) as error:
            print(f"event=retry step={what} problem={str(error)!r}", flush=True)
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)


def main() -> None:
    """Read the configuration named in the first argument and run."""
    config = json.loads(Path(sys.argv[1]).read_text())
    identity = NodeIdentity(
        name=config["name"],
        addresses=tuple(config["addresses"]),
        labels=config["labels"],
        annotations=config["annotations"],
    )
    api = _until_it_works(lambda: Api(Path(config["kubeconfig"])), what="kubeconfig")
    Kubelet(api=api, identity=identity).run()


if __name__ == "__main__":
    main()
