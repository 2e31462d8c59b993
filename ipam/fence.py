"""The fence: a node that has not been heard of for T stops giving out addresses, so that its blocks can be freed.

Theory. Each agent renews a Lease of its own (tortie-agent-<node> in tortie-system, holder = uid of its Node). T after
the last successful renewal assign answers "try again later"; the operator frees a node's blocks only when the Node is
gone and T plus a grace has passed since the Lease last moved. So the two can never both use a block, however long the
node was cut off. The time of a renewal is the time *before* the request was sent; it is kept in the journal with the
boot id, because the boot clock means nothing after a reboot: then the fence is closed until the first renewal.

Two agents that believe to be one node (a cloned machine, a second state directory). The Lease names the agent: its
instance (one for each boot of a machine, kept in /run), its journal and the journal's generation, which is raised
before each renewal. An agent takes the Lease at once if the Lease names itself, or names its own journal at a
generation that it has reached itself (its machine rebooted). Otherwise it watches the Lease for a while: if it moves,
somebody else is alive, and this agent refuses to serve; if it does not, it takes over. Only observed time counts, never
the other's clock.

An agent that is refused from the start, without ever having had the Lease, is not this node: it must not announce the
node's blocks either, or it draws the traffic of pods that live elsewhere. One that *had* the Lease keeps what it
announces, whoever has it now, for its pods are here.

A Lease that names our journal at a *higher* generation than we have means that our journal is an older copy.

`decide` and `is_closed` are pure; `Fence` does the renewing. Called by node.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from crds.core import Lease, LeaseSpec
from crds.errors import NotFound
from crds.meta import ObjectMeta
from crds.values import NodeName
from ipam.bounded import BoundedStore
from ipam.clock import Clock
from ipam.journal import Journal

LEASE_NAMESPACE = "tortie-system"
INSTANCE = "tortie.dev/agent-instance"
JOURNAL = "tortie.dev/journal"
GENERATION = "tortie.dev/journal-generation"


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceTimes:
    """`open_s`: T, for how long a node may go on alone. `renew_s`: between renewals; as a kubelet's Lease.
    `observe_s`: how long a stranger's Lease must stand still before it is taken over; more than one `renew_s`."""

    open_s: float = 3600.0
    renew_s: float = 10.0
    observe_s: float = 15.0

    @classmethod
    def lasting(cls, open_s: float) -> FenceTimes:
        """For this T; a short one is renewed more often, so that one lost renewal never closes it."""
        return cls(open_s=open_s, renew_s=min(cls().renew_s, open_s / 3))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an agent is."""

    node_uid: str
    instance: str
    journal_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """The last successful renewal, by one boot's clock; `instance` keeps a copied journal from borrowing it."""

    boot_id: str
    instance: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Take:
    """Renew; `older_copy`: the Lease has seen a later generation of our journal."""

    older_copy: int = 0


@dataclass(frozen=True, slots=True)
class Observe:
    """A stranger's Lease: see whether it moves. `stranger` is its instance."""

    stranger: str
    older_copy: int = 0


def lease_name(node: NodeName) -> str:
    """The name of a node's agent Lease."""
    return f"tortie-agent-{node}"


def decide(lease: Lease | None, me: Identity) -> Take | Observe:
    """Whether this agent may renew the Lease at once."""
    if lease is None or not lease.metadata.annotations.get(INSTANCE):
        return Take()
    marks = lease.metadata.annotations
    generation = int(marks[GENERATION]) if marks.get(GENERATION, "").isdigit() else 0
    is_own_journal = marks.get(JOURNAL) == me.journal_id
    missing = generation - me.generation if is_own_journal and generation > me.generation else 0
    if marks[INSTANCE] == me.instance:
        return Take(missing)
    if is_own_journal and not missing:
        return Take()
    if lease.spec.holder_identity and lease.spec.holder_identity != me.node_uid:
        return Take(missing)  # of a Node object that is gone: its agent is closed by that alone
    return Observe(marks[INSTANCE], missing)


def closed_because(renewal: Renewal | None, *, instance: str, clock: Clock, times: FenceTimes) -> str:
    """Why the fence is closed, in one sentence; "" while it is open."""
    if renewal is None:
        return "this agent has not yet renewed its Lease"
    if renewal.boot_id != clock.boot_id or renewal.instance != instance:
        return "this machine was started again and its agent has not yet renewed its Lease"
    age_s = clock.boot_s() - renewal.at_s
    if age_s >= times.open_s:
        return f"the API server has not been reached for {age_s:.0f} s (limit {times.open_s:.0f} s)"
    return ""


