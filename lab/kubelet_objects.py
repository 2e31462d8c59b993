"""What the kubelet stand-in writes to the API: Node, pod status and Event objects, as pure functions.

What for: the stand-in's words in one place, without a socket, so that tests can read them.

Invariants: pure; time comes in as text. Field names are Kubernetes' own.

Called by: kubelet, kubelet_pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """What a node says of itself. `addresses` are its InternalIPs, IPv4 first."""

    name: str
    addresses: tuple[str, ...]
    labels: dict[str, str]
    annotations: dict[str, str]


def node_object(identity: NodeIdentity) -> Json:
    """The Node as it is first registered."""
    labels = {"kubernetes.io/hostname": identity.name, "kubernetes.io/os": "linux"} | identity.labels
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": identity.name, "labels": labels, "annotations": identity.annotations},
    }


def node_status(identity: NodeIdentity, *, problem: str, now: str) -> Json:
    """The Node's status: Ready unless there is a `problem`, which is then the message."""
    ready = {
        "type": "Ready",
        "status": "False" if problem else "True",
        "reason": "KubeletNotReady" if problem else "KubeletReady",
        "message": problem or "the CNI configuration is there and the plugin answers",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    addresses = [{"type": "InternalIP", "address": address} for address in identity.addresses]
    resources = {"cpu": "2", "memory": "2Gi", "pods": "250"}
    return {
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": identity.name}],
            "capacity": resources,
            "allocatable": resources,
            "conditions": [ready],
            "nodeInfo": {
                "kubeletVersion": "v1.36.3-tortie-lab",
                "osImage": "a namespace of tortie-lab",
                "containerRuntimeVersion": "tortie-lab://0",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """What is known of a pod here: its phase, addresses, and, while it waits or has failed, why."""

    phase: str
    addresses: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""
    restarts: int = 0
    exit_code: int = 0


def pod_status(pod: Json, state: PodState, *, host_addresses: tuple[str, ...], now: str) -> Json:
    """The status patch of a pod. Addresses of a finished pod stay, as a kubelet's do."""
    running = state.phase == "Running"
    flag = "True" if running else "False"
    conditions = [
        {"type": kind, "status": flag, "lastTransitionTime": now, "reason": state.reason or None}
        for kind in ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
    ]
    conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now})
    status: Json = {
        "phase": state.phase,
        "reason": state.reason or None,
        "message": state.message or None,
        "conditions": conditions,
        "hostIP": host_addresses[0],
        "hostIPs": [{"ip": address} for address in host_addresses],
        "startTime": pod.get("status", {}).get("startTime") or now,
        "containerStatuses": [_container_status(c, state, now=now) for c in pod["spec"]["containers"]],
    }
    if state.addresses:
        status["podIP"] = state.addresses[0]
        status["podIPs"] = [{"ip": address} for address in state.addresses]
    return {"status": status}


def _container_status(container: Json, state: PodState, *, now: str) -> Json:
    if state.phase == "Running":
        current: Json = {"running": {"startedAt": now}}
    elif state.phase == "Pending":
        current = {"waiting": {"reason": state.reason or "ContainerCreating", "message": state.message}}
    else:
        current = {"terminated": {"exitCode": state.exit_code, "reason": state.reason or "Completed"}}
    running = state.phase == "Running"
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": running,
        "started": running,
        "restartCount": state.restarts,
        "state": current,
    }


def event(pod: Json, *, node: str, reason: str, message: str, now: str) -> Json:
    """A Warning Event about a pod."""
    meta = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "type": "Warning",
        "reason": reason,
        "message": message[:1000],
        "source": {"component": "kubelet", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def pod_command(pod: Json) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a pod's first container. Images mean nothing here; no command means: wait."""
    container = pod["spec"]["containers"][0]
    command = [*container.get("command", []), *container.get("args", [])]
    env = {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
    return command or ["sleep", "infinity"], env


def port_mappings(pod: Json) -> tuple[Json, ...]:
    """`hostPort`s in the form of CNI's portMappings."""
    return tuple(
        {
            "hostPort": port["hostPort"],
            "containerPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP").lower(),
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        if port.get("hostPort")
    )


def result_addresses(result: Json) -> tuple[str, ...]:
    """The addresses in a CNI result, IPv4 first, as pod status wants them."""
    addresses = [entry["address"].partition("/")[0] for entry in result.get("ips", [])]
    return tuple(sorted(addresses, key=lambda address: ":" in address))
