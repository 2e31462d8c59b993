"""BGPConfiguration, BGPPeer, BGPFilter: with whom nodes speak BGP, and what may pass.

Calico: `api/pkg/apis/projectcalico/v3/{bgpconfig,bgppeer,bgpfilter}.go`. Wire objects, unchecked: `bgp.sessions` and
`bgp.filters` make values of them. Durations are Go's text ("120s"); `crds.values.parse_duration` reads them.
"""

from typing import ClassVar

from crds.meta import CalicoResource, Status, Wire


class SecretKeyRef(Wire, frozen=True, kw_only=True):
    name: str = ""
    key: str
    optional: bool = False


class BGPPassword(Wire, frozen=True, kw_only=True):
    """A TCP-MD5 password (RFC 2385), kept in a Secret of the agent's namespace."""

    secret_key_ref: SecretKeyRef | None = None


class Community(Wire, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""
    """`aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092)."""


class PrefixAdvertisement(Wire, frozen=True, kw_only=True):
    cidr: str = ""
    communities: tuple[str, ...] = ()


class CIDRBlock(Wire, frozen=True, kw_only=True):
    cidr: str = ""


class BGPConfigurationSpec(Wire, frozen=True, kw_only=True):
    as_number: int | None = None
    """The default of all nodes; 64512 when None."""
    node_to_node_mesh_enabled: bool | None = None
    """None means True, on the object `default`; ignored on `node.<name>` objects."""
    listen_port: int | None = None
    bind_mode: str | None = None
    log_severity_screen: str = ""
    node_mesh_password: BGPPassword | None = None
    node_mesh_max_restart_time: str | None = None
    communities: tuple[Community, ...] = ()
    prefix_advertisements: tuple[PrefixAdvertisement, ...] = ()
    service_cluster_ips: tuple[CIDRBlock, ...] = ()
    service_external_ips: tuple[CIDRBlock, ...] = ()
    service_load_balancer_ips: tuple[CIDRBlock, ...] = ()
    service_load_balancer_aggregation: str | None = None
    ignored_interfaces: tuple[str, ...] = ()
    local_workload_peering_ipv4: str = ""
    local_workload_peering_ipv6: str = ""
    ipv4_normal_route_priority: int | None = None
    ipv6_normal_route_priority: int | None = None
    program_cluster_routes: str | None = None


class BGPConfiguration(CalicoResource, frozen=True, kw_only=True):
    """`default` for all nodes, `node.<name>` for one."""

    kind: ClassVar[str] = "BGPConfiguration"
    plural: ClassVar[str] = "bgpconfigurations"

    spec: BGPConfigurationSpec = BGPConfigurationSpec()
    status: Status | None = None


class BGPPeerSpec(Wire, frozen=True, kw_only=True):
    node: str = ""
    node_selector: str = ""
    """Neither node nor nodeSelector: all nodes."""
    peer_ip: str = ""
    """`192.0.2.1`, `192.0.2.1:1790`, `2001:db8::1` or `[2001:db8::1]:1790`."""
    peer_selector: str = ""
    local_workload_selector: str = ""
    as_number: int | None = None
    local_as_number: int | None = None
    filters: tuple[str, ...] = ()
    password: BGPPassword | None = None
    source_address: str = ""
    """UseNodeIP or None; empty means UseNodeIP."""
    keep_original_next_hop: bool = False
    next_hop_mode: str | None = None
    max_restart_time: str | None = None
    keepalive_time: str | None = None
    num_allowed_local_as_numbers: int | None = None
    ttl_security: int | None = None
    reachable_by: str = ""
    reverse_peering: str | None = None


class BGPPeer(CalicoResource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "BGPPeer"
    plural: ClassVar[str] = "bgppeers"

    spec: BGPPeerSpec = BGPPeerSpec()
    status: Status | None = None


class PrefixLengthRange(Wire, frozen=True, kw_only=True):
    min: int | None = None
    max: int | None = None


class CommunityMatch(Wire, frozen=True, kw_only=True):
    values: tuple[str, ...]


class AddCommunity(Wire, frozen=True, kw_only=True):
    value: str


class PrependASPath(Wire, frozen=True, kw_only=True):
    prefix: tuple[int, ...]


class SetPriority(Wire, frozen=True, kw_only=True):
    value: int


class FilterOperation(Wire, frozen=True, kw_only=True):
    """Exactly one of the three."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependASPath | None = None
    set_priority: SetPriority | None = None


class FilterRule(Wire, frozen=True, kw_only=True):
    """All matches given must hold; the first rule that matches decides."""

    action: str
    cidr: str = ""
    match_operator: str = ""
    prefix_length: PrefixLengthRange | None = None
    source: str = ""
    interface: str = ""
    peer_type: str = ""
    communities: CommunityMatch | None = None
    as_path_prefix: tuple[int, ...] = ()
    priority: int | None = None
    operations: tuple[FilterOperation, ...] = ()


class BGPFilterSpec(Wire, frozen=True, kw_only=True):
    import_v4: tuple[FilterRule, ...] = ()
    export_v4: tuple[FilterRule, ...] = ()
    import_v6: tuple[FilterRule, ...] = ()
    export_v6: tuple[FilterRule, ...] = ()


class BGPFilter(CalicoResource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "BGPFilter"
    plural: ClassVar[str] = "bgpfilters"

    spec: BGPFilterSpec = BGPFilterSpec()
    status: Status | None = None
