"""One BGPPeer, as seen from one node: the neighbours that it asks for.

Theory: a peer has a local side (node, nodeSelector, or all) and a remote one (peerIP or peerSelector). If we are on
the local side, each remote is a neighbour; if we are on the remote side, each local node is one in return (unless
reversePeering is Manual), so that both ends of a session between nodes are configured by one object.

Pure; a bad field raises BadObject and ends this peer alone. What the object itself can tell is asked in `crds.peers`.
Called by `bgp.sessions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from bgp import wire
from bgp.node_facts import PORT, Cluster, NodeFacts
from bgp.plan import Neighbor, PeerKind
from crds.bgp_kinds import BGPPassword, BGPPeer, BGPPeerSpec
from crds.core import Secret
from crds.errors import BadObject
from crds.peers import check_peer, keepalive_s, parse_peer_ip, restart_s
from crds.selector import parse_selector

IPAddress = IPv4Address | IPv6Address
PASSWORD_MAX_BYTES: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A neighbour, and whether an object names it (or only implies it)."""

    neighbor: Neighbor
    explicit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """The far end."""

    address: IPAddress
    interface: str
    port: int
    as_number: int


def from_peer(
    peer: BGPPeer, *, here: NodeFacts, cluster: Cluster, secrets: Mapping[str, Secret]
) -> Iterator[Candidate]:
    """The neighbours. Raises BadObject."""
    spec = peer.spec
    check_peer(spec)
    locals_ = _local_side(spec, cluster)
    if here.name in locals_:
        for remote in _remotes(spec, here=here, cluster=cluster):
            number = spec.local_as_number or here.as_number
            found = _neighbor(peer, remote, here=here, local_as=number, secrets=secrets)
            yield Candidate(neighbor=found, explicit=True)
    if spec.reverse_peering != "Manual" and _is_remote(spec, here=here, cluster=cluster):
        for other in locals_.values():
            for version in _versions(spec):
                address = other.address(version)
                if other.name != here.name and address is not None and here.address(version) is not None:
                    number = spec.local_as_number or other.as_number
                    remote = Remote(address=address, interface="", port=other.listen_port, as_number=number)
                    found = _neighbor(peer, remote, here=here, local_as=here.as_number, secrets=secrets)
                    yield Candidate(neighbor=found, explicit=False)


def _local_side(spec: BGPPeerSpec, cluster: Cluster) -> dict[str, NodeFacts]:
    selector = parse_selector(spec.node_selector, field="spec.nodeSelector")
    return {
        name: facts
        for name, facts in cluster.nodes.items()
        if (name == spec.node if spec.node else selector.matches(facts.labels))
    }


def _remotes(spec: BGPPeerSpec, *, here: NodeFacts, cluster: Cluster) -> Iterator[Remote]:
    if spec.peer_ip:
        address, interface, port = parse_peer_ip(spec.peer_ip, field="spec.peerIP")
        if address == here.address(address.version):
            return
        other = cluster.at(address)
        number = spec.as_number or (other.as_number if other else 0)
        if not number:
            raise BadObject("spec.asNumber", f"must be given, for {address} is no node of this cluster")
        yield Remote(
            address=address,
            interface=interface,
            port=port or (other.listen_port if other else PORT),
            as_number=number,
        )
        return
    selector = parse_selector(spec.peer_selector, field="spec.peerSelector")
    for other in cluster.nodes.values():
        if other.name == here.name or not selector.matches(other.labels):
            continue
        for version in (4, 6):
            theirs = other.address(version)
            if theirs is not None and here.address(version) is not None:
                yield Remote(address=theirs, interface="", port=other.listen_port, as_number=other.as_number)


def _is_remote(spec: BGPPeerSpec, *, here: NodeFacts, cluster: Cluster) -> bool:
    if spec.peer_selector:
        return parse_selector(spec.peer_selector, field="spec.peerSelector").matches(here.labels)
    return cluster.at(parse_peer_ip(spec.peer_ip, field="spec.peerIP")[0]) is here


def _versions(spec: BGPPeerSpec) -> tuple[int, ...]:
    return (parse_peer_ip(spec.peer_ip, field="spec.peerIP")[0].version,) if spec.peer_ip else (4, 6)


def _neighbor(
    peer: BGPPeer, remote: Remote, *, here: NodeFacts, local_as: int, secrets: Mapping[str, Secret]
) -> Neighbor:
    spec = peer.spec
    version = remote.address.version
    local = "" if spec.source_address == "None" or remote.interface else str(here.address(version) or "")
    if not local and spec.source_address != "None" and not remote.interface:
        raise BadObject("spec.sourceAddress", f"is UseNodeIP, but node {here.name} has no IPv{version} address")
    session = wire.Session(
        id=wire.NeighborId(str(remote.address), local),
        name=peer.metadata.name,
        peer_as=remote.as_number,
        local_as=local_as,
        router_id=here.router_id,
        families=(wire.Family.IPV4 if version == 4 else wire.Family.IPV6,),
        connect_port=remote.port,
        # A listener's handshake leaves with TTL 64, which GTSM peers drop: with GTSM we only dial.
        listen_port=here.listen_port if local and not spec.ttl_security else 0,
        hold_time_s=keepalive_s(spec) * 3,
        restart_time_s=restart_s(spec),
        password=password(spec.password, secrets, field="spec.password"),
        ttl_hops=spec.ttl_security or 0,
        source_interface=remote.interface,
    )
    return Neighbor(
        session=session,
        kind=PeerKind.NODE if spec.node or spec.node_selector else PeerKind.GLOBAL,
        source=f"BGPPeer {peer.metadata.name}",
        filters=spec.filters,
        allowed_own_as=spec.num_allowed_local_as_numbers or 0,
    )


def password(wanted: BGPPassword | None, secrets: Mapping[str, Secret], *, field: str) -> str:
    """The key out of its Secret, "" for none. Raises BadObject; what it says never holds the key."""
    ref = wanted.secret_key_ref if wanted else None
    if ref is None:
        return ""
    field = f"{field}.secretKeyRef"
    secret = secrets.get(ref.name)
    if secret is None or ref.key not in secret.data:
        if ref.optional:
            return ""
        what = f"key {ref.key!r} of Secret {ref.name!r}" if secret else f"Secret {ref.name!r}"
        raise BadObject(field, f"{what} does not exist in the agent's namespace")
    key = secret.data[ref.key]
    if not 1 <= len(key) <= PASSWORD_MAX_BYTES or not key.isascii():
        raise BadObject(
            field, f"key {ref.key!r} of Secret {ref.name!r} must hold 1..{PASSWORD_MAX_BYTES} bytes of ASCII"
        )
    return key.decode("ascii")
