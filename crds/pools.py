"""IPPool, IPReservation, IPAMConfiguration: which addresses exist and how they may be given out.

Calico: `api/pkg/apis/projectcalico/v3/{ippool,ipreservation,ipamconfig}.go`. These are wire objects, unchecked; the
checked value of an IPPool is `crds.values.Pool`. Limits and defaults are said once more, for the API server, in
`crds.schema_ipam`.
"""

from typing import ClassVar

from crds.meta import CalicoResource, Status, Wire

POOL_FINALIZER = "projectcalico.org/ippool-finalizer"
"""Calico's own; the only mark that Tortie leaves on an IPPool."""

ALLOCATABLE = "Allocatable"
"""The condition type on an IPPool. Absent counts as allocatable: the operator may not have seen the pool yet."""


class IPPoolSpec(Wire, frozen=True, kw_only=True):
    cidr: str
    block_size: int | None = None
    """Prefix length of a block; the default is 26 for IPv4, 122 for IPv6 (64 addresses)."""
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: tuple[str, ...] = ()
    """Of Workload, Tunnel, LoadBalancer; empty means Workload and Tunnel."""
    assignment_mode: str = "Automatic"
    disabled: bool = False
    disable_bgp_export: bool = False
    nat_outgoing: bool = False
    ipip_mode: str = "Never"
    vxlan_mode: str = "Never"


class IPPool(CalicoResource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "IPPool"
    plural: ClassVar[str] = "ippools"

    spec: IPPoolSpec
    status: Status | None = None


class IPReservationSpec(Wire, frozen=True, kw_only=True):
    reserved_cidrs: tuple[str, ...] = ()


class IPReservation(CalicoResource, frozen=True, kw_only=True):
    """Addresses never chosen automatically; one that is asked for by name is still given."""

    kind: ClassVar[str] = "IPReservation"
    plural: ClassVar[str] = "ipreservations"

    spec: IPReservationSpec = IPReservationSpec()
    status: Status | None = None


class IPAMConfigurationSpec(Wire, frozen=True, kw_only=True):
    strict_affinity: bool = False
    """True: no node takes addresses from another node's block. Calico's default is False; Tortie's operator sets it."""
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    """0 means the built-in limit of 20."""
    ip_cooldown_seconds: int | None = None
    kube_virt_vm_address_persistence: str = ""


class IPAMConfiguration(CalicoResource, frozen=True, kw_only=True):
    """One object, named `default`."""

    kind: ClassVar[str] = "IPAMConfiguration"
    plural: ClassVar[str] = "ipamconfigurations"

    spec: IPAMConfigurationSpec = IPAMConfigurationSpec()
    status: Status | None = None
