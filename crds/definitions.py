"""Our kinds as CustomResourceDefinitions: one `Definition` each, with everything that is not in the Python struct.

Invariants: group projectcalico.org, version v3 (served and stored), scope Cluster; every kind has a status subresource
with conditions; property names are the wire names of the struct (a test compares them). Called by crds.generate, and
by crds.fake_memory for the defaults that an API server fills in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crds import schema_blocks, schema_cluster, schema_filter, schema_ipam
from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPeer
from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.cluster import ClusterInformation
from crds.meta import CalicoResource
from crds.node_status import CalicoNodeStatus
from crds.pools import IPAMConfiguration, IPPool, IPReservation
from crds.schema import STATUS, Schema, record, rule
from crds.schema_bgp import BGP_CONFIGURATION, BGP_PEER


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    description: str = ""


_AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    kind: type[CalicoResource]
    spec: Schema
    status: Schema
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    """Paths below the object that a field selector may name, besides metadata.name."""
    rules: tuple[Schema, ...] = ()
    """CEL rules on the whole object; of metadata they see name and generateName only."""

    def schema(self) -> Schema:
        return record(
            (self.kind.__doc__ or self.kind.kind).splitlines()[0],
            {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": self.spec,
                "status": self.status,
            },
            required=("spec",),
            rules=self.rules,
        )

    def manifest(self) -> dict[str, Any]:
        """The CustomResourceDefinition object."""
        kind = self.kind
        names: dict[str, Any] = {
            "kind": kind.kind,
            "listKind": f"{kind.kind}List",
            "plural": kind.plural,
            "singular": kind.kind.lower(),
        }
        version: dict[str, Any] = {
            "name": kind.version,
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": self.schema()},
            "subresources": {"status": {}},
            "additionalPrinterColumns": [
                {"name": column.name, "type": column.type, "jsonPath": column.path}
                | ({"description": column.description} if column.description else {})
                for column in (*self.columns, _AGE)
            ],
        }
        if self.selectable:
            version["selectableFields"] = [{"jsonPath": path} for path in self.selectable]
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": f"{kind.plural}.{kind.group}",
                "labels": {"app.kubernetes.io/part-of": "tortie"},
            },
            "spec": {
                "group": kind.group,
                "names": names | ({"shortNames": list(self.short_names)} if self.short_names else {}),
                "scope": "Cluster",
                "versions": [version],
            },
        }


def _only_default(kind: str) -> Schema:
    return rule("self.metadata.name == 'default'", f"metadata.name of an {kind} must be default: there is only one")


DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        kind=IPPool,
        spec=schema_ipam.POOL,
        status=STATUS,
        columns=(
            Column(name="CIDR", path=".spec.cidr"),
            Column(name="VXLAN", path=".spec.vxlanMode"),
            Column(name="IPIP", path=".spec.ipipMode"),
            Column(name="NAT", path=".spec.natOutgoing", type="boolean"),
            Column(name="Allocatable", path='.status.conditions[?(@.type=="Allocatable")].status'),
        ),
    ),
    Definition(kind=IPReservation, spec=schema_ipam.RESERVATION, status=STATUS),
    Definition(
        kind=IPAMConfiguration,
        spec=schema_ipam.CONFIGURATION,
        status=STATUS,
        short_names=("ipamconfig",),
        rules=(_only_default("IPAMConfiguration"),),
    ),
    Definition(
        kind=IPAMBlock,
        spec=schema_blocks.BLOCK,
        status=STATUS,
        columns=(
            Column(name="CIDR", path=".spec.cidr"),
            Column(name="Affinity", path=".spec.affinity"),
            Column(name="ClaimTime", path=".spec.affinityClaimTime", type="date"),
        ),
    ),
    Definition(
        kind=BlockAffinity,
        spec=schema_blocks.AFFINITY,
        status=STATUS,
        short_names=("affinity", "affinities"),
        columns=(
            Column(name="CIDR", path=".spec.cidr"),
            Column(name="Node", path=".spec.node"),
            Column(name="State", path=".spec.state"),
        ),
        selectable=(".spec.node",),
    ),
    Definition(
        kind=IPAMHandle,
        spec=schema_blocks.HANDLE,
        status=STATUS,
        columns=(Column(name="Handle", path=".spec.handleID"),),
    ),
    Definition(
        kind=BGPConfiguration,
        spec=BGP_CONFIGURATION,
        status=STATUS,
        short_names=("bgpconfig", "bgpconfigs"),
        columns=(
            Column(name="AS", path=".spec.asNumber", type="integer"),
            Column(name="Mesh", path=".spec.nodeToNodeMeshEnabled", type="boolean"),
        ),
        rules=(
            rule(
                "self.metadata.name == 'default' || self.metadata.name.startsWith('node.')",
                "metadata.name of a BGPConfiguration must be default, or node.<name> for one node",
            ),
        ),
    ),
    Definition(
        kind=BGPPeer,
        spec=BGP_PEER,
        status=STATUS,
        columns=(
            Column(name="Node Selector", path=".spec.nodeSelector"),
            Column(name="Node", path=".spec.node"),
            Column(name="Local ASN", path=".spec.localASNumber", type="integer"),
            Column(name="Peer Selector", path=".spec.peerSelector"),
            Column(name="Peer IP", path=".spec.peerIP"),
            Column(name="Peer ASN", path=".spec.asNumber", type="integer"),
        ),
    ),
    Definition(kind=BGPFilter, spec=schema_filter.BGP_FILTER, status=STATUS),
    Definition(
        kind=ClusterInformation,
        spec=schema_cluster.CLUSTER_INFORMATION,
        status=STATUS,
        short_names=("clusterinfo",),
        columns=(
            Column(name="GUID", path=".spec.clusterGUID"),
            Column(name="Ready", path=".spec.datastoreReady", type="boolean"),
        ),
        rules=(_only_default("ClusterInformation"),),
    ),
    Definition(
        kind=CalicoNodeStatus,
        spec=schema_cluster.NODE_STATUS_SPEC,
        status=schema_cluster.NODE_STATUS,
        columns=(
            Column(name="Node", path=".spec.node"),
            Column(name="Updated", path=".status.lastUpdated", type="date"),
        ),
        selectable=(".spec.node",),
    ),
)


def definition_of(kind: type[CalicoResource]) -> Definition:
    return next(definition for definition in DEFINITIONS if definition.kind is kind)
