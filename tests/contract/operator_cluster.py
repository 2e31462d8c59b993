"""A control plane of their own for the operator's tests, and operators as processes with nothing but their token.

The operator reads and writes everything in a cluster, so it cannot share the API server of the other tests: it would
mark their pools and collect their blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.controlplane import ControlPlane, KubectlFailed
from tests.eventually import eventually

REPOSITORY = Path(__file__).resolve().parent.parent.parent

QUICK = {
    "TORTIE_SETTLE_S": "0.6",
    "TORTIE_RELEASE_S": "0.4",
    "TORTIE_FENCE_S": "2",
    "TORTIE_FENCE_GRACE_S": "0.5",
    "TORTIE_DECOMMISSION_S": "0.5",
    "TORTIE_SILENT_S": "60",
    "TORTIE_LOOK_S": "0.3",
    "TORTIE_RELIST_S": "2",
    "TORTIE_SECRETS_S": "0.3",
    "TORTIE_LEASE_S": "3",
}
"""Minutes become fractions of a second; nothing else is different."""


@dataclass(slots=True)
class Operator:
    """One running tortie-operator."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def health(self) -> str:
        """The body of /healthz; "" while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def leads(self) -> bool:
        """Is it the leader, and well?"""
        return self.health() == "leader: ok\n"

    def text(self) -> str:
        """All that it logged."""
        return self.log.read_text()


@dataclass(slots=True)
class Cluster:
    """An API server with CRDs and RBAC of this repository, and nothing else in it."""

    control_plane: ControlPlane
    state: Path
    _operators: list[Operator] = field(default_factory=list)

    @property
    def manifests(self) -> Path:
        """The CRDs."""
        return REPOSITORY / "crds" / "manifests"

    def start_operator(self, **environment: str) -> Operator:
        """A new process with the operator's own token; further settings by environment."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = self.state / f"operator-{len(self._operators)}.log"
        kubeconfig = self.control_plane.kubeconfig_for_account("tortie-operator")
        env = {**os.environ, **QUICK, "KUBECONFIG": str(kubeconfig), **environment}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "ipam.operator_main", "--health-port", str(port)],
                stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=env,
            )  # fmt: skip
        operator = Operator(process, port, log)
        self._operators.append(operator)
        return operator

    def end_operators(self) -> None:
        """Kill those that still run; by their own pids."""
        for operator in self._operators:
            with contextlib.suppress(ProcessLookupError):
                operator.process.kill()
            operator.process.wait(timeout=10)

    def apply(self, *objects: dict[str, Any]) -> None:
        """kubectl apply as administrator."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        # kubectl itself does not know that `allocations` may hold null; the API server validates.
        flags = ("--server-side", "--force-conflicts", "--validate=false")
        self.control_plane.kubectl("apply", *flags, "-f", "-", stdin=text)

    def get(self, kind: str, name: str, *, namespace: str = "") -> dict[str, Any] | None:
        """The object, or None."""
        where = ["-n", namespace] if namespace else []
        try:
            found: dict[str, Any] = json.loads(self.control_plane.kubectl("get", kind, name, "-o", "json", *where))
        except KubectlFailed as error:
            if "NotFound" in str(error) or "not found" in str(error):
                return None
            raise
        return found

    def list(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        items: list[dict[str, Any]] = json.loads(self.control_plane.kubectl("get", kind, "-A", "-o", "json"))["items"]
        return items

    def condition(self, kind: str, name: str) -> tuple[str, str, str]:
        """Status, reason and message of the one condition; blanks while there is none."""
        found = self.get(kind, name) or {}
        for condition in found.get("status", {}).get("conditions", []):
            return condition["status"], condition["reason"], condition.get("message", "")
        return "", "", ""

    def delete(self, kind: str, name: str, *, namespace: str = "") -> None:
        """Ask for deletion and do not wait for it."""
        where = ["-n", namespace] if namespace else []
        self.control_plane.kubectl("delete", kind, name, "--wait=false", "--ignore-not-found", *where)

    def versions(self) -> dict[str, str]:
        """The resourceVersion of every object that an operator may write."""
        kinds = (
            "ippools,ipamblocks,blockaffinities,ipamhandles,ipamconfigurations,clusterinformations,"
            "bgppeers,bgpconfigurations,bgpfilters,ipreservations,nodes"
        )
        return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in self.list(kinds)}

    def gone(self, kind: str, name: str) -> None:
        """Wait until it is not there."""
        eventually(lambda: self.get(kind, name) is None, within_s=30, every_s=0.2, what=f"{kind} {name} is gone")


@contextlib.contextmanager
def own_cluster(state: Path, *, content: tuple[str, ...] = ("crds/manifests", "deploy/rbac")) -> Iterator[Cluster]:
    """Start etcd and API server with what lies in these directories; end them and all operators afterwards."""
    control_plane = ControlPlane.create(state, say=print)
    cluster = Cluster(control_plane, state)
    try:
        control_plane.start()
        control_plane.apply(*(REPOSITORY / directory for directory in content))
        yield cluster
    finally:
        cluster.end_operators()
        control_plane.stop()


def calico(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """An object of group projectcalico.org/v3."""
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}


def node(name: str) -> dict[str, Any]:
    """A Node with nothing in it."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def agent_lease(node_name: str, *, holder: str, renewed: str, **annotations: str) -> dict[str, Any]:
    """The Lease that an agent renews; T is two seconds."""
    meta = {"name": f"tortie-agent-{node_name}", "namespace": "tortie-system", "annotations": annotations}
    spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 2}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def block(cidr: str, *, node_name: str | None, pods: dict[int, str] | None = None, size: int = 64) -> dict[str, Any]:
    """An IPAMBlock. `pods`: ordinal -> "node/handle"."""
    pods = pods or {}
    ordinals = sorted(pods)
    attributes = []
    for ordinal in ordinals:
        owner, handle = pods[ordinal].split("/")
        secondary = {"node": owner, "namespace": "shop", "pod": f"web-{ordinal}"}
        attributes.append({"handle_id": handle, "secondary": secondary})
    spec = {
        "cidr": cidr,
        "allocations": [ordinals.index(o) if o in pods else None for o in range(size)],
        "unallocated": [o for o in range(size) if o not in pods],
        "attributes": attributes,
        "strictAffinity": False,
        "sequenceNumber": 7,
    }
    if node_name is not None:
        spec["affinity"] = f"host:{node_name}"
    return calico("IPAMBlock", cidr.translate(str.maketrans("./:", "---")), **spec)


def affinity(cidr: str, node_name: str, *, state: str = "confirmed", deleted: bool = False) -> dict[str, Any]:
    """A BlockAffinity."""
    name = f"{node_name}-{cidr.translate(str.maketrans('./:', '---'))}"
    return calico("BlockAffinity", name, cidr=cidr, node=node_name, state=state, type="host", deleted=deleted)
