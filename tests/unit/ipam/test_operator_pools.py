"""Which pools may be drawn from: the queue of pools, its messages, its finalizers."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.blocks import IPAMBlock
from crds.meta import ObjectMeta
from crds.names import block_name
from crds.pools import ALLOCATABLE, POOL_FINALIZER, IPPool, IPPoolSpec
from crds.values import HandleID
from ipam.blocks import attributes_of, empty_block, render_block
from ipam.operator_actions import ReplaceStatus, SetFinalizers
from ipam.operator_blocks import BlockIndex, describe_users, facts_of, freed
from ipam.operator_conditions import Statement, with_condition
from ipam.pool_conditions import PoolVerdict, judge_pools
from ipam.pool_plan import plan_pools
from ipam.requests import IPNetwork

NOW = "2026-01-01T00:00:00Z"


def pool(name: str, cidr: str, *, made: str = "2026-01-01", **spec: object) -> IPPool:
    meta = ObjectMeta(name=name, creation_timestamp=f"{made}T00:00:00Z", resource_version="1")
    return IPPool(metadata=meta, spec=IPPoolSpec(cidr=cidr, **spec))  # type: ignore[arg-type]


def terminating(of: IPPool) -> IPPool:
    return msgspec.structs.replace(of, metadata=msgspec.structs.replace(of.metadata, deletion_timestamp=NOW))


def marked(of: IPPool) -> IPPool:
    meta = msgspec.structs.replace(of.metadata, finalizers=(POOL_FINALIZER,))
    return msgspec.structs.replace(of, metadata=meta)


def block(cidr: str, *, node: str = "n1", pods: int = 0) -> IPAMBlock:
    network: IPNetwork = ip_network(cidr)
    value = empty_block(network, affinity=f"host:{node}")
    for ordinal in range(pods):
        attributes = attributes_of({"namespace": "shop", "pod": f"web-{ordinal}", "node": node})
        value = value.take(ordinal, handle=HandleID(f"net.c{ordinal}"), attributes=attributes)
    return render_block(value, metadata=ObjectMeta(name=block_name(network), resource_version="1"))


def index(*blocks: IPAMBlock) -> BlockIndex:
    return BlockIndex(facts for b in blocks if (facts := facts_of(b)))


def told(pools: list[IPPool], verdicts: dict[str, PoolVerdict]) -> list[IPPool]:
    """The pools after the operator has written its verdicts."""
    after = []
    for p in pools:
        v = verdicts[p.name]
        said = Statement(type=ALLOCATABLE, holds=v.allocatable, reason=v.reason, message=v.message)
        after.append(with_condition(p, said, wall_stamp=NOW) or p)
    return after


def test_a_lone_pool_is_allocatable_and_gets_the_finalizer() -> None:
    verdict = judge_pools([pool("a", "10.0.0.0/16")], index())["a"]
    assert (verdict.allocatable, verdict.reason, verdict.wants_finalizer) == (True, "OK", True)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_the_list_does_not_matter(order: tuple[int, ...]) -> None:
    pools = [pool("a", "10.0.0.0/16", made="2026-01-02"), pool("b", "10.0.1.0/24"), pool("c", "10.1.0.0/16")]
    verdicts = judge_pools([pools[i] for i in order], index())
    assert {name: v.reason for name, v in verdicts.items()} == {"a": "CIDROverlap", "b": "OK", "c": "OK"}


def test_the_message_of_an_overlap_names_the_other_pool() -> None:
    verdicts = judge_pools([pool("a", "10.0.0.0/16"), pool("b", "10.0.1.0/24", made="2026-01-02")], index())
    assert verdicts["b"].message == "10.0.1.0/24 overlaps 10.0.0.0/16 of pool a"
    assert not verdicts["b"].wants_finalizer


def test_a_pool_that_works_is_never_pushed_aside_by_an_older_one() -> None:
    young = pool("young", "10.0.0.0/16", made="2026-01-09")
    working = told([young], judge_pools([young], index()))[0]
    verdicts = judge_pools([working, pool("old", "10.0.0.0/8", made="2026-01-01")], index())
    assert (verdicts["young"].reason, verdicts["old"].reason) == ("OK", "CIDROverlap")


def test_a_pool_being_deleted_keeps_its_range_until_it_is_gone() -> None:
    verdicts = judge_pools([terminating(pool("a", "10.0.0.0/16")), pool("b", "10.0.0.0/24")], index())
    assert verdicts["b"].reason == "CIDROverlap"
    assert verdicts["b"].message.endswith("of pool a, which is being deleted")
    assert judge_pools([pool("b", "10.0.0.0/24")], index())["b"].reason == "OK"


def test_a_disabled_pool_gives_way_unless_its_addresses_are_in_use() -> None:
    pools = [pool("a", "10.0.0.0/16", disabled=True), pool("b", "10.0.0.0/24", made="2026-01-02")]
    assert {n: v.reason for n, v in judge_pools(pools, index()).items()} == {"a": "PoolDisabled", "b": "OK"}
    verdicts = judge_pools(pools, index(block("10.0.9.0/26", pods=1)))
    assert verdicts["b"].message.endswith("of pool a, which is disabled but has blocks in use")
    assert verdicts["a"].wants_finalizer


def test_families_do_not_overlap() -> None:
    verdicts = judge_pools([pool("a", "10.0.0.0/8"), pool("b", "fd00::/48")], index())
    assert all(v.allocatable for v in verdicts.values())


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (pool("p", "10.0.0.1/16"), "spec.cidr: must be masked"),
        (pool("p", "ten"), "spec.cidr: "),
        (pool("p", "10.0.0.0/16", ipip_mode="Always"), "spec.ipipMode: Tortie does not encapsulate"),
        (pool("p", "10.0.0.0/16", node_selector="a ="), "spec.nodeSelector: "),
        (pool("p", "10.0.0.0/28", block_size=26), "spec.blockSize: "),
    ],
)
def test_a_bad_spec_names_the_field_and_blocks_nobody(bad: IPPool, field: str) -> None:
    verdicts = judge_pools([bad, pool("good", "10.0.0.0/8", made="2026-01-02")], index())
    assert verdicts["p"].reason == "InvalidSpec"
    assert verdicts["p"].message.startswith(field)
    assert verdicts["good"].allocatable


def test_deletion_says_who_still_uses_the_pool() -> None:
    verdict = judge_pools([terminating(pool("a", "10.0.0.0/16"))], index(block("10.0.0.0/26", pods=5)))["a"]
    assert verdict.message == (
        "deletion waits for 5 addresses in use: "
        "shop/web-0 (10.0.0.0), shop/web-1 (10.0.0.1), shop/web-2 (10.0.0.2) and 2 more"
    )
    assert verdict.wants_finalizer


def test_deletion_waits_for_empty_blocks_and_then_ends() -> None:
    going = terminating(marked(pool("a", "10.0.0.0/16")))
    verdicts = judge_pools([going], index(block("10.0.0.0/26")))
    assert "release of 10.0.0.0/26 of n1" in verdicts["a"].message
    assert not any(isinstance(a, SetFinalizers) for a in plan_pools({"a": going}, verdicts, wall_stamp=NOW))
    (action,) = plan_pools({"a": going}, judge_pools([going], index()), wall_stamp=NOW)
    assert isinstance(action, SetFinalizers)
    assert action.finalizers == ()


def test_the_finalizer_comes_before_the_condition() -> None:
    new = pool("a", "10.0.0.0/16")
    (first,) = plan_pools({"a": new}, judge_pools([new], index()), wall_stamp=NOW)
    assert isinstance(first, SetFinalizers)
    (second,) = plan_pools({"a": marked(new)}, judge_pools([marked(new)], index()), wall_stamp=NOW)
    assert isinstance(second, ReplaceStatus)


pools_drawn = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from([13, 14, 16, 24]),
        st.integers(1, 9),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
)


@given(pools_drawn, st.sets(st.integers(0, 7), max_size=4))
def test_allocatable_pools_never_overlap_and_a_second_look_changes_nothing(
    drawn: list[tuple[int, int, int, bool, bool, bool]], used: set[int]
) -> None:
    pools = []
    for i, (n, length, day, off, gone, mark) in enumerate(drawn):
        cidr = ip_network(f"10.{n}.0.0/{length}", strict=False)
        p = pool(f"p{i}", str(cidr), made=f"2026-01-0{day}", disabled=off)
        p = marked(p) if mark else p
        pools.append(terminating(p) if gone else p)
    blocks = index(*(block(f"10.{n}.0.0/26", pods=1) for n in used))
    verdicts = judge_pools(pools, blocks)
    taken = [v.cidr for v in verdicts.values() if v.allocatable and v.cidr]
    assert not any(a.overlaps(b) for i, a in enumerate(taken) for b in taken[i + 1 :])
    owned = [b.name for v in verdicts.values() for b in v.blocks]
    assert len(owned) == len(set(owned))
    again = judge_pools(told(pools, verdicts), blocks)
    assert again == verdicts


def test_freed_addresses_go_to_the_tail_and_raise_the_sequence() -> None:
    before = block("10.0.0.0/26", pods=3)
    after = freed(before, {0, 2})
    assert [o for o, index_ in enumerate(after.spec.allocations) if index_ is not None] == [1]
    assert after.spec.unallocated[-2:] == (0, 2)
    assert after.spec.sequence_number > before.spec.sequence_number
    assert len(after.spec.attributes) == 1


def test_users_are_described_by_name() -> None:
    facts = facts_of(block("10.0.0.0/26", pods=1))
    assert facts is not None
    assert describe_users(facts.users) == "1 address in use: shop/web-0 (10.0.0.0)"


def test_the_index_finds_the_same_blocks_as_a_plain_scan() -> None:
    blocks = [block(f"10.0.{i}.0/26") for i in range(8)] + [block("fd00::/122")]
    found = index(*blocks)
    for text in ("10.0.2.0/23", "10.0.0.0/16", "10.0.3.0/26", "10.0.3.0/27", "fd00::/64", "0.0.0.0/0"):
        cidr = ip_network(text)
        plain = [f for f in found.all() if f.cidr.version == cidr.version and f.cidr.subnet_of(cidr)]  # type: ignore[arg-type]
        assert list(found.inside(cidr)) == plain
