"""Conditions of the kinds that people write: is this object usable, and if not, which field and what is allowed?

The schema refuses most mistakes at the door. What is left is what no schema can see: a selector that does not parse, a
Secret that is not there, a name that is not used, fields that contradict each other. Each object gets one condition
`Accepted`; a bad object is told so and takes nothing else down with it (whoever uses the object decides by the same
rules and leaves it out). Pools have their own, in pool_conditions.

Pure, but for what it is told of Secrets: their keys, where the operator may read them; where it may not, nothing is
said about them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPassword, BGPPeer
from crds.core import Node
from crds.errors import BadObject
from crds.filters import AS_MAX, Unfollowed, check_community, filter_problems
from crds.peers import check_peer, parse_peer_ip
from crds.pools import IPAMConfiguration, IPReservation
from crds.values import IPAddress, parse_duration, parse_network, parse_reservation
from ipam.operator_conditions import Statement

ACCEPTED = "Accepted"
SAID_MAX = 5
"""Problems of one object that its condition names."""


class NotAsWritten(Exception):
    """The spec has no mistake, and yet is not followed as written."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Missing(NotAsWritten):
    """Something that the object refers to is not there (yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What objects may refer to.

    `secrets` has the keys by name of Secret; None means that it is not there, a name that is absent means not known.
    """

    filters: Collection[str] = ()
    secrets: Mapping[str, Collection[str] | None] = field(default_factory=dict)
    node_addresses: Collection[IPAddress] = ()
    """Where nodes speak BGP from: a peer there has the node's own AS number."""


Judged = IPReservation | IPAMConfiguration | BGPConfiguration | BGPPeer | BGPFilter


def judge(obj: Judged, references: References) -> Statement:
    """The condition of one object."""
    try:
        _check(obj, references)
    except BadObject as problem:
        return Statement(type=ACCEPTED, holds=False, reason="InvalidSpec", message=str(problem))
    except NotAsWritten as found:
        return Statement(type=ACCEPTED, holds=False, reason=found.reason, message=str(found))
    return Statement(type=ACCEPTED, holds=True, reason="OK", message="in use")


def _check(obj: Judged, references: References) -> None:
    match obj:
        case IPReservation():
            parse_reservation(obj)
        case IPAMConfiguration():
            _ipam_configuration(obj)
        case BGPConfiguration():
            _bgp_configuration(obj, references)
        case BGPPeer():
            _bgp_peer(obj, references)
        case BGPFilter():
            _bgp_filter(obj)


def secret_names(objects: Collection[Judged]) -> frozenset[str]:
    """The Secrets to look at."""
    passwords = [o.spec.password for o in objects if isinstance(o, BGPPeer)]
    passwords += [o.spec.node_mesh_password for o in objects if isinstance(o, BGPConfiguration)]
    return frozenset(p.secret_key_ref.name for p in passwords if p and p.secret_key_ref and p.secret_key_ref.name)


def bgp_addresses(nodes: Iterable[Node]) -> frozenset[IPAddress]:
    """Where nodes speak BGP from; not those whose annotations cannot be read, for agents leave these out."""
    found: set[IPAddress] = set()
    for node in nodes:
        with suppress(BadObject):
            node.as_number()
            found |= {address for family in (4, 6) if (address := node.internal_ip(family)) is not None}
    return frozenset(found)


def _ipam_configuration(obj: IPAMConfiguration) -> None:
    spec = obj.spec
    _named(obj.metadata.name, allowed=obj.metadata.name == "default", text="default")
    if spec.max_blocks_per_host > 0 and not spec.strict_affinity:
        raise BadObject(
            "spec.maxBlocksPerHost", f"is {spec.max_blocks_per_host}; above 0 it needs strictAffinity: true"
        )
    if not spec.strict_affinity and not spec.auto_allocate_blocks:
        raise BadObject("spec.autoAllocateBlocks", "is false; with strictAffinity: false it must be true")
    _within("spec.maxBlocksPerHost", spec.max_blocks_per_host, 0, 1_000_000)
    _within("spec.ipCooldownSeconds", spec.ip_cooldown_seconds, 0, 1200)


