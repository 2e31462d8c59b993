"""The cluster as others are shown it: IPAM's ClusterView, BGP's ImportPolicy, the pods behind interfaces.

Theory: pure translations of the Snapshot and of what the kernel shows. Each keeps what it made while its inputs are
the same objects, so that a turn in which nothing of it changed costs a few comparisons by identity.

Called by `felix.agent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from typing import Any, Generic, TypeVar

from bgp.filters import Filter, parse_filter
from bgp.import_policy import ImportPolicy
from bgp.sessions import Problem
from crds.blocks import IPAMBlock
from crds.core import Node, Service
from crds.errors import BadObject
from crds.pools import IPPool
from crds.values import NodeName
from felix.kernel.names import DEAD_GROUP, POD_PREFIX, parse_mark
from felix.kernel.protocols import InterfaceAddress, IPAddress, IPNetwork, Link, LinkState
from felix.snapshot import Snapshot
from felix.snapshot import Sync as SnapshotSync
from ipam.view import ClusterView
from ipam.view import Sync as ViewSync

T = TypeVar("T")

MTU_DEFAULT = 1500


class Same(Generic[T]):
    """The last answer, for as long as the arguments are the same objects or equal values."""

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function
        self._arguments: dict[str, Any] | None = None
        self._answer: T

    def __call__(self, **arguments: Any) -> T:
        before = self._arguments
        if before is None or not all(_equal(before[name], new) for name, new in arguments.items()):
            self._answer = self._function(**arguments)
            self._arguments = arguments
        return self._answer


def _equal(old: Any, new: Any) -> bool:
    """Mappings are large and are new objects whenever they changed: identity is enough and quick."""
    return old is new or (not isinstance(new, Mapping) and bool(old == new))


def cluster_view(snapshot: Snapshot, *, node: NodeName) -> ClusterView:
    """What IPAM is shown."""
    own = snapshot.nodes.get(node)
    return ClusterView(
        sync=ViewSync.COMPLETE if snapshot.sync is SnapshotSync.COMPLETE else ViewSync.WAITING,
        node_uid=own.metadata.uid if own is not None else "",
        node_labels=own.metadata.labels if own is not None else {},
        pools=tuple(snapshot.pools.values()),
        reservations=tuple(snapshot.reservations.values()),
        configuration=snapshot.ipam_configurations.get("default"),
        blocks=snapshot.blocks,
        affinities=snapshot.affinities,
        pods=tuple(snapshot.own_pods.values()),
    )


def same_view(one: ClusterView, other: ClusterView | None) -> bool:
    """Whether two views show the same objects; by identity, for each object is made once."""
    if other is None or (one.sync, one.node_uid) != (other.sync, other.node_uid):
        return False
    if one.configuration is not other.configuration or one.node_labels != other.node_labels:
        return False
    if one.blocks is not other.blocks or one.affinities is not other.affinities:
        return False
    pairs: tuple[tuple[tuple[object, ...], tuple[object, ...]], ...] = (
        (one.pools, other.pools),
        (one.reservations, other.reservations),
        (one.pods, other.pods),
    )
    return all(len(new) == len(old) and all(a is b for a, b in zip(new, old, strict=True)) for new, old in pairs)


def pod_interfaces(links: Iterable[Link]) -> Mapping[IPAddress, str]:
    """Local addresses and their interfaces, by the marks on the interfaces themselves: a restarted agent knows them
    as well as the one that made them. One that is being built counts from when it is up; a dead one does not."""
    found: dict[IPAddress, str] = {}
    for link in links:
        if link.name.startswith(POD_PREFIX) and link.state is LinkState.UP and link.group != DEAD_GROUP:
            mark = parse_mark(link.alias)
            if mark is not None:
                found.update(dict.fromkeys(mark.addresses, link.name))
    return found


def pod_mtu(links: Iterable[Link], addresses: Iterable[InterfaceAddress]) -> int:
    """The smallest MTU of the interfaces that this host speaks from: nothing is encapsulated, so nothing is taken off
    for headers. Interfaces of pods and loopback do not count."""
    speaking = {entry.device for entry in addresses if not entry.address.is_link_local}
    found = [
        link.mtu
        for link in links
        if link.name in speaking and link.name != "lo" and not link.name.startswith(POD_PREFIX) and link.mtu > 0
    ]
    return min(found, default=MTU_DEFAULT)


def pool_nets(pools: Mapping[str, IPPool]) -> frozenset[IPNetwork]:
    """The ranges of all pools, disabled ones too: their pods live on. A range that cannot be read is left out."""
    return frozenset(net for pool in pools.values() if (net := _network(pool.spec.cidr)) is not None)


def node_addresses(nodes: Mapping[str, Node]) -> frozenset[IPAddress]:
    """Internal addresses of all nodes, both families."""
    found: set[IPAddress] = set()
    for node in nodes.values():
        for family in (4, 6):
            try:
                address = node.internal_ip(family)
            except BadObject:
                continue
            if address is not None:
                found.add(address)
    return frozenset(found)


def service_nets(services: Mapping[str, Service]) -> frozenset[IPNetwork]:
    """Each service's cluster, external and load balancer addresses."""
    texts = {
        text
        for service in services.values()
        for text in (
            service.spec.cluster_ip,
            *service.spec.cluster_ips,
            *service.spec.external_ips,
            service.spec.load_balancer_ip,
            *(ingress.ip for ingress in service.status.load_balancer.ingress),
        )
    }
    return frozenset(net for text in texts if (net := _network(text)) is not None)


