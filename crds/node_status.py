"""CalicoNodeStatus: what one node's agent answers when it is asked about itself.

Calico: `api/pkg/apis/projectcalico/v3/nodestatus.go`. Somebody (`tortiectl node status`, or a person) creates an
object that names a node and what he wants to know; the agent of that node fills `status` at once, and again every
`updatePeriodSeconds` (0: only once). No agent listens on a port for this, and RBAC decides who may ask.
"""

from typing import ClassVar

from crds.meta import CalicoResource, Condition, Wire

CLASS_AGENT = "Agent"
CLASS_BGP = "BGP"
CLASS_ROUTES = "Routes"


class CalicoNodeStatusSpec(Wire, frozen=True, kw_only=True):
    node: str = ""
    classes: tuple[str, ...] = ()
    update_period_seconds: int | None = None
    """0 to 86400; None counts as 10."""


class BGPDaemonStatus(Wire, frozen=True, kw_only=True):
    """The speaker, seen for one family. Calico's names: `bird` is whatever speaks BGP."""

    state: str = ""
    """Ready or NotReady."""
    router_id: str = ""
    version: str = ""
    last_boot_time: str = ""
    last_reconfiguration_time: str = ""


class NodeAgentStatus(Wire, frozen=True, kw_only=True):
    bird_v4: BGPDaemonStatus | None = None
    bird_v6: BGPDaemonStatus | None = None


class NodePeer(Wire, frozen=True, kw_only=True):
    peer_ip: str = ""
    type: str = ""
    """NodeMesh, NodePeer or GlobalPeer."""
    state: str = ""
    """Idle, Connect, Active, OpenSent, OpenConfirm, Established or Close."""
    since: str = ""
    """RFC 3339, when the state began."""
    as_number: int = 0
    """Not in Calico's kind: the peer's AS."""
    prefixes_received: int = 0
    """Not in Calico's kind."""
    prefixes_sent: int = 0
    """Not in Calico's kind."""
    reason: str = ""
    """Not in Calico's kind: why the session is not up, in a few words."""


class NodeBGPStatus(Wire, frozen=True, kw_only=True):
    # Calico's CRD requires the four counts.
    number_established_v4: int
    number_established_v6: int
    number_not_established_v4: int
    number_not_established_v6: int
    peers_v4: tuple[NodePeer, ...] = ()
    peers_v6: tuple[NodePeer, ...] = ()


class RouteSource(Wire, frozen=True, kw_only=True):
    source_type: str = ""
    """Kernel, Static, Direct, NodeMesh or BGPPeer."""
    peer_ip: str = ""


class NodeRoute(Wire, frozen=True, kw_only=True):
    type: str = ""
    """FIB: in the kernel. RIB: heard, but not (or not yet) used."""
    destination: str = ""
    gateway: str = ""
    interface: str = ""
    learned_from: RouteSource = RouteSource()
    as_path: tuple[int, ...] = ()
    """Not in Calico's kind."""
    reason: str = ""
    """Not in Calico's kind: why a RIB route is not used."""


class NodeRoutesStatus(Wire, frozen=True, kw_only=True):
    routes_v4: tuple[NodeRoute, ...] = ()
    routes_v6: tuple[NodeRoute, ...] = ()


class CalicoNodeStatusStatus(Wire, frozen=True, kw_only=True):
    last_updated: str = ""
    """RFC 3339; empty as long as no agent has answered."""
    agent: NodeAgentStatus | None = None
    bgp: NodeBGPStatus | None = None
    routes: NodeRoutesStatus | None = None
    conditions: tuple[Condition, ...] = ()


class CalicoNodeStatus(CalicoResource, frozen=True, kw_only=True):
    """A question to one node's agent, and its answer."""

    kind: ClassVar[str] = "CalicoNodeStatus"
    plural: ClassVar[str] = "caliconodestatuses"

    spec: CalicoNodeStatusSpec = CalicoNodeStatusSpec()
    status: CalicoNodeStatusStatus | None = None