def _bgp_configuration(obj: BGPConfiguration, references: References) -> None:
    spec, name = obj.spec, obj.metadata.name
    _named(name, allowed=name == "default" or name.startswith("node."), text="default or node.<node name>")
    _within("spec.asNumber", spec.as_number, 1, AS_MAX)
    _within("spec.listenPort", spec.listen_port, 1, 65535)
    for index, community in enumerate(spec.communities):
        check_community(community.value, at=f"spec.communities[{index}].value")
    names = {community.name for community in spec.communities}
    for index, advertisement in enumerate(spec.prefix_advertisements):
        at = f"spec.prefixAdvertisements[{index}]"
        parse_network(advertisement.cidr, field=f"{at}.cidr")
        for position, text in enumerate(advertisement.communities):
            if text not in names:
                check_community(text, at=f"{at}.communities[{position}]")
    for plural, blocks in (
        ("serviceClusterIPs", spec.service_cluster_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
    ):
        for index, block in enumerate(blocks):
            parse_network(block.cidr, field=f"spec.{plural}[{index}].cidr")
    _duration("spec.nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time)
    if spec.node_to_node_mesh_enabled is False and spec.node_mesh_password:
        raise BadObject("spec.nodeMeshPassword", "must not be given while nodeToNodeMeshEnabled is false")
    _password("spec.nodeMeshPassword", spec.node_mesh_password, references)


def _bgp_peer(obj: BGPPeer, references: References) -> None:
    spec = obj.spec
    check_peer(spec)
    if spec.peer_ip and spec.as_number is None:
        address = parse_peer_ip(spec.peer_ip, field="spec.peerIP")[0]
        if address not in references.node_addresses:
            raise BadObject("spec.asNumber", f"must be given, for {address} is no node of this cluster")
    if spec.peer_selector and spec.as_number is not None:
        raise BadObject("spec.asNumber", "must not be given with peerSelector: the nodes' own numbers count")
    _within("spec.asNumber", spec.as_number, 1, AS_MAX)
    _within("spec.localASNumber", spec.local_as_number, 1, AS_MAX)
    for index, name in enumerate(spec.filters):
        if name not in references.filters:
            raise Missing("MissingFilter", f"spec.filters[{index}]: there is no BGPFilter {name!r}")
    _password("spec.password", spec.password, references)


def _bgp_filter(obj: BGPFilter) -> None:
    problems = list(filter_problems(obj.spec))
    mistakes = [problem for problem in problems if not isinstance(problem, Unfollowed)]
    if mistakes:
        raise mistakes[0]
    if problems:
        said = [str(problem) for problem in problems[:SAID_MAX]]
        more = [f"and {len(problems) - SAID_MAX} more"] if len(problems) > SAID_MAX else []
        raise NotAsWritten("NotSupported", "; ".join([*said, *more]))


def _named(name: str, *, allowed: bool, text: str) -> None:
    if not allowed:
        raise BadObject("metadata.name", f"must be {text}: an object named {name!r} is not used")


def _within(at: str, number: int | None, low: int, high: int) -> None:
    if number is not None and not low <= number <= high:
        raise BadObject(at, f"must lie in {low}..{high}, is {number}")


def _duration(at: str, text: str | None) -> None:
    if text:
        parse_duration(text, field=at)


def _password(at: str, password: BGPPassword | None, references: References) -> None:
    if password is None:
        return
    ref = password.secret_key_ref
    if ref is None or not ref.name or not ref.key:
        raise BadObject(f"{at}.secretKeyRef", "needs name and key")
    if ref.optional or ref.name not in references.secrets:
        return
    keys = references.secrets[ref.name]
    if keys is None:
        raise Missing("MissingSecret", f"{at}.secretKeyRef: there is no Secret {ref.name!r} in namespace tortie-system")
    if ref.key not in keys:
        raise Missing("MissingSecret", f"{at}.secretKeyRef: Secret {ref.name!r} has no key {ref.key!r}")
