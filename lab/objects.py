"""The Kubernetes objects of a fabric: what its administrator would write by hand for these racks.

What for: pools, the BGP configuration and the peerings follow from the topology, and `up` applies them as a user
would, with kubectl.

Theory: where nodes hang on a rack's segment, one BGPPeer for each rack and family selects its nodes by the `rack`
label; the peer is the gateway. Where a node has uplinks, each link is a peering of its own, from the link's own
address (`sourceAddress: None`), because the node's address is not on that link. A node's AS number is an annotation
of the Node, as Calico has it. Routers keep a node's routes over a restart for as long as the topology says.

Invariants: pure. Nothing but Calico's own fields.

Called by: fabric, tests.
"""

from __future__ import annotations

from typing import Any

from lab.cabling import pair
from lab.topology import Node, Topology

Json = dict[str, Any]

API_VERSION = "projectcalico.org/v3"
RACK_LABEL = "rack"
ASN_ANNOTATION = "projectcalico.org/ASNumber"


def _object(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def pools(topology: Topology) -> list[Json]:
    """One IPPool for each pool of the topology."""
    return [
        _object("IPPool", pool.name, {"cidr": pool.cidr, "blockSize": pool.block_size, "natOutgoing": False})
        for pool in topology.pools
    ]


def bgp(topology: Topology) -> list[Json]:
    """BGPConfiguration and all BGPPeers."""
    configuration = _object("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": topology.bgp.mesh})
    peers: list[Json] = []
    for segment in topology.segments:
        members = [node for node in topology.nodes if node.segment == segment.name]
        asn = topology.router(segment.router).asn
        for rack in sorted({node.rack for node in members}):
            for gateway in (segment.v4.ip, segment.v6.ip):
                spec = {"peerIP": str(gateway), "asNumber": asn, "nodeSelector": f"{RACK_LABEL} == '{rack}'"}
                peers.append(_object("BGPPeer", f"{rack}-{segment.router}-v{gateway.version}", spec))
    for node in topology.nodes:
        for uplink in node.uplinks:
            for gateway in (pair(uplink.v4)[0], pair(uplink.v6)[0]):
                spec = {
                    "node": node.name,
                    "peerIP": str(gateway),
                    "asNumber": topology.router(uplink.router).asn,
                    "sourceAddress": "None",
                }
                peers.append(_object("BGPPeer", f"{node.name}-{uplink.router}-v{gateway.version}", spec))
    return [configuration, *peers]


def node_labels(node: Node) -> dict[str, str]:
    """Labels that a node's kubelet registers it with."""
    return {RACK_LABEL: node.rack}


def node_annotations(node: Node) -> dict[str, str]:
    """Annotations that a node's kubelet registers it with."""
    return {ASN_ANNOTATION: str(node.asn)}


def pod(
    name: str,
    *,
    node: str,
    namespace: str = "default",
    command: tuple[str, ...] = (),
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    host_network: bool = False,
    restart_policy: str = "Always",
) -> Json:
    """A Pod that is bound to its node from the start, for there is no scheduler."""
    container: Json = {"name": "main", "image": "tortie.lab/host-file-system"}
    if command:
        container["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": annotations or {},
            "labels": labels or {"app": name},
        },
        "spec": {
            "nodeName": node,
            "containers": [container],
            "hostNetwork": host_network,
            "restartPolicy": restart_policy,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
        },
    }
