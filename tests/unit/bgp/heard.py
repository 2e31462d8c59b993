"""Values for tests of the table: two routers, and what they may say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from bgp import wire
from bgp.import_policy import ImportPolicy
from bgp.plan import Neighbor, PeerKind
from bgp.rib import Rib

TOR1, TOR2 = wire.NeighborId("10.0.1.1", "10.0.1.9"), wire.NeighborId("10.0.2.1", "10.0.2.9")
OWN = frozenset({ip_address("10.0.1.9")})
POLICY = ImportPolicy(pools=frozenset({ip_network("10.0.0.0/8"), ip_network("fd00::/16")}))


def neighbor(key: wire.NeighborId = TOR1, *, peer_as: int = 65002, **changes: Any) -> Neighbor:
    session = wire.Session(
        id=key,
        name="tor",
        peer_as=peer_as,
        local_as=65001,
        router_id="10.0.1.9",
        families=changes.pop("families", (wire.Family.IPV4,)),
        source_interface=changes.pop("source_interface", ""),
    )
    return Neighbor(session=session, kind=PeerKind.NODE, source="BGPPeer tor", **changes)


def up(key: wire.NeighborId = TOR1, *, restart_s: int = 60, since_s: float = 1.0) -> wire.PeerState:
    families = (wire.Family.IPV4, wire.Family.IPV6) if restart_s else ()
    return wire.PeerState(
        id=key, state=wire.State.UP, since_s=since_s, restart_time_s=restart_s, restart_families=families
    )


def down(cause: wire.Cause, key: wire.NeighborId = TOR1, *, restart_s: int = 60) -> wire.PeerState:
    families = (wire.Family.IPV4, wire.Family.IPV6) if restart_s else ()
    return wire.PeerState(
        id=key,
        state=wire.State.DOWN,
        since_s=2.0,
        cause=cause,
        restart_time_s=restart_s,
        restart_families=families,
    )


def said(*prefixes: str, key: wire.NeighborId = TOR1, hops: tuple[str, ...] = (), **attributes: Any) -> wire.Routes:
    path = attributes.pop("as_path", (65002,))
    values: dict[str, Any] = {"origin": "igp", "as_path": path, "as_path_length": len(path), **attributes}
    announced = wire.Announced(prefixes=prefixes, next_hops=hops or (key.peer,), attributes=wire.Attributes(**values))
    return wire.Routes(id=key, announced=(announced,))


def rib(*neighbors: Neighbor, now_s: float = 0.0) -> Rib:
    made = Rib()
    made.configure(neighbors or (neighbor(), neighbor(TOR2)), own_addresses=OWN, now_s=now_s)
    return made


def after(made: Rib, *messages: wire.ToAgent, now_s: float = 1.0) -> Rib:
    for message in messages:
        made.apply(message, now_s=now_s)
    return made


def best(made: Rib, policy: ImportPolicy = POLICY) -> dict[str, set[str]]:
    return {str(p): {str(hop) for hop in route.next_hops} for p, route in made.best(policy).items()}


EOR = wire.EndOfRib(id=TOR1, family=wire.Family.IPV4)
A, B = "10.1.0.0/26", "10.1.0.64/26"
