"""Which sessions this node holds: Calico's BGPConfiguration, BGPPeer and mesh, turned into neighbours.

Theory: pure. All that was seen goes in, and neighbours and problems come out as values; a bad object becomes a
problem whose sentence names object, field, value and what is allowed, and takes nothing else with it. Global peers
come first, then those of nodes, then what other nodes' peers imply in return, then the mesh; the first to name an
address has it. Both ends dial and listen, so that a node that was away is back at once (Calico makes one end
passive; a pair of both kinds works).

An IPv4 session carries IPv4 and an IPv6 session IPv6, as Calico's do.

Called by `felix.agent`; the sessions of a plan go to the speaker as `wire.Wanted`, the rest steers the RIB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bgp import wire
from bgp.node_facts import Cluster, NodeFacts
from bgp.peering import Candidate, from_peer, password
from bgp.plan import Neighbor, PeerKind, Problem, SessionPlan
from crds.bgp_kinds import BGPConfiguration, BGPPeer
from crds.core import Node, Secret
from crds.errors import BadObject
from crds.values import parse_duration

__all__ = ["Neighbor", "PeerKind", "Problem", "SessionPlan", "sessions"]


def sessions(
    node: str,
    *,
    nodes: Iterable[Node],
    configurations: Iterable[BGPConfiguration],
    peers: Iterable[BGPPeer],
    secrets: Mapping[str, Secret],
) -> SessionPlan:
    """The sessions of the node of this name. `secrets` by name, of the agent's own namespace."""
    cluster = Cluster.of(nodes, configurations)
    problems = list(cluster.problems)
    here = cluster.nodes.get(node)
    if here is None:
        if any(problem.kind == "Node" and problem.name == node for problem in problems):
            return SessionPlan(problems=tuple(problems))
        sentence = "its Node object has no address to speak BGP from" if node else "must be given"
        return SessionPlan(problems=(*problems, Problem(kind="Node", name=node, field="status", sentence=sentence)))
    chosen: dict[tuple[str, str], Candidate] = {}
    for candidate in (*_explicit(here, cluster, peers, secrets, problems), *_mesh(here, cluster, secrets, problems)):
        key = (candidate.neighbor.session.id.peer, candidate.neighbor.session.source_interface)
        holder = chosen.setdefault(key, candidate)
        if holder is not candidate and candidate.explicit and holder.explicit:
            problems.append(_taken(candidate, holder))
    neighbors = sorted((candidate.neighbor for candidate in chosen.values()), key=lambda found: found.id)
    return SessionPlan(neighbors=tuple(neighbors), problems=tuple(dict.fromkeys(problems)))


def _explicit(
    here: NodeFacts,
    cluster: Cluster,
    peers: Iterable[BGPPeer],
    secrets: Mapping[str, Secret],
    problems: list[Problem],
) -> Iterator[Candidate]:
    """What BGPPeers ask for; those that ask only in return come last."""
    implied: list[Candidate] = []
    for peer in sorted(peers, key=lambda peer: (bool(peer.spec.node or peer.spec.node_selector), peer.metadata.name)):
        try:
            found = list(from_peer(peer, here=here, cluster=cluster, secrets=secrets))
        except BadObject as bad:
            field, _, sentence = str(bad).partition(": ")
            problems.append(Problem(kind="BGPPeer", name=peer.metadata.name, field=field, sentence=sentence))
            continue
        yield from (candidate for candidate in found if candidate.explicit)
        implied += (candidate for candidate in found if not candidate.explicit)
    yield from implied


def _mesh(
    here: NodeFacts, cluster: Cluster, secrets: Mapping[str, Secret], problems: list[Problem]
) -> Iterator[Candidate]:
    """Every node with every other. Route reflectors and their clients stand outside it."""
    default = cluster.default
    if default.node_to_node_mesh_enabled is False or here.reflector_cluster:
        return
    try:
        key = password(default.node_mesh_password, secrets, field="spec.nodeMeshPassword")
        text = default.node_mesh_max_restart_time
        restart_s = round(parse_duration(text, field="spec.nodeMeshMaxRestartTime")) if text else 120
        if not 0 <= restart_s <= 4095:
            raise BadObject("spec.nodeMeshMaxRestartTime", f"must lie in 0s..4095s, is {text!r}")
    except BadObject as bad:
        field, _, sentence = str(bad).partition(": ")
        problems.append(Problem(kind="BGPConfiguration", name="default", field=field, sentence=sentence))
        return
    for other in cluster.nodes.values():
        if other.name == here.name or other.reflector_cluster:
            continue
        for version in (4, 6):
            mine, theirs = here.address(version), other.address(version)
            if mine is None or theirs is None:
                continue
            session = wire.Session(
                id=wire.NeighborId(str(theirs), str(mine)),
                name=f"Mesh {other.name}",
                peer_as=other.as_number,
                local_as=here.as_number,
                router_id=here.router_id,
                families=(wire.Family.IPV4 if version == 4 else wire.Family.IPV6,),
                connect_port=other.listen_port,
                listen_port=here.listen_port,
                restart_time_s=restart_s,
                password=key,
            )
            found = Neighbor(session=session, kind=PeerKind.MESH, source="BGPConfiguration default")
            yield Candidate(neighbor=found, explicit=False)


def _taken(candidate: Candidate, holder: Candidate) -> Problem:
    kind, _, name = candidate.neighbor.source.partition(" ")
    peer = candidate.neighbor.session.id.peer
    sentence = f"{peer} is already a neighbour by {holder.neighbor.source}; an address can have one session only"
    return Problem(kind=kind, name=name, field="spec.peerIP", sentence=sentence)
