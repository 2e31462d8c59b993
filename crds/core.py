"""Kubernetes' own kinds, trimmed to the fields that Tortie reads or writes.

Theory: a Pod on the wire is several kilobytes; what Tortie needs of it is a few hundred bytes. Decoding straight into
these structs is what lets an agent watch ten thousand Pods in about ten megabytes. Anything not named here is ignored
when read, therefore Kubernetes' own kinds are never written by `replace` (it would drop the rest) but by `patch`;
only Lease and Secret are whole enough to be created from here.

`Pod.addresses` and `Node.internal_ip` hold the two rules that every reader must share.
"""

import sys
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import ClassVar

import msgspec

from crds.errors import BadObject
from crds.meta import Condition, ObjectMeta, Resource, Wire

IPAddress = IPv4Address | IPv6Address

POD_IPS = "cni.projectcalico.org/podIPs"
POD_IP = "cni.projectcalico.org/podIP"
CONTAINER_ID = "cni.projectcalico.org/containerID"
NODE_ADDRESS = {4: "projectcalico.org/IPv4Address", 6: "projectcalico.org/IPv6Address"}
NODE_AS_NUMBER = "projectcalico.org/ASNumber"

FINISHED = ("Succeeded", "Failed")


class ContainerPort(Wire, frozen=True, kw_only=True):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""
    protocol: str = "TCP"


class Container(Wire, frozen=True, kw_only=True):
    name: str = ""
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Wire, frozen=True, kw_only=True):
    node_name: str = ""
    host_network: bool = False
    service_account_name: str = ""
    containers: tuple[Container, ...] = ()
    termination_grace_period_seconds: int | None = None


class PodIP(Wire, frozen=True, kw_only=True):
    ip: str


class PodStatus(Wire, frozen=True, kw_only=True):
    phase: str = ""
    pod_ip: str = ""
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")


