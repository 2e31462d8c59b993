"""What the agent sees of the cluster, as one value.

Theory: the brain is a function of what is seen now. The watches build a new Snapshot when something changed; a mapping
in it is shared with the snapshot before where its kind did not change, so that comparing by identity (`is`) tells
cheaply whether anything that a computation reads is new.

Invariants: nothing in a Snapshot changes after it is made. `sync` is COMPLETE only when every kind has been listed
once; before that, absence proves nothing.

Called by `felix.watches` (makes it) and all of `felix.agent`'s brain (reads it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPeer
from crds.blocks import BlockAffinity, IPAMBlock
from crds.core import Namespace, Node, Pod, Secret, Service
from crds.pools import IPAMConfiguration, IPPool, IPReservation


class Sync(Enum):
    """Whether all kinds have been listed once."""

    WAITING = "waiting"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The cluster. Keys are names, or `namespace/name` for kinds that live in one."""

    sync: Sync = Sync.WAITING
    pods: Mapping[str, Pod] = field(default_factory=dict)
    own_pods: Mapping[str, Pod] = field(default_factory=dict)
    """Those of `pods` that are bound to this node."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """Of Tortie's own namespace alone."""
    pools: Mapping[str, IPPool] = field(default_factory=dict)
    reservations: Mapping[str, IPReservation] = field(default_factory=dict)
    ipam_configurations: Mapping[str, IPAMConfiguration] = field(default_factory=dict)
    blocks: Mapping[str, IPAMBlock] = field(default_factory=dict)
    affinities: Mapping[str, BlockAffinity] = field(default_factory=dict)
    bgp_configurations: Mapping[str, BGPConfiguration] = field(default_factory=dict)
    bgp_peers: Mapping[str, BGPPeer] = field(default_factory=dict)
    bgp_filters: Mapping[str, BGPFilter] = field(default_factory=dict)
