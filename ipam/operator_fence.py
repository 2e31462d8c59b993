"""Is a node gone for good? The operator's half of the fence; the agent's half is ipam.fence.

An agent that cannot reach the API keeps giving out addresses from its own blocks, by its own clock, for T after its
last renewal of the Lease tortie-agent-<node>, and its pods may run longer. So a block is taken from a node only when
the Node object is gone (or another one bears its name: holderIdentity of the Lease is the UID of the Node that the
agent served) AND nobody renewed that Lease for T and a grace. "For" means on this process's monotonic clock, since
it saw the Lease change: the stamps in it are other machines' opinions. A new leader counts anew; late, never wrong.

The short cut is a person who knows that the machine is off: `tortiectl node decommission` writes the annotation
tortie.dev/decommission with the Node's UID on that Lease (it makes the Lease if there is none). The mark counts for
that UID only, and only while the Lease stands still: an agent that renews is alive, whatever the mark says.

Called by the planners of a pass: `Judge.node(name)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from crds.blocks import BlockAffinity
from crds.core import Lease, Node
from crds.values import NodeName
from ipam.fence import lease_name
from ipam.operator_actions import Action, Delete
from ipam.operator_patience import Patience
from ipam.operator_world import View

DECOMMISSION = "tortie.dev/decommission"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTimes:
    """Durations of the fence, in seconds."""

    fence_s: float = 3600.0
    """T, where there is no Lease to say it: agents write theirs in leaseDurationSeconds. An agent gives out no address
    this long after its last renewal."""
    grace_s: float = 600.0
    """On top of T: clocks that run at different speeds, a write that was under way, a late list."""
    decommission_s: float = 60.0
    """A decommissioned node's Lease must stand still for this long: several renewals."""
    silent_s: float = 90.0
    """A Lease that changed within this time belongs to an agent that is connected."""


class NodeState(Enum):
    """What may be done to a node's addresses."""

    CONNECTED = "connected"
    """Its agent renews: the agent is right about its blocks and writes what it knows within seconds."""
    AGENTLESS = "agentless"
    """The Node is there and no agent ever made a Lease for it: there is no journal that could know better."""
    SILENT = "silent"
    """There, or gone not long enough: its agent may hold addresses that the API does not know. Touch nothing."""
    GONE = "gone"
    """Fenced or decommissioned: free everything."""


class Judge:
    """Verdicts on nodes for one pass; each node is looked at once."""

    def __init__(self, view: View, *, patience: Patience, times: JudgeTimes) -> None:
        self._nodes = view.of(Node)
        self._leases = view.leases
        self._patience = patience
        self._times = times
        self._verdicts: dict[str, NodeState] = {}

    def node(self, name: str) -> NodeState:
        """The state of the node of that name."""
        if name not in self._verdicts:
            self._verdicts[name] = self._judge(name)
        return self._verdicts[name]

    def _judge(self, name: str) -> NodeState:
        node, lease = self._nodes.get(name), self._leases.get(lease_name(NodeName(name)))
        uid = node.metadata.uid if node else ""
        key, fingerprint = ("lease", name), _fingerprint(lease)
        changed = self._patience.was_seen_to_change(key)
        still_s = self._patience.same_for_s(key, fingerprint)
        if lease is None and node is not None:
            return NodeState.AGENTLESS
        if lease is not None and self._is_marked(lease) and self._quiet(name, lease, uid, self._times.decommission_s):
            return NodeState.GONE
        holder = lease.spec.holder_identity if lease else ""
        if node is None or (holder and holder != uid):
            own_s = lease.spec.lease_duration_seconds if lease else None
            fence_s = (own_s or self._times.fence_s) + self._times.grace_s
            return NodeState.GONE if self._quiet(name, lease, uid, fence_s) else NodeState.SILENT
        connected = (changed or self._patience.was_seen_to_change(key)) and still_s < self._times.silent_s
        return NodeState.CONNECTED if connected else NodeState.SILENT

    def _quiet(self, name: str, lease: Lease | None, uid: str, after_s: float) -> bool:
        fingerprint = (uid, *_fingerprint(lease))
        return self._patience.ripe(("quiet", name, str(after_s)), fingerprint, after_s=after_s)

    @staticmethod
    def _is_marked(lease: Lease) -> bool:
        mark = lease.metadata.annotations.get(DECOMMISSION, "")
        return bool(mark) and mark == lease.spec.holder_identity


def plan_leases(view: View, judge: Judge) -> Iterator[Action]:
    """The Lease of a node that is gone goes last: as long as anything is left to free, it bears the mark."""
    in_use = {affinity.spec.node for affinity in view.of(BlockAffinity).values()}
    for facts in view.index.all():
        in_use |= {facts.node, *(user.node for user in facts.users)}
    for lease in view.leases.values():
        name = lease.metadata.name.removeprefix(lease_name(NodeName("")))
        if name == lease.metadata.name or name in in_use or name in view.of(Node):
            continue
        if judge.node(name) is NodeState.GONE:
            yield Delete(lease, "its node is gone and nothing of it is left")


def _fingerprint(lease: Lease | None) -> tuple[str, ...]:
    """What a renewal changes. Not the resourceVersion: a mark or a label is no sign of life."""
    return (lease.spec.holder_identity, lease.spec.renew_time or "") if lease else ("no lease",)