class Fence:
    """Renews the Lease and knows whether addresses may be given out."""

    def __init__(
        self, *, node: NodeName, store: BoundedStore, journal: Journal, clock: Clock, times: FenceTimes
    ) -> None:
        self._node, self._store, self._journal, self._clock, self.times = node, store, journal, clock, times
        self._renewal = _load(journal.meta("renewal"))
        self._observed: tuple[str, float] | None = None
        self.refusal = ""
        """Set while another live agent has this node's Lease."""
        self.older_copy = 0
        """Generations that the Lease is ahead of the journal, as found when the Lease was first taken."""
        self.is_held = False
        """This process has renewed at least once."""
        self.rival_moved = False
        """The refusal is not only a precaution: another agent was seen to renew."""

    def closed(self) -> str:
        """Why no address may be given out now; "" if it may."""
        me = self._journal.instance
        return self.refusal or closed_because(self._renewal, instance=me, clock=self._clock, times=self.times)

    @property
    def has_held(self) -> bool:
        """This machine's agent has had the Lease since the machine was started, in this process or an earlier one."""
        known = self._renewal
        return known is not None and (known.boot_id, known.instance) == (self._clock.boot_id, self._journal.instance)

    @property
    def renewed_s_ago(self) -> float | None:
        """Seconds since the last renewal of this boot; None if there was none."""
        if self._renewal is None or self._renewal.boot_id != self._clock.boot_id:
            return None
        return self._clock.boot_s() - self._renewal.at_s

    async def renew(self, *, node_uid: str) -> float:
        """One attempt; returns after how many seconds the next one is due. API errors pass through."""
        started_s = self._clock.boot_s()
        lease = await self._read()
        me = Identity(node_uid, self._journal.instance, self._journal.journal_id, self._journal.generation())
        verdict = decide(lease, me)
        if isinstance(verdict, Observe):
            wait_s = self._watch(lease, verdict.stranger)
            if wait_s > 0:
                return wait_s
        if verdict.older_copy:
            self.older_copy = verdict.older_copy
            self._journal.set_meta("generation", me.generation + verdict.older_copy)
        await self._write(lease, node_uid)
        self._observed, self.refusal, self.is_held, self.rival_moved = None, "", True, False
        self._renewal = Renewal(self._clock.boot_id, self._journal.instance, started_s)
        self._journal.set_meta("renewal", [self._renewal.boot_id, self._renewal.instance, self._renewal.at_s])
        self._journal.commit_now()
        return self.times.renew_s

    def _watch(self, lease: Lease | None, stranger: str) -> float:
        """Seconds still to watch a stranger's Lease, 0 when it stood still for long enough."""
        version = lease.metadata.resource_version if lease else ""
        now_s = self._clock.boot_s()
        if self._observed is None or self._observed[0] != version:
            moved = self._observed is not None
            self._observed = (version, now_s)
            self.rival_moved = self.rival_moved or moved
            if moved or self.is_held:
                self.refusal = (
                    f"another agent (instance {stranger[:8]}) is alive as node {self._node}: two machines share this "
                    "node's name or state"
                )
            elif not self.refusal:
                self.refusal = (
                    f"waiting to see whether another agent (instance {stranger[:8]}) serves node {self._node}"
                )
        still_s = self._observed[1] + self.times.observe_s - now_s
        return min(self.times.renew_s, still_s) if still_s > 0 else 0.0

    async def _read(self) -> Lease | None:
        try:
            return await self._store.get(Lease, lease_name(self._node), namespace=LEASE_NAMESPACE)
        except NotFound:
            return None

    async def _write(self, lease: Lease | None, node_uid: str) -> None:
        marks = {
            INSTANCE: self._journal.instance,
            JOURNAL: self._journal.journal_id,
            GENERATION: str(self._journal.next_generation()),
        }
        now = datetime.fromtimestamp(self._clock.wall_s(), tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if lease is None:
            await self._store.create(
                Lease(
                    metadata=ObjectMeta(name=lease_name(self._node), namespace=LEASE_NAMESPACE, annotations=marks),
                    spec=LeaseSpec(
                        holder_identity=node_uid,
                        lease_duration_seconds=int(self.times.open_s),
                        acquire_time=now,
                        renew_time=now,
                    ),
                )
            )
            return
        meta = msgspec.structs.replace(lease.metadata, annotations={**lease.metadata.annotations, **marks})
        spec = msgspec.structs.replace(
            lease.spec, holder_identity=node_uid, lease_duration_seconds=int(self.times.open_s), renew_time=now
        )
        await self._store.replace(msgspec.structs.replace(lease, metadata=meta, spec=spec))


def _load(known: object) -> Renewal | None:
    match known:
        case [str(boot_id), str(instance), float() | int() as at_s]:
            return Renewal(boot_id, instance, float(at_s))
        case _:
            return None
