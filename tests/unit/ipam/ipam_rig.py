"""A world for tests of a node's IPAM: a fake API server, a clock moved by hand, nodes in directories of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Node, Pod, PodSpec, PodStatus
from crds.fake_store import FakeStore
from crds.meta import ObjectMeta
from crds.pools import IPAMConfiguration, IPAMConfigurationSpec, IPPool, IPPoolSpec, IPReservation
from crds.store import Store
from crds.values import HandleID, NodeName
from ipam.check import check
from ipam.clock import ManualClock
from ipam.journal import Journal
from ipam.node import NodeIPAM, Times
from ipam.recovery import CONTAINER_ID
from ipam.requests import Assigned, AssignRequest, IPAddress
from ipam.view import ClusterView, Sync

POOL = "pool-a"


def pool(name: str = POOL, *, cidr: str = "10.1.0.0/24", block_size: int = 29, **spec: Any) -> IPPool:
    return IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr=cidr, block_size=block_size, **spec))


def configuration(*, strict_affinity: bool = True, **spec: Any) -> IPAMConfiguration:
    spec = {"ip_cooldown_seconds": 5, **spec}
    return IPAMConfiguration(
        metadata=ObjectMeta(name="default"), spec=IPAMConfigurationSpec(strict_affinity=strict_affinity, **spec)
    )


def node_object(name: str = "n1", *, uid: str = "uid-n1", labels: Mapping[str, str] | None = None) -> Node:
    return Node(metadata=ObjectMeta(name=name, uid=uid, labels=dict(labels or {})))


def pod_object(name: str, *, node: str = "n1", addresses: tuple[IPAddress, ...] = (), **status: Any) -> Pod:
    annotations = {
        "cni.projectcalico.org/podIPs": ",".join(f"{a}/{a.max_prefixlen}" for a in addresses),
        CONTAINER_ID: name,
    }
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", annotations=annotations if addresses else {}),
        spec=PodSpec(node_name=node),
        status=PodStatus(**{"phase": "Running", **status}),
    )


def request(name: str, **fields: Any) -> AssignRequest:
    return AssignRequest(handle=handle(name), namespace="default", pod=name, **fields)


def handle(name: str) -> HandleID:
    return HandleID(f"k8s-pod-network.{name}")


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(ip_address(text) for text in texts)


class Rig:
    """One fake API server, and any number of nodes on it."""

    def __init__(self, directory: Path, *objects: Any) -> None:
        self.directory = directory
        self.store = FakeStore(*(objects or (pool(), configuration())), node_object())
        self.clock = ManualClock()

    def node(
        self, name: str = "n1", *, machine: str = "", boot: str = "1", store: Store | None = None, **more: Any
    ) -> NodeIPAM:
        """A NodeIPAM as a freshly started agent has it; `machine` and `boot` name its state and run directories."""
        machine = machine or name
        journal = Journal(state_dir=self.directory / machine / "var", run_dir=self.directory / machine / f"run-{boot}")
        return NodeIPAM(
            node=NodeName(name),
            store=store or self.store,
            journal=journal,
            clock=self.clock,
            times=more.pop("times", Times()),
            rng=Random(1),
            **more,
        )

    async def view(self, node: str = "n1") -> ClusterView:
        """What complete watches would show now."""
        store = self.store
        nodes = {item.metadata.name: item for item in (await store.list(Node)).items}
        config = (await store.list(IPAMConfiguration)).items
        return ClusterView(
            sync=Sync.COMPLETE,
            node_uid=nodes[node].metadata.uid if node in nodes else "",
            node_labels=nodes[node].metadata.labels if node in nodes else {},
            pools=(await store.list(IPPool)).items,
            reservations=(await store.list(IPReservation)).items,
            configuration=config[0] if config else None,
            blocks={item.metadata.name: item for item in (await store.list(IPAMBlock)).items},
            affinities={item.metadata.name: item for item in (await store.list(BlockAffinity)).items},
            pods=tuple(p for p in (await store.list(Pod)).items if p.spec.node_name == node),
        )

    async def started(
        self, name: str = "n1", *, kernel: Mapping[IPAddress, str] | None = None, **more: Any
    ) -> NodeIPAM:
        """A node that has seen everything, recovered, renewed its Lease and done one pass."""
        node = self.node(name, **more)
        node.see(await self.view(name))
        await node.recover(kernel_addresses=kernel or {})
        await node.renew_once()
        assert await node.turn(), node.state().problem
        return node

    async def settle(self, *nodes: NodeIPAM, rounds: int = 4) -> None:
        """Show each node the newest view and let it work until it is done."""
        for _ in range(rounds):
            for node in nodes:
                node.see(await self.view(node.node))
                await node.turn()

    async def problems(self) -> tuple[str, ...]:
        """What `ipam check` finds."""
        store = self.store
        return tuple(
            str(problem)
            for problem in check(
                pools=(await store.list(IPPool)).items,
                blocks=(await store.list(IPAMBlock)).items,
                affinities=(await store.list(BlockAffinity)).items,
                handles=(await store.list(IPAMHandle)).items,
                pods=(await store.list(Pod)).items,
                now_s=self.clock.wall_s(),
            )
        )

    async def gone(self, pod: str) -> None:
        """The kubelet has finished with a pod."""
        await self.store.delete(Pod, pod, namespace="default", grace_period_s=0)

    async def only_block(self) -> IPAMBlock:
        blocks = (await self.store.list(IPAMBlock)).items
        assert len(blocks) == 1
        return blocks[0]

    async def change(self, obj: Any, **spec: Any) -> Any:
        """Somebody else writes an object's spec."""
        changed = msgspec.structs.replace(obj, spec=msgspec.structs.replace(obj.spec, **spec))
        put = getattr(self.store, "put", None)
        return put(changed) if put else await self.store.replace(changed)


async def pod(rig: Rig, node: NodeIPAM, name: str) -> IPAddress:
    """A pod with an address, as an ADD and the annotation after it leave it."""
    await rig.store.create(pod_object(name, node=node.node))
    answer = await node.assign(request(name))
    assert isinstance(answer, Assigned), answer
    rig.store.put(pod_object(name, node=node.node, addresses=answer.addresses))
    return answer.addresses[0]


def crash(node: NodeIPAM) -> None:
    """The process is gone: nothing is committed any more, locks and memory vanish."""
    node.journal.close()


def refuse_commits(journal: Journal) -> None:
    """Let SQLite itself refuse every COMMIT from now on, as it does on a full disk."""

    def authorize(action: int, what: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action == _TRANSACTION and what == "COMMIT" else sqlite3.SQLITE_OK

    journal._db.set_authorizer(authorize)


_TRANSACTION = 22
"""SQLITE_TRANSACTION, an authorizer's action code; the module does not name it."""
