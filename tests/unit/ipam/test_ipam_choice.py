"""Which address a pod gets: each rule of the choice as a case."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.pools import IPPool
from crds.values import NodeName, parse_pool
from ipam.blocks import Block, empty_block
from ipam.choice import Choice, ClaimBlock, Settings, Site, UseBlock, candidates, choose
from ipam.requests import AssignRequest, Exhausted, IPNetwork
from tests.unit.ipam.ipam_rig import addresses, pool, request

N1 = NodeName("n1")


def site(*pools: IPPool, owned: tuple[Block, ...] = (), taken: tuple[str, ...] = (), **fields: Any) -> Site:
    gone = {ip_network(text) for text in taken} | {block.cidr for block in owned}
    settings = Settings(**fields.pop("settings", {}))
    return Site(
        **{
            "node": N1,
            "node_labels": {"rack": "1"},
            "pools": tuple(parse_pool(p) for p in pools),
            "reservations": (),
            "settings": settings,
            "owned": owned,
            "is_taken": gone.__contains__,
            **fields,
        }
    )


def own(cidr: str, *, used: int = 0) -> Block:
    block = empty_block(ip_network(cidr), affinity="host:n1")
    for ordinal in range(used):
        block = block.take(ordinal, handle=request("x").handle, attributes=())
    return block


def ask(at: Site, *, family: int = 4, **fields: Any) -> Choice:
    return choose(request("web", **fields), family=family, site=at)


def test_an_own_block_with_room_is_used() -> None:
    block = own("10.1.0.8/29", used=2)
    assert ask(site(pool(), owned=(own("10.1.0.0/29", used=8), block))) == UseBlock(block, 2)


def test_a_full_node_claims_a_block_that_nobody_has() -> None:
    tiny = pool(cidr="10.1.0.0/28", block_size=29)
    answer = ask(site(tiny, owned=(own("10.1.0.0/29", used=8),)))
    assert isinstance(answer, ClaimBlock)
    assert str(answer.cidr) == "10.1.0.8/29"


@pytest.mark.parametrize(
    "change",
    [
        {"disabled": True},
        {"allowed_uses": ("LoadBalancer",)},
        {"allowed_uses": ("Tunnel",)},
        {"assignment_mode": "Manual"},
        {"node_selector": "rack == '2'"},
        {"namespace_selector": "team == 'red'"},
        {"cidr": "fd00::/64", "block_size": 122},
    ],
)
def test_a_pool_that_does_not_qualify_gives_nothing(change: dict[str, Any]) -> None:
    answer = ask(site(pool(**change)))
    assert isinstance(answer, Exhausted)
    assert "no enabled IPv4 IPPool selects node n1 and namespace default" in answer.why


def test_the_namespace_selector_looks_at_the_namespace() -> None:
    red = site(pool(namespace_selector="team == 'red'"))
    assert isinstance(ask(red, namespace_labels={"team": "red"}), ClaimBlock)


@pytest.mark.parametrize("name", ["pool-a", "10.1.0.0/24"])
def test_a_pool_asked_for_by_name_or_range_ignores_selectors_and_mode(name: str) -> None:
    manual = site(pool(assignment_mode="Manual", node_selector="rack == '2'"))
    assert isinstance(ask(manual, pools_v4=(name,)), ClaimBlock)


def test_a_pool_asked_for_that_is_disabled_or_unknown_is_an_error_that_names_it() -> None:
    answer = ask(site(pool(disabled=True)), pools_v4=("pool-a",))
    assert isinstance(answer, Exhausted)
    assert "pool-a does not exist, is disabled or is not for IPv4 pods" in answer.why


def test_reserved_addresses_are_not_chosen_and_reserved_blocks_not_claimed() -> None:
    block = own("10.1.0.0/29")
    reserved = (ip_network("10.1.0.0/30"), ip_network("10.1.0.8/29"))
    two_blocks = pool(cidr="10.1.0.0/28")
    assert ask(site(two_blocks, owned=(block,), reservations=reserved)) == UseBlock(block, 4)
    assert isinstance(ask(site(two_blocks, owned=(own("10.1.0.0/29", used=8),), reservations=reserved)), Exhausted)


def test_the_limit_of_blocks_is_said() -> None:
    answer = ask(site(pool(), owned=(own("10.1.0.0/29", used=8),), settings={"max_blocks": 1}))
    assert isinstance(answer, Exhausted)
    assert answer.why == (
        "node n1 owns 1 IPv4 blocks, as many as maxBlocksPerHost allows, and none of IPPools pool-a has room"
    )


def test_the_limit_of_blocks_does_not_call_another_pools_block_full() -> None:
    answer = ask(site(pool(), owned=(own("10.9.0.0/29"),), settings={"max_blocks": 1}))
    assert isinstance(answer, Exhausted)
    assert "none of IPPools pool-a has room" in answer.why
    assert "full" not in answer.why


def test_no_block_is_claimed_when_auto_allocation_is_off() -> None:
    answer = ask(site(pool(), settings={"auto_allocate": False}))
    assert isinstance(answer, Exhausted)
    assert "autoAllocateBlocks is false" in answer.why


def test_a_pool_without_a_free_block_is_exhausted() -> None:
    answer = ask(site(pool(cidr="10.1.0.0/29"), taken=("10.1.0.0/29",)))
    assert isinstance(answer, Exhausted)
    assert answer.why == "IPPools pool-a have no free address: every block is taken by a node and full"


def test_a_fixed_address_comes_from_its_own_block_even_if_reserved() -> None:
    block = own("10.1.0.0/29")
    at = site(pool(assignment_mode="Manual"), owned=(block,), reservations=(ip_network("10.1.0.0/24"),))
    assert ask(at, addresses=addresses("10.1.0.5")) == UseBlock(block, 5)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.1.0.0", "is in use"),
        ("10.1.0.9", "which is not node n1's"),
        ("10.9.0.1", "no enabled IPPool contains the requested address 10.9.0.1"),
    ],
)
def test_a_fixed_address_that_cannot_be_had_is_refused_with_the_reason(address: str, why: str) -> None:
    at = site(pool(), owned=(own("10.1.0.0/29", used=1),), taken=("10.1.0.8/29",))
    answer = ask(at, addresses=addresses(address))
    assert isinstance(answer, Exhausted)
    assert why in answer.why


def test_a_fixed_address_in_a_free_block_claims_that_block() -> None:
    answer = ask(site(pool()), addresses=addresses("10.1.0.77"))
    assert isinstance(answer, ClaimBlock)
    assert str(answer.cidr) == "10.1.0.72/29"


def test_families_are_chosen_apart() -> None:
    both = site(pool(), pool("six", cidr="fd00::/64", block_size=122))
    dual = AssignRequest(handle=request("x").handle, namespace="default", pod="x", families=(4, 6))
    assert choose(dual, family=6, site=both).cidr.version == 6  # type: ignore[union-attr]


@given(node=st.text("abc123", min_size=1), bits=st.integers(0, 6))
def test_candidates_visit_each_block_of_a_pool_once(node: str, bits: int) -> None:
    small = parse_pool(pool(cidr=f"10.1.0.0/{29 - bits}" if bits < 7 else "10.1.0.0/23"))
    seen: list[IPNetwork] = list(candidates(small, node=NodeName(node)))
    assert len(seen) == len(set(seen)) == 2**bits
    assert all(cidr.subnet_of(small.cidr) for cidr in seen)  # type: ignore[arg-type]


def test_nodes_rarely_reach_for_the_same_block() -> None:
    big = parse_pool(pool(cidr="10.0.0.0/12", block_size=26))
    firsts = [next(candidates(big, node=NodeName(f"node-{i}"))) for i in range(100)]
    assert len(set(firsts)) >= 98


def test_an_endless_ipv6_pool_is_walked_lazily() -> None:
    huge = parse_pool(pool(cidr="fd00::/48", block_size=122))
    assert next(candidates(huge, node=N1)).prefixlen == 122
