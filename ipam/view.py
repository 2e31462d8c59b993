"""What the node's IPAM is shown of the cluster: the latest state of the agent's watches, as one value.

The agent builds a ClusterView from its snapshot and hands it to NodeIPAM.see() whenever something in it changed. Only
the newest one counts: it says how the world is, not what happened. Maps and tuples are kept by reference, so the agent
must not change them afterwards; an object that did not change should stay the same Python object (parsing is cached by
identity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from crds.blocks import BlockAffinity, IPAMBlock
from crds.core import Pod
from crds.pools import IPAMConfiguration, IPPool, IPReservation


class Sync(Enum):
    """Whether every watch behind a view has listed once."""

    WAITING = "waiting"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster as this node's watches show it.

    `node_uid` "" means that the Node object is not there. `blocks` and `affinities` are keyed by object name and hold
    all nodes' objects (others' blocks tell which candidates are taken). `pods` are those bound to this node, finished
    and hostNetwork ones included. Nothing is freed and no journal is rebuilt before `sync` is COMPLETE.
    """

    sync: Sync
    node_uid: str
    node_labels: Mapping[str, str] = field(default_factory=dict)
    pools: tuple[IPPool, ...] = ()
    reservations: tuple[IPReservation, ...] = ()
    configuration: IPAMConfiguration | None = None
    blocks: Mapping[str, IPAMBlock] = field(default_factory=dict)
    affinities: Mapping[str, BlockAffinity] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