def elsewhere(
    blocks: Mapping[str, IPAMBlock], own_blocks: frozenset[IPNetwork], node: NodeName
) -> frozenset[IPAddress]:
    """Addresses of own blocks that the block attributes to another node (borrowed from us, or moved with a pod)."""
    found: set[IPAddress] = set()
    for block in blocks.values():
        net = _network(block.spec.cidr)
        if net is None or net not in own_blocks:
            continue
        foreign = {
            index
            for index, attribute in enumerate(block.spec.attributes)
            if attribute.released_at is None and attribute.secondary.get("node", node) != node
        }
        if foreign:
            found.update(net[ordinal] for ordinal, index in enumerate(block.spec.allocations) if index in foreign)
    return frozenset(found)


class PolicyView:
    """BGP's import policy, from what is seen."""

    def __init__(self, *, node: NodeName, api_addresses: frozenset[IPAddress]) -> None:
        self._node = node
        self._api_addresses = api_addresses
        self._pools = Same(pool_nets)
        self._nodes = Same(node_addresses)
        self._services = Same(service_nets)
        self._elsewhere = Same(elsewhere)
        self._filters = Same(_filters)
        self._policy = Same(ImportPolicy)

    def policy(
        self, snapshot: Snapshot, *, own_blocks: frozenset[IPNetwork], own_addresses: frozenset[IPAddress]
    ) -> ImportPolicy:
        """The same object while nothing that it says changed."""
        filters, _ = self._filters(found=snapshot.bgp_filters)
        return self._policy(
            pools=self._pools(pools=snapshot.pools),
            own_blocks=own_blocks,
            foreign_in_own=self.elsewhere(snapshot, own_blocks=own_blocks),
            own_addresses=own_addresses,
            node_addresses=self._nodes(nodes=snapshot.nodes) | self._api_addresses,
            services=self._services(services=snapshot.services),
            filters=filters,
        )

    def elsewhere(self, snapshot: Snapshot, *, own_blocks: frozenset[IPNetwork]) -> frozenset[IPAddress]:
        """Addresses of own blocks that live on another node."""
        return self._elsewhere(blocks=snapshot.blocks, own_blocks=own_blocks, node=self._node)

    def problems(self, snapshot: Snapshot) -> tuple[Problem, ...]:
        """What in the BGPFilters cannot be followed."""
        return self._filters(found=snapshot.bgp_filters)[1]


def _filters(found: Mapping[str, Any]) -> tuple[Mapping[str, Filter], tuple[Problem, ...]]:
    parsed = [parse_filter(one) for one in found.values()]
    return {one.name: one for one, _ in parsed}, tuple(problem for _, problems in parsed for problem in problems)


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text)
    except ValueError:  # "", "None", or a range that is not masked: the operator tells it on the object
        return None
