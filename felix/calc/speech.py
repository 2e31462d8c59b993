"""What the speaker is to be told: sessions and announcements, from what is seen.

Theory: pure. `bgp.sessions` and `bgp.advertise` hold the rules; here the Snapshot is taken apart for them, and each is
asked again only when something that it reads is new.

Called by `felix.agent`.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgp.advertise import Advertisement, advertise
from bgp.sessions import Problem, SessionPlan, sessions
from crds.bgp_kinds import BGPConfiguration, BGPPeer
from crds.core import Node, Secret
from crds.errors import BadObject
from crds.pools import IPPool
from crds.values import NodeName, Pool, parse_pool
from felix.calc.views import Same
from felix.kernel.protocols import IPAddress, IPNetwork
from felix.snapshot import Snapshot


class Speech:
    """One node's part in BGP."""

    def __init__(self, *, node: NodeName) -> None:
        self._node = node
        self._sessions = Same(_sessions)
        self._advertise = Same(_advertise)

    def plan(self, snapshot: Snapshot) -> SessionPlan:
        """The sessions; the same object while nothing that they depend on changed."""
        return self._sessions(
            node=self._node,
            nodes=snapshot.nodes,
            configurations=snapshot.bgp_configurations,
            peers=snapshot.bgp_peers,
            secrets=snapshot.secrets,
        )

    def advertisement(
        self,
        snapshot: Snapshot,
        *,
        blocks: frozenset[IPNetwork],
        exceptions: frozenset[IPAddress],
        on_loopback: frozenset[IPAddress],
    ) -> Advertisement:
        """The routes. `on_loopback`: all addresses that sit on the loopback interface."""
        return self._advertise(
            node=self._node,
            blocks=blocks,
            exceptions=exceptions,
            loopback=node_addresses_of(snapshot, node=self._node) & on_loopback,
            pools=snapshot.pools,
            configurations=snapshot.bgp_configurations,
        )


def node_addresses_of(snapshot: Snapshot, *, node: NodeName) -> frozenset[IPAddress]:
    """The addresses that this node is known by; none if its Node object cannot be read (the session plan says so)."""
    own = snapshot.nodes.get(node)
    if own is None:
        return frozenset()
    try:
        found = (own.internal_ip(4), own.internal_ip(6))
    except BadObject:
        return frozenset()
    return frozenset(address for address in found if address is not None)


def _sessions(
    *,
    node: NodeName,
    nodes: Mapping[str, Node],
    configurations: Mapping[str, BGPConfiguration],
    peers: Mapping[str, BGPPeer],
    secrets: Mapping[str, Secret],
) -> SessionPlan:
    if node not in nodes:  # not seen yet: no word about a Node that will be there in a moment
        return SessionPlan()
    return sessions(
        node,
        nodes=nodes.values(),
        configurations=configurations.values(),
        peers=peers.values(),
        secrets={secret.name: secret for secret in secrets.values()},
    )


def _advertise(
    *,
    node: NodeName,
    blocks: frozenset[IPNetwork],
    exceptions: frozenset[IPAddress],
    loopback: frozenset[IPAddress],
    pools: Mapping[str, IPPool],
    configurations: Mapping[str, BGPConfiguration],
) -> Advertisement:
    return advertise(
        node,
        blocks=blocks,
        exceptions=exceptions,
        loopback=loopback,
        pools=_readable(pools),
        configurations=configurations.values(),
    )


def _readable(pools: Mapping[str, IPPool]) -> tuple[Pool, ...]:
    found: list[Pool] = []
    for pool in pools.values():
        try:
            found.append(parse_pool(pool))
        except BadObject:  # the operator says it on the object
            continue
    return tuple(found)


__all__ = ["Advertisement", "Problem", "Speech", "node_addresses_of"]
