"""The kernel objects that follow from a topology."""

from __future__ import annotations

import pytest

from lab import cabling, topology


@pytest.fixture(params=["default", "dual-tor"])
def loaded(request: pytest.FixtureRequest) -> topology.Topology:
    return topology.load(topology.find(request.param))


def test_every_cable_ends_in_interfaces_of_different_machines_with_legal_names(loaded: topology.Topology) -> None:
    plan = cabling.plan(loaded)
    ends = [end for cable in plan.cables for end in (cable.a, cable.b)]
    assert len(set(ends)) == len(ends)
    assert all(len(end.interface) <= 15 for end in ends)
    assert all(cable.a.machine != cable.b.machine for cable in plan.cables)


def test_the_longest_legal_name_fits_the_kernel(loaded: topology.Topology) -> None:
    longest = "a" * 12
    assert topology.NAME.fullmatch(longest)
    assert not topology.NAME.fullmatch(longest + "a")
    assert len(cabling.port(longest)) <= 15
    assert len(cabling.bridge(longest)) <= 15


def test_a_gateways_bridge_has_an_address_that_no_cable_changes() -> None:
    fabric = topology.load(topology.find("default"))
    made = [line for lines in cabling.plan(fabric).lines.values() for line in lines if " type bridge " in line]
    assert made
    addresses = [line.split(" address ")[1].split()[0] for line in made]
    assert len(set(addresses)) == len(fabric.segments)
    assert all(address.startswith("02:") for address in addresses), "locally administered, of one interface"


def test_a_cable_is_cut_at_its_router(loaded: topology.Topology) -> None:
    routers = {router.name for router in loaded.routers}
    assert {cable.a.machine for cable in cabling.plan(loaded).cables} <= routers


def test_a_cable_is_found_from_either_end_and_a_missing_one_names_the_others(loaded: topology.Topology) -> None:
    plan = cabling.plan(loaded)
    assert plan.cable("spine", "tor1") == plan.cable("tor1", "spine")
    with pytest.raises(KeyError, match=r"no cable between n1 and client; there are: .*spine tor1"):
        plan.cable("n1", "client")


def test_a_node_with_two_uplinks_has_its_address_on_the_loopback_and_a_default_over_both() -> None:
    lines = cabling.plan(topology.load(topology.find("dual-tor"))).lines["n1"]
    assert "address add 10.1.0.11/32 dev lo" in lines
    assert "route add default nexthop via 10.253.1.0 dev to-tor1 nexthop via 10.253.1.2 dev to-tor2" in lines
    assert "route add ::/0 nexthop via fd00:253:1:: dev to-tor1 nexthop via fd00:253:1::2 dev to-tor2" in lines
