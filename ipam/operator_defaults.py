"""What a fresh cluster needs and nobody has written yet. Made once, never changed afterwards.

* an IPPool, if there is none at all and this is the first start. The mark of the first start is ClusterInformation
  `default`, which is therefore made last: whoever deletes every pool later does not get one back.
* IPAMConfiguration `default` with strictAffinity: true, whenever it is missing: Calico reads a missing one as false,
  and then a node could take addresses from a block whose agent answers from its own journal.
* ClusterInformation `default`, whenever it is missing, without calicoVersion: calicoctl of any version then works.

Environment, with Calico's names as a second choice: TORTIE_IPV4POOL_CIDR (CALICO_IPV4POOL_CIDR), TORTIE_IPV6POOL_CIDR
(CALICO_IPV6POOL_CIDR), the same with _BLOCK_SIZE instead of _CIDR, and NO_DEFAULT_POOLS. A range that somebody asked
for is made as asked, with a warning if it covers a node or the services; the built-in choice steps aside for them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import ClassVar

from crds.cluster import ClusterInformation, ClusterInformationSpec
from crds.core import Node
from crds.errors import BadObject, Forbidden, NotFound
from crds.meta import ObjectMeta, Resource, Wire
from crds.pools import IPAMConfiguration, IPAMConfigurationSpec, IPPool, IPPoolSpec
from crds.store import Store
from crds.values import parse_network, parse_pool
from ipam.operator_actions import Action, Create
from ipam.requests import IPNetwork

log = logging.getLogger(__name__)

DEFAULT = "default"
CLUSTER_TYPE = "k8s,bgp,tortie"
POOL_NAMES = {4: "default-ipv4-ippool", 6: "default-ipv6-ippool"}
CANDIDATES_V4 = ("192.168.0.0/16", "10.244.0.0/16", "172.20.0.0/16")
"""Calico's default first, then ranges that other networks use for pods."""


class ServiceCIDRSpec(Wire, frozen=True, kw_only=True):
    cidrs: tuple[str, ...] = ()


class ServiceCIDR(Resource, frozen=True, kw_only=True):
    """networking.k8s.io/v1, Kubernetes 1.33 and later: where Services get their addresses."""

    group: ClassVar[str] = "networking.k8s.io"
    kind: ClassVar[str] = "ServiceCIDR"
    plural: ClassVar[str] = "servicecidrs"

    spec: ServiceCIDRSpec = ServiceCIDRSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is there at the start. `foreign` are ranges that pods must not have: nodes' addresses and services'."""

    pools: Collection[IPPool]
    has_configuration: bool
    has_information: bool
    foreign: Mapping[str, IPNetwork]


def plan_defaults(found: Found, *, environment: Mapping[str, str], guid: str) -> Iterator[Action]:
    """What to create, in this order."""
    if not found.pools and not found.has_information and not _is_true(environment.get("NO_DEFAULT_POOLS", "")):
        for pool in default_pools(found.foreign, environment=environment):
            yield Create(pool, "there was no IPPool at the first start")
    if not found.has_configuration:
        spec = IPAMConfigurationSpec(strict_affinity=True, auto_allocate_blocks=True, max_blocks_per_host=0)
        yield Create(IPAMConfiguration(metadata=ObjectMeta(name=DEFAULT), spec=spec), "there was none")
    if not found.has_information:
        information = ClusterInformationSpec(cluster_guid=guid, cluster_type=CLUSTER_TYPE, datastore_ready=True)
        yield Create(ClusterInformation(metadata=ObjectMeta(name=DEFAULT), spec=information), "there was none")


def default_pools(foreign: Mapping[str, IPNetwork], *, environment: Mapping[str, str]) -> Iterator[IPPool]:
    """The default pools: IPv4 always, IPv6 when it is asked for. A setting that cannot be read makes no pool."""
    for version in (4, 6):
        setting = f"IPV{version}POOL_CIDR"
        wanted = environment.get(f"TORTIE_{setting}") or environment.get(f"CALICO_{setting}", "")
        size = f"IPV{version}POOL_BLOCK_SIZE"
        block_size = environment.get(f"TORTIE_{size}") or environment.get(f"CALICO_{size}", "")
        try:
            cidr = _asked(wanted, setting, foreign) if wanted else _chosen(foreign) if version == 4 else None
            if cidr is None:
                continue
            if block_size and not block_size.isdigit():
                raise BadObject(size, f"must be a number, is {block_size!r}")
            spec = IPPoolSpec(cidr=str(cidr), block_size=int(block_size) if block_size else None)
            pool = IPPool(metadata=ObjectMeta(name=POOL_NAMES[version]), spec=spec)
            parse_pool(pool)
        except BadObject as problem:
            log.error("no default pool family=IPv%s problem=%r", version, str(problem))
        else:
            yield pool


def _asked(text: str, setting: str, foreign: Mapping[str, IPNetwork]) -> IPNetwork:
    cidr = parse_network(text, field=setting)
    if other := _overlapped(cidr, foreign):
        log.warning("default pool covers what is not the pods' pool=%s covers=%s setting=%s", cidr, other, setting)
    return cidr


def _chosen(foreign: Mapping[str, IPNetwork]) -> IPNetwork | None:
    for text in CANDIDATES_V4:
        cidr = ip_network(text)
        other = _overlapped(cidr, foreign)
        if other is None:
            return cidr
        log.warning("not the default pool, it would cover what is not the pods' pool=%s covers=%s", cidr, other)
    log.error("no default pool: every built-in range is taken; set TORTIE_IPV4POOL_CIDR or create an IPPool")
    return None


def _overlapped(cidr: IPNetwork, foreign: Mapping[str, IPNetwork]) -> str | None:
    for name, other in foreign.items():
        if cidr.version == other.version and cidr.overlaps(other):
            return f"{other} ({name})"
    return None


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes")


async def find(store: Store, *, pools: Collection[IPPool], nodes: Collection[Node], configured: bool) -> Found:
    """Look at the cluster. Raises ApiError or OSError when it cannot be seen: then nothing is made."""
    foreign: dict[str, IPNetwork] = {}
    for node in nodes:
        for version in (4, 6):
            address = _address(node, version)
            if address is not None:
                foreign[f"node {node.metadata.name} IPv{version}"] = address
    try:
        for item in (await store.list(ServiceCIDR)).items:
            for text in item.spec.cidrs:
                foreign[f"services {text}"] = ip_network(text, strict=False)
    except (NotFound, Forbidden):
        log.info("service ranges are not known: this API server has no ServiceCIDR or does not show it")
    try:
        await store.get(ClusterInformation, DEFAULT)
        informed = True
    except NotFound:
        informed = False
    return Found(pools=pools, has_configuration=configured, has_information=informed, foreign=foreign)


def _address(node: Node, version: int) -> IPNetwork | None:
    try:
        address = node.internal_ip(version)
    except BadObject:
        return None
    return ip_network(address) if address is not None else None
