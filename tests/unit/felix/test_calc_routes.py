"""Wanted routes against an oracle that says the rules in the plainest words, and the index against the plain scan."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from bgp.rib import BestRoute
from felix.calc.routes import Inside, RouteIndex, RouteInputs, wanted_routes
from felix.kernel.protocols import IPNetwork, NextHop, Route, RouteKind

TOR_A, TOR_B, AWAY = (IPv4Address(text) for text in ("192.0.2.1", "192.0.2.3", "198.51.100.9"))
HOPS = {
    TOR_A: (NextHop(gateway=TOR_A, device="eth0"),),
    TOR_B: (NextHop(gateway=TOR_B, device="eth1"),),
    AWAY: (),
}
BLOCK = ip_network("10.0.0.0/26")


def best(prefix: str | IPNetwork, *next_hops: IPv4Address) -> BestRoute:
    return BestRoute(
        prefix=ip_network(prefix),
        next_hops=frozenset(next_hops or (TOR_A,)),
        neighbors=frozenset(),
        as_path=(65001,),
        stale=False,
    )


def table(*routes: BestRoute) -> dict[IPNetwork, BestRoute]:
    return {route.prefix: route for route in routes}


def texts(inputs: RouteInputs) -> set[str]:
    return {str(route) for route in wanted_routes(inputs).routes.values()}


def test_a_node_wants_its_pods_a_blackhole_under_its_block_and_what_bgp_tells_it() -> None:
    inputs = RouteInputs(
        blocks=frozenset({BLOCK}),
        pods={ip_address("10.0.0.5"): "cali5"},
        best=table(best("10.0.1.0/26", TOR_A, TOR_B)),
        hops=HOPS,
        sources={4: IPv4Address("192.0.2.10")},
    )
    assert texts(inputs) == {
        "unicast 10.0.0.5/32 dev cali5 proto 80 metric 0",
        "blackhole 10.0.0.0/26 proto 80 metric 1024",
        "unicast 10.0.1.0/26 nexthop via 192.0.2.1 dev eth0 nexthop via 192.0.2.3 dev eth1"
        " proto 80 metric 1024 src 192.0.2.10",
    }


def test_nobody_outside_may_divert_an_own_block_or_a_part_of_it() -> None:
    inputs = RouteInputs(
        blocks=frozenset({BLOCK}), best=table(best("10.0.0.0/26"), best("10.0.0.64/26"), best("10.0.0.8/32")), hops=HOPS
    )
    wanted = wanted_routes(inputs)
    assert set(wanted.refused) == {ip_network("10.0.0.0/26"), ip_network("10.0.0.8/32")}
    assert texts(inputs) == {
        "blackhole 10.0.0.0/26 proto 80 metric 1024",
        "unicast 10.0.0.64/26 via 192.0.2.1 dev eth0 proto 80 metric 1024",
    }


def test_an_address_of_an_own_block_that_lives_on_another_node_is_reached_there() -> None:
    inputs = RouteInputs(
        blocks=frozenset({BLOCK}),
        best=table(best("10.0.0.8/32"), best("10.0.0.8/31")),
        hops=HOPS,
        elsewhere=frozenset({IPv4Address("10.0.0.8")}),
    )
    assert "unicast 10.0.0.8/32 via 192.0.2.1 dev eth0 proto 80 metric 1024" in texts(inputs)
    assert wanted_routes(inputs).refused == (ip_network("10.0.0.8/31"),)


def test_a_next_hop_that_cannot_be_reached_is_left_out_and_a_route_without_any_is_told() -> None:
    inputs = RouteInputs(best=table(best("10.9.0.0/26", TOR_A, AWAY), best("10.9.1.0/26", AWAY)), hops=HOPS)
    assert texts(inputs) == {"unicast 10.9.0.0/26 via 192.0.2.1 dev eth0 proto 80 metric 1024"}
    assert wanted_routes(inputs).unresolved == (ip_network("10.9.1.0/26"),)


def test_a_pod_wins_over_the_blackhole_of_a_block_of_one_ipv6_address() -> None:
    address = ip_address("2001:db8::5")
    inputs = RouteInputs(blocks=frozenset({ip_network(address)}), pods={address: "cali5"})
    assert texts(inputs) == {"unicast 2001:db8::5/128 dev cali5 proto 80 metric 1024"}


prefixes = st.builds(
    lambda address, length: IPv4Network((0x0A000000 | address, length), strict=False),
    st.integers(0, 0x3FF),
    st.integers(24, 32),
)
hop_sets = st.frozensets(st.sampled_from((TOR_A, TOR_B, AWAY)), min_size=1)
tables = st.dictionaries(prefixes, hop_sets, max_size=12).map(
    lambda found: table(*(best(prefix, *hops) for prefix, hops in found.items()))
)
worlds = st.builds(
    RouteInputs,
    blocks=st.frozensets(prefixes, max_size=3),
    pods=st.dictionaries(
        st.integers(0x0A000000, 0x0A0003FF).map(IPv4Address), st.sampled_from(("cali1", "cali2")), max_size=4
    ),
    best=tables,
    hops=st.sampled_from((HOPS, {TOR_A: HOPS[TOR_B]})),
    elsewhere=st.frozensets(st.integers(0x0A000000, 0x0A0003FF).map(IPv4Address), max_size=4),
)


def oracle(inputs: RouteInputs) -> set[Route]:
    holes = {Route(dst=block, kind=RouteKind.BLACKHOLE, metric=1024) for block in inputs.blocks}
    pods = {
        Route(dst=ip_network(address), next_hops=(NextHop(device=device),)) for address, device in inputs.pods.items()
    }
    learned = set()
    for prefix, route in inputs.best.items():
        hops = [hop for address in route.next_hops for hop in inputs.hops.get(address, ())]
        inside = any(prefix.subnet_of(block) for block in inputs.blocks)
        elsewhere = prefix.prefixlen == 32 and prefix.network_address in inputs.elsewhere
        taken = any(hole.dst == prefix for hole in holes)
        if hops and not taken and (elsewhere or not inside):
            learned.add(Route(dst=prefix, next_hops=tuple(set(hops)), metric=1024))
    return holes | pods | learned


@given(worlds)
def test_wanted_routes_are_what_the_rules_say(inputs: RouteInputs) -> None:
    wanted = wanted_routes(inputs)
    assert set(wanted.routes.values()) == oracle(inputs)
    assert all(key == (route.dst, route.metric) for key, route in wanted.routes.items())


@given(st.lists(worlds, min_size=1, max_size=6))
def test_the_index_answers_as_the_plain_scan_whatever_was_asked_before(history: list[RouteInputs]) -> None:
    index = RouteIndex()
    for inputs in history:
        assert index.wanted(inputs) == wanted_routes(inputs)


def test_the_index_gives_the_same_object_while_nothing_changes() -> None:
    index, inputs = RouteIndex(), RouteInputs(blocks=frozenset({BLOCK}), best=table(best("10.0.1.0/26")), hops=HOPS)
    again = RouteInputs(blocks=frozenset({BLOCK}), best=inputs.best, hops=dict(HOPS))
    assert index.wanted(inputs) is index.wanted(again)


@given(st.frozensets(prefixes, max_size=5), prefixes)
def test_inside_is_subnet_of_any(networks: frozenset[IPv4Network], prefix: IPv4Network) -> None:
    assert (prefix in Inside(frozenset(networks))) == any(prefix.subnet_of(net) for net in networks)
