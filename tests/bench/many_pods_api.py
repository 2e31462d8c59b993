"""An API server of a large cluster, as far as an agent looks at it: 10,000 Pods of 4 kB, lists in pages, watches.

    python -m tests.bench.many_pods_api PORT PODS NODES CHANGES-PER-SECOND [FILE]

FILE holds more objects, as JSON: {"ippools": [...], ...}.

Reads are answered from memory; a write is answered with what was sent. Used by footprint_bench and routes_bench:
nothing here checks what an agent does, it only makes it work.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

FILLER = {"name": "SETTING", "value": "x" * 100}
Object = dict[str, Any]


def pod(number: int, *, node: str, version: int) -> Object:
    """About 4 kB, as a running Pod of a Deployment is."""
    app = f"app-{number % 200}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{app}-6d4cf56db6-{number:05}",
            "namespace": f"team-{number % 40}",
            "uid": f"00000000-0000-4000-8000-{number:012}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-08-01T12:00:00Z",
            "labels": {"app": app, "pod-template-hash": "6d4cf56db6", "tier": "backend"},
            "annotations": {"cni.projectcalico.org/podIPs": f"10.{number >> 8 & 255}.{number & 255}.7/32"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": "u"}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {f"f:{key}": {} for key in range(60)}}],
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "containers": [
                {
                    "name": "main",
                    "image": "registry.example.org/team/app:1.2.3",
                    "env": [FILLER] * 12,
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": f"10.{number >> 8 & 255}.{number & 255}.7",
            "podIPs": [{"ip": f"10.{number >> 8 & 255}.{number & 255}.7"}],
            "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "Initialized", "PodScheduled")],
        },
    }


def node(number: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "uid": f"node-uid-{number}", "resourceVersion": "1"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.{number >> 8}.{number & 255}"}]},
    }


class Cluster:
    """What is served."""

    def __init__(self, *, pods: int, nodes: int, changes_s: float) -> None:
        self.version = 1000
        self.nodes = nodes
        self.changes_s = changes_s
        self.objects: dict[str, list[Object]] = {
            "pods": [pod(number, node=self.node_of(number), version=1) for number in range(pods)],
            "nodes": [node(number) for number in range(nodes)],
        }

    def node_of(self, number: int) -> str:
        """110 of them on the first node."""
        return "node-0" if number < 110 else f"node-{1 + number % (self.nodes - 1)}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        parts = [part for part in request.path.split("/") if part]
        if request.method in {"POST", "PUT", "PATCH"}:
            body = await request.json()
            body.setdefault("metadata", {})["resourceVersion"] = str(self.version)
            return web.json_response(body)
        if "leases" in parts:
            status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no lease"}
            return web.json_response(status, status=404)
        plural = parts[-1]
        if "watch" in request.query:
            return await self.watch(request, plural)
        found = self.objects.get(plural, [])
        start = int(request.query.get("continue", "0"))
        end = start + int(request.query.get("limit", "0") or len(found))
        meta: Object = {"resourceVersion": str(self.version)}
        if end < len(found):
            meta["continue"] = str(end)
        return web.json_response({"kind": "List", "metadata": meta, "items": found[start:end]})

    async def watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        """Changes of Pods at the wanted pace, a bookmark a minute for the rest."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        number = 0
        while True:
            if plural == "pods" and self.changes_s:
                await asyncio.sleep(1 / self.changes_s)
                number = (number + 7) % len(self.objects["pods"])
                self.version += 1
                changed = pod(number, node=self.node_of(number), version=self.version)
                await response.write(json.dumps({"type": "MODIFIED", "object": changed}).encode() + b"\n")
            else:
                await asyncio.sleep(60)
                mark = {"kind": "Any", "metadata": {"resourceVersion": str(self.version)}}
                await response.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")


def main() -> None:
    """Serve until killed."""
    port, pods, nodes, changes_s = (float(word) for word in sys.argv[1:5])
    cluster = Cluster(pods=int(pods), nodes=int(nodes), changes_s=changes_s)
    for path in sys.argv[5:]:
        cluster.objects |= json.loads(Path(path).read_text())
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", cluster.answer)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