class Pod(Resource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "Pod"
    plural: ClassVar[str] = "pods"
    namespaced: ClassVar[bool] = True

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def __post_init__(self) -> None:
        compact_pod(self)

    @property
    def finished(self) -> bool:
        return self.status.phase in FINISHED

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The addresses that this Pod holds now; unreadable text counts as none.

        The agent's annotation is written right after ADD and blanked at DEL, seconds before the kubelet's status
        follows, so it wins whenever it is present. Pods on the host's network or finished hold none.
        """
        if self.spec.host_network or self.finished:
            return ()
        annotation = self.metadata.annotations.get(POD_IPS)
        if annotation is not None:
            return _addresses(annotation.split(","))
        status = self.status
        return _addresses([entry.ip for entry in status.pod_ips] or [status.pod_ip])


class NodeSpec(Wire, frozen=True, kw_only=True):
    unschedulable: bool = False
    pod_cidr: str = ""
    pod_cidrs: tuple[str, ...] = ()


class NodeAddress(Wire, frozen=True, kw_only=True):
    type: str
    address: str


class NodeStatus(Wire, frozen=True, kw_only=True):
    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(Resource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "Node"
    plural: ClassVar[str] = "nodes"

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def internal_ip(self, family: int) -> IPAddress | None:
        """The address that this node speaks BGP from: Calico's annotation if set, else status InternalIP.

        `family` is 4 or 6. An annotation that cannot be read raises BadObject: guessing another address would bring
        up sessions from the wrong place.
        """
        key = NODE_ADDRESS[family]
        if text := self.metadata.annotations.get(key):
            try:
                found = ip_interface("" if "%" in text else text).ip
            except ValueError:
                raise BadObject(f"metadata.annotations[{key}]", f"must be an IP address, is {text!r}") from None
            if found.version != family:
                raise BadObject(f"metadata.annotations[{key}]", f"must be an IPv{family} address, is {text!r}")
            return found
        texts = [a.address for a in self.status.addresses if a.type == "InternalIP"]
        return next((ip for ip in _addresses(texts) if ip.version == family), None)

    def as_number(self) -> int | None:
        """The AS number of this node alone, from Calico's annotation; None means the cluster's default."""
        text = self.metadata.annotations.get(NODE_AS_NUMBER)
        if not text:
            return None
        field = f"metadata.annotations[{NODE_AS_NUMBER}]"
        high, dot, low = text.partition(".")
        parts = (high, low) if dot else (high,)
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise BadObject(field, f"must be a number in 1..4294967295 (or its dotted form, RFC 5396), is {text!r}")
        number = (int(high) << 16) + int(low) if dot else int(high)
        if not 1 <= number <= 0xFFFFFFFF or (dot and (int(high) > 0xFFFF or int(low) > 0xFFFF)):
            raise BadObject(field, f"must lie in 1..4294967295, is {text!r}")
        return number

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)


class Namespace(Resource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "Namespace"
    plural: ClassVar[str] = "namespaces"


class Secret(Resource, frozen=True, kw_only=True):
    """`data` maps keys to bytes (base64 on the wire). Its repr never shows them: logs and tracebacks print reprs."""

    kind: ClassVar[str] = "Secret"
    plural: ClassVar[str] = "secrets"
    namespaced: ClassVar[bool] = True

    data: dict[str, bytes] = msgspec.field(default_factory=dict)
    type: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.key()}, keys={sorted(self.data)})"


class LeaseSpec(Wire, frozen=True, kw_only=True):
    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    """MicroTime: RFC 3339 with exactly six digits of a second, e.g. 2026-08-01T12:00:00.000000Z."""
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Resource, frozen=True, kw_only=True):
    group: ClassVar[str] = "coordination.k8s.io"
    kind: ClassVar[str] = "Lease"
    plural: ClassVar[str] = "leases"
    namespaced: ClassVar[bool] = True

    spec: LeaseSpec = LeaseSpec()


class ServicePort(Wire, frozen=True, kw_only=True):
    name: str = ""
    protocol: str = "TCP"
    port: int
    target_port: int | str | None = None
    node_port: int = 0


class ServiceSpec(Wire, frozen=True, kw_only=True):
    type: str = "ClusterIP"
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ip: str = ""
    load_balancer_class: str | None = None
    external_traffic_policy: str = ""
    internal_traffic_policy: str | None = None
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = msgspec.field(default_factory=dict)


class LoadBalancerIngress(Wire, frozen=True, kw_only=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Wire, frozen=True, kw_only=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Wire, frozen=True, kw_only=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] = ()


class Service(Resource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "Service"
    plural: ClassVar[str] = "services"
    namespaced: ClassVar[bool] = True

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


def compact_pod(pod: Pod) -> None:
    """Keeps of a fresh Pod what Tortie reads, and shares what it has in common with others: a third of the memory.

    Pods of one Deployment have the same labels and containers, those of one node its name. Annotations of others (a
    whole manifest, for instance) are left out, and so are owners. Shared maps are as frozen as the struct around them.
    """
    meta, spec = pod.metadata, pod.spec
    slim = ObjectMeta(
        name=meta.name,
        namespace=sys.intern(meta.namespace),
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        creation_timestamp=sys.intern(meta.creation_timestamp),
        deletion_timestamp=meta.deletion_timestamp,
        labels=_shared_labels(tuple(meta.labels.items())),
        annotations={sys.intern(key): value for key, value in meta.annotations.items() if _read_of_pods(key)} or _NONE,
        finalizers=meta.finalizers,
    )
    msgspec.structs.force_setattr(pod, "metadata", slim)
    msgspec.structs.force_setattr(pod, "spec", _shared_spec(spec))


_NONE: dict[str, str] = {}


def _read_of_pods(annotation: str) -> bool:
    return "projectcalico.org/" in annotation or "tortie" in annotation or annotation.endswith("-bandwidth")


@lru_cache(maxsize=8192)
def _shared_labels(labels: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict(labels)


@lru_cache(maxsize=8192)
def _shared_spec(spec: PodSpec) -> PodSpec:
    return spec


def _addresses(texts: list[str]) -> tuple[IPAddress, ...]:
    """Addresses out of texts with or without a prefix length; blank and unreadable ones are left out."""
    found = []
    for text in texts:
        if "%" in text:  # Python takes any text, newlines too, as the zone of an IPv6 address
            continue
        try:
            found.append(ip_address(text.strip().split("/")[0]))
        except ValueError:
            continue
    return tuple(found)
