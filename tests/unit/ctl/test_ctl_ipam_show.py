"""`ipam show` counts and names as calicoctl does, from blocks alone."""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest

from crds.blocks import AllocationAttribute, IPAMBlock, IPAMBlockSpec
from crds.meta import ObjectMeta
from crds.pools import IPPool, IPPoolSpec, IPReservation, IPReservationSpec
from ctl.ipam_show import address, pools, pools_and_blocks
from ctl.show import Format, render

POOL = IPPool(metadata=ObjectMeta(name="racks"), spec=IPPoolSpec(cidr="10.1.0.0/24", block_size=28))
OWNER = AllocationAttribute(handle_id="tortie.c1", secondary={"pod": "web", "namespace": "shop", "node": "n1"})
COOLING = AllocationAttribute(released_at="2026-01-02T03:04:05Z")


def block(
    cidr: str = "10.1.0.16/28",
    *,
    taken: tuple[int, ...] = (3, 4),
    cooling: tuple[int, ...] = (),
    node: str = "n1",
) -> IPAMBlock:
    index = {**dict.fromkeys(taken, 0), **dict.fromkeys(cooling, 1)}
    return IPAMBlock(
        metadata=ObjectMeta(name=cidr),
        spec=IPAMBlockSpec(
            cidr=cidr,
            affinity=f"host:{node}",
            allocations=tuple(index.get(ordinal) for ordinal in range(16)),
            unallocated=tuple(ordinal for ordinal in range(16) if ordinal not in index),
            attributes=(OWNER, COOLING),
        ),
    )


def reservation(*cidrs: str) -> IPReservation:
    return IPReservation(metadata=ObjectMeta(name="kept"), spec=IPReservationSpec(reserved_cidrs=cidrs))


def test_a_pool_counts_what_its_blocks_hold() -> None:
    answer = pools([POOL], [block(), block("10.2.0.0/28")], [])
    assert answer.data == [
        {"pool": "racks", "cidr": "10.1.0.0/24", "total": 256, "inUse": 2, "reserved": 0, "free": 254}
    ]
    head, row = render(answer, output=Format.TABLE).splitlines()
    assert re.split(r"\s{2,}", head) == ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"]
    assert re.split(r"\s{2,}", row) == ["IP Pool", "10.1.0.0/24", "256", "2 (0%)", "0 (0%)", "254 (99%)"]


def test_an_address_that_cools_down_counts_as_in_use() -> None:
    answer = pools([POOL], [block(taken=(1,), cooling=(2, 3))], [])
    assert answer.data[0]["inUse"] == 3  # type: ignore[index]


@pytest.mark.parametrize(
    ("cidrs", "reserved", "free"),
    [
        (("10.1.0.19/32",), 1, 254),  # in use and reserved: counted once against free
        (("10.1.0.0/29",), 8, 246),
        (("10.1.0.0/29", "10.1.0.4/30"), 8, 246),  # nested reservations are not counted twice
        (("10.0.0.0/8",), 256, 0),
        (("10.9.0.0/24", "2001:db8::/64"), 0, 254),
    ],
)
def test_reserved_addresses_are_not_free(cidrs: tuple[str, ...], reserved: int, free: int) -> None:
    entry = pools([POOL], [block()], [reservation(*cidrs)]).data[0]  # type: ignore[index]
    assert (entry["reserved"], entry["free"]) == (reserved, free)


def test_blocks_stand_below_their_pool_and_name_their_node_when_wide() -> None:
    answer = pools_and_blocks([POOL], [block("10.1.0.32/28", node="n2"), block()], [])
    lines = render(answer, output=Format.WIDE).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["n1", "n2"]
    assert "NODE" not in render(answer, output=Format.TABLE)
    assert [item["cidr"] for item in answer.data[0]["blocks"]] == ["10.1.0.16/28", "10.1.0.32/28"]  # type: ignore[index]


def test_an_address_in_use_says_whose_it_is() -> None:
    answer = address(ip_address("10.1.0.19"), blocks=[block()])
    text = render(answer, output=Format.TABLE)
    assert "IP 10.1.0.19 is in use" in text
    assert {"tortie.c1", "web", "shop", "n1"} <= set(text.split())
    assert answer.data["attributes"]["pod"] == "web"  # type: ignore[index]


@pytest.mark.parametrize("wanted", ["10.1.0.18", "10.7.0.1", "2001:db8::1"])
def test_an_address_that_nobody_has_is_said_to_be_unassigned(wanted: str) -> None:
    answer = address(ip_address(wanted), blocks=[block()])
    assert answer.data == {"ip": wanted, "inUse": False}
    assert f"{wanted} is not assigned" in render(answer, output=Format.TABLE)


def test_a_released_address_is_said_to_cool_down() -> None:
    answer = address(ip_address("10.1.0.21"), blocks=[block(cooling=(5,))])
    assert "cools down" in render(answer, output=Format.TABLE)
