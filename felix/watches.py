"""All that the agent watches, and the Snapshot of it.

Theory: one reflector a kind; each pokes the agent when something changed, the agent then asks for a Snapshot of all.
Pods of this node are kept in an index of their own beside all pods, so that nothing scans ten thousand pods for the
hundred that matter; an ADD that comes before its pod was seen waits on that index (`pod`).

Invariants: the Snapshot is the same object until something changed; a kind that is not served (CRDs not applied yet)
keeps `sync` WAITING and is named by `missing()`.

Called by `felix.agent` (snapshot), `felix.cni_server` through `felix.main` (pod), `felix.health` (missing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any, TypeVar

from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPeer
from crds.blocks import BlockAffinity, IPAMBlock
from crds.core import Namespace, Node, Pod, Secret, Service
from crds.meta import Resource
from crds.pools import IPAMConfiguration, IPPool, IPReservation
from crds.store import Store
from crds.values import NodeName
from felix.reflector import Pace, Reflector
from felix.snapshot import Snapshot, Sync

R = TypeVar("R", bound=Resource)

SYSTEM_NAMESPACE = "tortie-system"


class Watches:
    """The reflectors of one agent."""

    def __init__(
        self,
        store: Store,
        *,
        node: NodeName,
        on_change: Callable[[], None],
        on_churn: Callable[[], None] | None = None,
        rng: Random,
        pace: Pace | None = None,
    ) -> None:
        """`on_churn`: called in place of `on_change` when only what changes with every pod of the cluster has changed
        (Pods, IPAMBlocks), once these were listed."""
        self._node = node
        self._on_change = on_change
        self._on_churn = on_churn or on_change
        self._store, self._rng, self._pace = store, rng, pace
        self._own_pods: dict[str, Pod] = {}
        self._own_view: Mapping[str, Pod] | None = None
        self._waiting: dict[str, list[asyncio.Future[Pod]]] = {}
        self._snapshot: Snapshot | None = None
        self.pods: Reflector[Pod] = self._reflect(Pod, on_object=self._saw_pod)
        self.nodes: Reflector[Node] = self._reflect(Node)
        self.namespaces: Reflector[Namespace] = self._reflect(Namespace)
        self.services: Reflector[Service] = self._reflect(Service)
        self.secrets: Reflector[Secret] = self._reflect(Secret, namespace=SYSTEM_NAMESPACE)
        self.pools: Reflector[IPPool] = self._reflect(IPPool)
        self.reservations: Reflector[IPReservation] = self._reflect(IPReservation)
        self.ipam_configurations: Reflector[IPAMConfiguration] = self._reflect(IPAMConfiguration)
        self.blocks: Reflector[IPAMBlock] = self._reflect(IPAMBlock)
        self.affinities: Reflector[BlockAffinity] = self._reflect(BlockAffinity)
        self.bgp_configurations: Reflector[BGPConfiguration] = self._reflect(BGPConfiguration)
        self.bgp_peers: Reflector[BGPPeer] = self._reflect(BGPPeer)
        self.bgp_filters: Reflector[BGPFilter] = self._reflect(BGPFilter)

    def _reflect(
        self,
        kind: type[R],
        *,
        namespace: str = "",
        on_object: Callable[[str, R | None], None] | None = None,
    ) -> Reflector[R]:
        return Reflector(
            self._store,
            kind,
            on_change=self._churned if kind in (Pod, IPAMBlock) else self._changed,
            rng=self._rng,
            pace=self._pace,
            namespace=namespace,
            on_object=on_object,
        )

    @property
    def all(self) -> tuple[Reflector[Any], ...]:
        """Every reflector."""
        return tuple(value for value in vars(self).values() if isinstance(value, Reflector))

    async def run(self) -> None:
        """Follow all kinds until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.all:
                group.create_task(reflector.run(), name=f"watch {reflector.kind.kind}")

    def missing(self) -> tuple[str, ...]:
        """The kinds not listed yet, each with the reason if one is known."""
        return tuple(
            f"{reflector.kind.kind} ({reflector.failing})" if reflector.failing else reflector.kind.kind
            for reflector in self.all
            if not reflector.synced
        )

    def snapshot(self) -> Snapshot:
        """The cluster as seen now."""
        if self._snapshot is None:
            if self._own_view is None:
                self._own_view = MappingProxyType(self._own_pods.copy())
            self._snapshot = Snapshot(
                sync=Sync.WAITING if self.missing() else Sync.COMPLETE,
                pods=self.pods.view(),
                own_pods=self._own_view,
                nodes=self.nodes.view(),
                namespaces=self.namespaces.view(),
                services=self.services.view(),
                secrets=self.secrets.view(),
                pools=self.pools.view(),
                reservations=self.reservations.view(),
                ipam_configurations=self.ipam_configurations.view(),
                blocks=self.blocks.view(),
                affinities=self.affinities.view(),
                bgp_configurations=self.bgp_configurations.view(),
                bgp_peers=self.bgp_peers.view(),
                bgp_filters=self.bgp_filters.view(),
            )
        return self._snapshot

    async def pod(self, key: str, *, uid: str, within_s: float) -> Pod | None:
        """The pod `namespace/name` of this node, waited for; None if it does not show in time. `uid` "" takes any:
        else a pod of that name that is about to be replaced is not the one."""
        known = self._own_pods.get(key)
        if known is not None and uid in ("", known.metadata.uid):
            return known
        arrival: asyncio.Future[Pod] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(arrival)
        try:
            async with asyncio.timeout(within_s):
                while True:
                    pod = await arrival
                    if uid in ("", pod.metadata.uid):
                        return pod
                    arrival = asyncio.get_running_loop().create_future()
                    self._waiting.setdefault(key, []).append(arrival)
        except TimeoutError:
            return None
        finally:
            self._forget(key, arrival)

    def _forget(self, key: str, arrival: asyncio.Future[Pod]) -> None:
        waiting = self._waiting.get(key, [])
        if arrival in waiting:
            waiting.remove(arrival)
        if not waiting:
            self._waiting.pop(key, None)

    def _changed(self) -> None:
        self._snapshot = None
        self._on_change()

    def _churned(self) -> None:
        self._snapshot = None
        if self.pods.synced and self.blocks.synced:
            self._on_churn()
        else:
            self._on_change()

    def _saw_pod(self, key: str, pod: Pod | None) -> None:
        if pod is not None and pod.spec.node_name == self._node:
            self._own_pods[key] = pod
            self._own_view = None
            for arrival in self._waiting.pop(key, []):
                if not arrival.done():
                    arrival.set_result(pod)
        elif self._own_pods.pop(key, None) is not None:
            self._own_view = None
