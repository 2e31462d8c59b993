"""What every wire object has in common: metadata, conditions, and how Python names become Kubernetes' spellings.

Theory: a wire object is exactly what the API server stores, trimmed to the fields Tortie reads. Decoding ignores
unknown fields (a newer API server, a field of no interest), encoding leaves out defaults. Everything is frozen: a
change is `msgspec.structs.replace(obj, ...)` and a compare-and-swap write.

Invariants: no wire object can be part of a reference cycle, therefore `gc=False`: ten thousand Pods must not be
walked by each garbage collection. Python attribute `peer_ip` is `peerIP` on the wire and so on; the one rule is
`kube_name`, the exceptions are spelled with `field(name=...)` at the field.

Who uses it: pools, blocks, bgp_kinds, cluster and core define kinds with it; every Store reads the class variables.
"""

from typing import ClassVar

import msgspec

_UPPER = {"ip": "IP", "ips": "IPs", "as": "AS", "bgp": "BGP", "cidr": "CIDR", "cidrs": "CIDRs", "id": "ID"}
_UPPER |= {"guid": "GUID", "vm": "VM", "ipv4": "IPV4", "ipv6": "IPV6"}


def kube_name(attribute: str) -> str:
    """`node_name` -> `nodeName`, `peer_ip` -> `peerIP`, `disable_bgp_export` -> `disableBGPExport`."""
    first, *rest = attribute.split("_")
    return first + "".join(_UPPER.get(word, word.capitalize()) for word in rest)


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename=kube_name):
    """Base of everything that travels to or from the API server."""


class OwnerReference(Wire, frozen=True, kw_only=True):
    api_version: str
    kind: str
    name: str
    uid: str


class ObjectMeta(Wire, frozen=True, kw_only=True):
    """metav1.ObjectMeta without managedFields, which are half of a Pod's bytes and nobody's business here."""

    name: str = ""
    namespace: str = ""
    generate_name: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(Wire, frozen=True, kw_only=True):
    """metav1.Condition. `status` is "True", "False" or "Unknown"; `last_transition_time` is RFC 3339 in UTC."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


class Status(Wire, frozen=True, kw_only=True):
    """The status that all Tortie's kinds share: a list of conditions, at most one of each type."""

    conditions: tuple[Condition, ...] = ()

    def condition(self, type_: str) -> Condition | None:
        """The condition of that type, or None when nobody has said anything yet."""
        return next((c for c in self.conditions if c.type == type_), None)


class Resource(Wire, frozen=True, kw_only=True):
    """Base of every kind that a Store can hold."""

    group: ClassVar[str] = ""
    version: ClassVar[str] = "v1"
    kind: ClassVar[str]
    plural: ClassVar[str]
    namespaced: ClassVar[bool] = False

    metadata: ObjectMeta = ObjectMeta()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def deleting(self) -> bool:
        """Somebody asked for its deletion; finalizers (or a grace period) keep it."""
        return bool(self.metadata.deletion_timestamp)

    def key(self) -> str:
        """`name`, or `namespace/name`: unique among the objects of this kind."""
        meta = self.metadata
        return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name

    @classmethod
    def api_version(cls) -> str:
        return f"{cls.group}/{cls.version}" if cls.group else cls.version

    @classmethod
    def path(cls, name: str = "", *, namespace: str = "", subresource: str = "") -> str:
        """The URL path of one object, or of the collection when `name` is empty."""
        parts = ["apis", cls.group, cls.version] if cls.group else ["api", cls.version]
        if cls.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (cls.plural, name, subresource) if part]
        return "/" + "/".join(parts)


class CalicoResource(Resource, frozen=True, kw_only=True):
    """Base of our own kinds: group projectcalico.org, version v3, scope Cluster."""

    group: ClassVar[str] = "projectcalico.org"
    version: ClassVar[str] = "v3"
