"""Ways to next hops, and links without carrier."""

from __future__ import annotations

from ipaddress import ip_address

from felix.kernel.protocols import NextHop
from felix.kernel_view import living

LEFT, RIGHT = ip_address("10.0.0.0"), ip_address("10.0.0.2")
OVER_LEFT = (NextHop(gateway=LEFT, device="left"),)
OVER_RIGHT = (NextHop(gateway=RIGHT, device="right"),)
BOTH = {LEFT: OVER_LEFT, RIGHT: OVER_RIGHT}


def test_a_way_over_a_link_without_carrier_is_left_out_while_another_is_there() -> None:
    assert living(BOTH, silent=frozenset({"left"})) == {LEFT: (), RIGHT: OVER_RIGHT}


def test_of_a_multipath_way_the_living_part_stays() -> None:
    assert living({LEFT: OVER_LEFT + OVER_RIGHT}, silent=frozenset({"left"})) == {LEFT: OVER_RIGHT}


def test_when_every_link_is_silent_nothing_changes() -> None:
    assert living(BOTH, silent=frozenset({"left", "right"})) == BOTH


def test_a_silent_link_that_leads_to_no_next_hop_does_not_matter() -> None:
    assert living(BOTH, silent=frozenset({"pod", "lo"})) is BOTH
