"""What a neighbour said, made into paths that can be used; all the checks that ExaBGP does not make.

Theory: ExaBGP delivers own-AS loops, next hops like `no-nexthop`, 0.0.0.0 or our own address, host bits, LOCAL_PREF
from eBGP. Here they are mended where that is safe (host bits masked, two next hops of one prefix made one) and
refused with a reason where not; a refused announcement takes away what the neighbour said of the prefix before (RFC
7606: treat as withdraw).

Pure. Called by `bgp.rib`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from bgp import wire
from bgp.decision import Path
from bgp.plan import Neighbor

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def prefix(text: str) -> IPNetwork | str:
    """The network, host bits masked; else why it cannot be a route."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is no prefix"
    first = network.network_address
    if network.prefixlen and (first.is_loopback or first.is_multicast or first.is_link_local or first.is_unspecified):
        return f"{network} is not unicast"
    return network


def path(
    neighbor: Neighbor,
    group: wire.Announced,
    *,
    version: int,
    router_id: str,
    own_addresses: frozenset[IPAddress],
) -> Path | str:
    """The path that a group of prefixes of one IP version came with; else why it is unusable."""
    refused = _refuses_attributes(neighbor, group.attributes)
    if refused:
        return refused
    next_hop = _next_hop(neighbor, group.next_hops, version=version, own_addresses=own_addresses)
    if isinstance(next_hop, str):
        return next_hop
    return Path(
        neighbor=neighbor.id,
        next_hop=next_hop,
        attributes=group.attributes,
        internal=neighbor.internal,
        router_id=router_id,
    )


def _refuses_attributes(neighbor: Neighbor, attributes: wire.Attributes) -> str:
    session = neighbor.session
    found = ""
    if attributes.origin not in {"igp", "egp", "incomplete"}:
        found = f"origin {attributes.origin!r} is unknown (RFC 7606)"
    elif 0 in attributes.as_path:
        found = "AS 0 in the path (RFC 7607)"
    elif attributes.as_path.count(session.local_as) > neighbor.allowed_own_as:
        found = f"our own AS {session.local_as} in the path: a loop"
    elif not neighbor.internal and attributes.as_path[:1] != (session.peer_as,):
        found = f"the path does not begin with the neighbour's AS {session.peer_as}"
    elif neighbor.internal and attributes.originator_id == session.router_id:
        found = "we are the originator (RFC 4456): a loop"
    elif neighbor.internal and session.router_id in attributes.cluster_list:
        found = "our own cluster in the cluster list (RFC 4456): a loop"
    return found


def _next_hop(
    neighbor: Neighbor, texts: tuple[str, ...], *, version: int, own_addresses: frozenset[IPAddress]
) -> IPAddress | str:
    """One of those given: a global one rather than a link-local one, which only its interface makes useful."""
    usable: list[IPAddress] = []
    for text in texts:
        try:
            address: IPAddress = ip_address(text)
        except ValueError:
            continue
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address in own_addresses or address.is_unspecified or address.is_multicast or address.is_loopback:
            continue
        if version == 6 and address.version == 4:
            continue
        if isinstance(address, IPv6Address) and address.is_link_local:
            if not neighbor.session.source_interface:
                continue
            address = IPv6Address(f"{address}%{neighbor.session.source_interface}")
        usable.append(address)
    if not usable:
        return f"no usable next hop in {', '.join(texts) or 'nothing'}"
    prefer_link_local = ip_address(neighbor.id.peer).is_link_local
    return min(usable, key=lambda address: (address.is_link_local is not prefer_link_local, str(address)))
