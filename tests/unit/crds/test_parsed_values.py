"""Values parsed at the border: what is right becomes a value, what is wrong says which field and what is allowed."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from crds.errors import AlreadyExists, ApiError, BadObject, Conflict, Gone, Invalid, NotFound, api_error
from crds.meta import Condition, ObjectMeta, Status
from crds.names import affinity_name, block_name, handle_name, hostname_hash
from crds.pools import IPPool, IPPoolSpec, IPReservation, IPReservationSpec
from crds.values import parse_duration, parse_network, parse_pool, parse_reservation


def pool(status: Status | None = None, deletion_timestamp: str = "", **spec: Any) -> IPPool:
    meta = ObjectMeta(name="p", deletion_timestamp=deletion_timestamp)
    return IPPool(metadata=meta, spec=IPPoolSpec(**{"cidr": "10.0.0.0/16"} | spec), status=status)


def test_a_plain_pool_has_calicos_defaults() -> None:
    parsed = parse_pool(pool())
    assert parsed.cidr == ip_network("10.0.0.0/16")
    assert parsed.block_len == 26
    assert parse_pool(pool(cidr="fd00::/64", block_size=0)).block_len == 122
    assert parsed.allowed_uses == {"Workload", "Tunnel"}
    assert parsed.namespace_selector is None
    assert parsed.automatic
    assert parsed.bgp_export
    assert parsed.usable


def test_a_pool_is_usable_unless_something_says_no() -> None:
    no = Status(conditions=(Condition(type="Allocatable", status="False", reason="CIDROverlap"),))
    assert not parse_pool(pool(status=no)).usable
    assert not parse_pool(pool(disabled=True)).usable
    assert not parse_pool(pool(deletion_timestamp="2026-01-01T00:00:00Z")).usable
    unknown = Status(conditions=(Condition(type="Allocatable", status="Unknown"),))
    assert parse_pool(pool(status=unknown)).usable


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"cidr": "10.0.0.1/16"}, "spec.cidr: must be masked: 10.0.0.0/16 instead of '10.0.0.1/16'"),
        ({"cidr": "ten"}, "spec.cidr: must be a CIDR such as 10.1.0.0/16 or fd00:1::/48, is 'ten'"),
        ({"cidr": "10.0.0.1"}, "spec.cidr: must have a prefix length such as 10.0.0.1/32, is '10.0.0.1'"),
        ({"cidr": "169.254.1.0/24"}, "spec.cidr: must not overlap the link-local range 169.254.0.0/16"),
        ({"cidr": "fe80::/10"}, "spec.cidr: must not overlap the link-local range fe80::/10"),
        ({"block_size": 33}, "spec.blockSize: must lie in 20..32 for IPv4, is 33"),
        ({"cidr": "fd00::/64", "block_size": 64}, "spec.blockSize: must lie in 116..128 for IPv6, is 64"),
        ({"cidr": "10.0.0.0/28"}, "spec.blockSize: must lie in 28..32 so that a block fits 10.0.0.0/28, is 26"),
        ({"ipip_mode": "Always"}, "spec.ipipMode: Tortie does not encapsulate: must be Never, is 'Always'"),
        ({"vxlan_mode": "CrossSubnet"}, "spec.vxlanMode: Tortie does not encapsulate: must be Never"),
        ({"assignment_mode": "Maybe"}, "spec.assignmentMode: must be Automatic or Manual, is 'Maybe'"),
        ({"node_selector": "a ="}, "spec.nodeSelector: unexpected character '=' at character 3 of 'a ='"),
        ({"namespace_selector": "("}, "spec.namespaceSelector: expected a label"),
        ({"allowed_uses": ("Pods",)}, "spec.allowedUses: must be of LoadBalancer, Tunnel, Workload, has Pods"),
        ({"allowed_uses": ("LoadBalancer", "Tunnel")}, "spec.allowedUses: must hold LoadBalancer alone"),
    ],
)
def test_a_wrong_pool_says_which_field_and_what_is_allowed(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(BadObject) as refusal:
        parse_pool(pool(**spec))
    assert str(refusal.value).startswith(message)


def test_a_small_pool_that_is_disabled_is_fine() -> None:
    assert parse_pool(pool(cidr="10.0.0.0/30", disabled=True)).block_len == 26


def test_reservations_are_masked_and_errors_numbered() -> None:
    spec = IPReservationSpec(reserved_cidrs=("10.0.0.1/24", "10.1.0.1"))
    assert parse_reservation(IPReservation(spec=spec)) == (ip_network("10.0.0.0/24"), ip_network("10.1.0.1/32"))
    with pytest.raises(BadObject, match=r"spec\.reservedCIDRs\[1\]"):
        parse_reservation(IPReservation(spec=IPReservationSpec(reserved_cidrs=("10.0.0.0/8", "x"))))


@pytest.mark.parametrize(("text", "seconds"), [("120s", 120), ("1m30s", 90), ("0", 0), ("1.5h", 5400), ("10ms", 0.01)])
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert parse_duration(text, field="f") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "120", "-1s", "1s ", "soon", "s"])
def test_a_wrong_duration_is_refused(text: str) -> None:
    with pytest.raises(BadObject, match="must be a duration such as 120s or 1m30s"):
        parse_duration(text, field="f")


def test_a_network_with_zone_or_newline_is_refused() -> None:
    for text in ("10.0.0.0/8\n", "fe80::%eth0/64", " 10.0.0.0/8"):
        with pytest.raises(BadObject):
            parse_network(text, field="f")


def test_names_follow_from_content() -> None:
    assert block_name("10.0.0.0/26") == "10-0-0-0-26"
    assert block_name(ip_network("fd00:10:244::/122")) == "fd00-10-244---122"
    assert affinity_name("node1", "10.0.0.0/26") == "node1-10-0-0-0-26"
    assert handle_name("Tortie.ABC") == "tortie.abc"


def test_the_longest_node_name_still_makes_a_name() -> None:
    first = affinity_name("n" * 253, "fd00:1111:2222:3333:4444:5555:6666:0/122")
    second = affinity_name("n" * 253, "fd00:1111:2222:3333:4444:5555:6666:40/122")
    assert len(first) == len(second) == 253
    assert first != second


def test_a_hostname_hash_fits_a_label() -> None:
    assert len(hostname_hash("n" * 253)) <= 63
    assert hostname_hash("a") != hostname_hash("b")


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (500, "Expired", Gone),
        (503, "", ApiError),
    ],
)
def test_a_refusal_becomes_its_exception(status: int, reason: str, kind: type[ApiError]) -> None:
    error = api_error(status, reason=reason, message="why")
    assert type(error) is kind
    assert (error.status, error.message) == (status, "why")


def test_a_problem_can_be_seen_from_outside() -> None:
    assert str(BadObject("blockSize", "is odd").under("spec")) == "spec.blockSize: is odd"
