"""What BGP needs to know of each node: addresses, AS, port, labels.

Theory: the most particular source wins: the Node's annotation, then BGPConfiguration `node.<name>`, then `default`.
A node whose annotations cannot be read is left out with a problem; guessing would bring sessions up from the wrong
place.

Pure. Called by `bgp.sessions` and `bgp.peering`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from bgp.plan import Problem
from crds.bgp_kinds import BGPConfiguration, BGPConfigurationSpec
from crds.core import Node
from crds.errors import BadObject

IPAddress = IPv4Address | IPv6Address
AS_NUMBER: Final = 64512
PORT: Final = 179
_REFLECTOR: Final = "projectcalico.org/RouteReflectorClusterID"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node, as BGP sees it."""

    name: str
    labels: Mapping[str, str]
    v4: IPv4Address | None
    v6: IPv6Address | None
    as_number: int
    listen_port: int
    reflector_cluster: str

    def address(self, version: int) -> IPAddress | None:
        """Where it speaks BGP from."""
        return self.v4 if version == 4 else self.v6

    @property
    def router_id(self) -> str:
        """Its IPv4 address; without one, four bytes of its name's digest (never 0.0.0.0)."""
        if self.v4 is not None:
            return str(self.v4)
        return str(IPv4Address(int.from_bytes(sha256(self.name.encode()).digest()[:4], "big") | 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """All nodes that can speak BGP, and the settings for all."""

    default: BGPConfigurationSpec
    nodes: Mapping[str, NodeFacts]
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, nodes: Iterable[Node], configurations: Iterable[BGPConfiguration]) -> Cluster:
        """From the objects as they are."""
        specs = {configuration.metadata.name: configuration.spec for configuration in configurations}
        default = specs.get("default", BGPConfigurationSpec())
        facts: dict[str, NodeFacts] = {}
        problems = []
        for node in sorted(nodes, key=lambda node: node.metadata.name):
            name = node.metadata.name
            try:
                found = _facts(node, default=default, own=specs.get(f"node.{name}", BGPConfigurationSpec()))
            except BadObject as bad:
                field, _, sentence = str(bad).partition(": ")
                problems.append(Problem(kind="Node", name=name, field=field, sentence=sentence))
                continue
            if found.v4 is not None or found.v6 is not None:
                facts[name] = found
        return cls(default=default, nodes=facts, problems=tuple(problems))

    def at(self, address: IPAddress) -> NodeFacts | None:
        """The node that has this address."""
        return next((facts for facts in self.nodes.values() if address in {facts.v4, facts.v6}), None)


def _facts(node: Node, *, default: BGPConfigurationSpec, own: BGPConfigurationSpec) -> NodeFacts:
    v4, v6 = node.internal_ip(4), node.internal_ip(6)
    return NodeFacts(
        name=node.metadata.name,
        labels=node.metadata.labels,
        v4=v4 if isinstance(v4, IPv4Address) else None,
        v6=v6 if isinstance(v6, IPv6Address) else None,
        as_number=node.as_number() or own.as_number or default.as_number or AS_NUMBER,
        listen_port=own.listen_port or default.listen_port or PORT,
        reflector_cluster=node.metadata.annotations.get(_REFLECTOR, ""),
    )
