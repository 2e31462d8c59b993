"""What a node announces."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from bgp import wire
from bgp.advertise import EXCEPTIONS_MAX, Advertisement, advertise
from crds.bgp_kinds import BGPConfiguration, BGPConfigurationSpec, Community, PrefixAdvertisement
from crds.meta import ObjectMeta
from crds.pools import IPPool, IPPoolSpec
from crds.values import Pool, parse_pool


def pool(cidr: str, **spec: Any) -> Pool:
    return parse_pool(IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr=cidr, **spec)))


def told(
    *blocks: str,
    exceptions: tuple[str, ...] = (),
    loopback: tuple[str, ...] = (),
    pools: tuple[Pool, ...] = (),
    conf: tuple[BGPConfiguration, ...] = (),
) -> Advertisement:
    return advertise(
        "n1",
        blocks=[ip_network(text) for text in blocks],
        exceptions=[ip_address(text) for text in exceptions],
        loopback=[ip_address(text) for text in loopback],
        pools=pools,
        configurations=conf,
    )


def test_blocks_are_announced_by_family() -> None:
    assert told("10.1.0.64/26", "10.1.0.0/26", "fd00:1::/122").routes == (
        wire.RouteGroup(family=wire.Family.IPV4, prefixes=("10.1.0.0/26", "10.1.0.64/26")),
        wire.RouteGroup(family=wire.Family.IPV6, prefixes=("fd00:1::/122",)),
    )


def test_a_pool_can_forbid_it_for_blocks_and_single_addresses() -> None:
    silent = pool("10.1.0.0/16", disable_bgp_export=True)
    found = told("10.1.0.0/26", "10.2.0.0/26", exceptions=("10.1.9.9",), pools=(silent, pool("10.2.0.0/16")))
    assert [group.prefixes for group in found.routes] == [("10.2.0.0/26",)]


def test_a_block_whose_pool_is_gone_is_still_announced() -> None:
    assert [group.prefixes for group in told("10.3.0.0/26").routes] == [("10.3.0.0/26",)]


def test_single_addresses_and_the_loopback_are_host_routes() -> None:
    found = told(exceptions=("10.1.0.7", "fd00::7"), loopback=("10.0.0.1",))
    assert [group.prefixes for group in found.routes] == [("10.0.0.1/32", "10.1.0.7/32"), ("fd00::7/128",)]


def test_exceptions_have_a_budget() -> None:
    found = told("10.2.0.0/26", exceptions=tuple(f"10.1.{n // 256}.{n % 256}" for n in range(EXCEPTIONS_MAX + 5)))
    assert sum(len(group.prefixes) for group in found.routes) == EXCEPTIONS_MAX + 1
    assert "the first left out is 10.1.1.0/32" in str(found.problems[0])


def marked(name: str, *marks: PrefixAdvertisement, communities: tuple[Community, ...] = ()) -> BGPConfiguration:
    spec = BGPConfigurationSpec(communities=communities, prefix_advertisements=marks)
    return BGPConfiguration(metadata=ObjectMeta(name=name), spec=spec)


def test_communities_by_value_and_by_name() -> None:
    conf = marked(
        "default",
        PrefixAdvertisement(cidr="10.1.0.0/16", communities=("pods", "65000:1:2", "nonsense")),
        communities=(Community(name="pods", value="65000:9"),),
    )
    found = told("10.1.0.0/26", "10.2.0.0/26", conf=(conf,))
    assert {group.prefixes: (group.communities, group.large_communities) for group in found.routes} == {
        ("10.1.0.0/26",): (("65000:9",), ("65000:1:2",)),
        ("10.2.0.0/26",): ((), ()),
    }
    assert "is 'nonsense'" in str(found.problems[0])


def test_a_nodes_own_list_replaces_the_one_for_all() -> None:
    everyone = marked("default", PrefixAdvertisement(cidr="10.0.0.0/8", communities=("65000:1",)))
    mine = marked("node.n1", PrefixAdvertisement(cidr="10.0.0.0/8", communities=("65000:2",)))
    assert told("10.1.0.0/26", conf=(everyone, mine)).routes[0].communities == ("65000:2",)


def test_a_bad_range_is_one_sentence() -> None:
    bad = marked("default", PrefixAdvertisement(cidr="10.0.0.1/8", communities=("65000:1",)))
    found = told("10.1.0.0/26", conf=(bad,))
    assert found.routes[0].prefixes == ("10.1.0.0/26",)
    assert "spec.prefixAdvertisements[0]: cidr must be a network" in str(found.problems[0])
