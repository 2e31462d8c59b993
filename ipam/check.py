"""`ipam check`: is what the API server holds about addresses consistent? Pure; Calico's checks and two of our own.

Theory. The objects say the same thing several times (a block's allocations, handles' counts, affinities, pods'
addresses), so each contradiction is a sentence. Nothing is repaired here: agents and operator do that, and a cluster
whose agents have been connected for two seconds shows no problem.

Called by tortiectl and by the tests as their oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import pairwise

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Pod
from crds.errors import BadObject
from crds.pools import IPPool
from ipam.blocks import Allocation, Block, Cooling, parse_block, parse_time
from ipam.requests import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One contradiction: on which object, and what."""

    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"


def check(
    *,
    pools: Iterable[IPPool],
    blocks: Iterable[IPAMBlock],
    affinities: Iterable[BlockAffinity],
    handles: Iterable[IPAMHandle],
    pods: Iterable[Pod],
    now_s: float,
) -> tuple[Problem, ...]:
    """Everything that is wrong."""
    wires = [wire for wire in blocks if not wire.spec.deleted]
    problems = [problem for wire in wires for problem in _wire_problems(wire, now_s=now_s)]
    parsed = {wire.metadata.name: block for wire in wires if (block := _parsed(wire)) is not None}
    kept = [affinity for affinity in affinities if not affinity.spec.deleted]
    problems += _affinity_problems(parsed, kept)
    problems += _overlaps(parsed)
    problems += _pool_problems(parsed, pools)
    problems += _handle_problems(parsed, list(handles))
    problems += _pod_problems(parsed, list(pods))
    return tuple(problems)


def _parsed(wire: IPAMBlock) -> Block | None:
    try:
        return parse_block(wire)
    except BadObject:
        return None


def _wire_problems(wire: IPAMBlock, *, now_s: float) -> Iterator[Problem]:
    def problem(what: str) -> Problem:
        return Problem(kind="IPAMBlock", name=wire.metadata.name, what=what)

    spec = wire.spec
    try:
        size = ip_network(spec.cidr).num_addresses
    except ValueError as error:
        yield problem(f"spec.cidr: {error}")
        return
    if len(spec.allocations) != size:
        yield problem(f"has {len(spec.allocations)} allocations for {size} addresses")
        return
    held = {ordinal: index for ordinal, index in enumerate(spec.allocations) if index is not None}
    for ordinal, index in held.items():
        if not 0 <= index < len(spec.attributes):
            yield problem(f"ordinal {ordinal} refers to attribute {index} of {len(spec.attributes)}")
    if unused := set(range(len(spec.attributes))) - set(held.values()):
        yield problem(f"attributes {sorted(unused)} are used by no address")
    if len(set(spec.unallocated)) != len(spec.unallocated):
        yield problem("an ordinal is in unallocated twice")
    if any(not 0 <= ordinal < size for ordinal in spec.unallocated):
        yield problem("unallocated names an ordinal outside the block")
    if both := set(spec.unallocated) & set(held):
        yield problem(f"ordinals {sorted(both)} are allocated and unallocated")
    if len(set(spec.unallocated)) + len(held) != size:
        yield problem(f"{len(held)} allocated and {len(set(spec.unallocated))} unallocated do not add up to {size}")
    if any(a.released_at and parse_time(a.released_at) > now_s + 1 for a in spec.attributes):
        yield problem("releasedAt lies in the future")


def _affinity_problems(blocks: dict[str, Block], affinities: list[BlockAffinity]) -> Iterator[Problem]:
    confirmed: Counter[str] = Counter()
    owners = {str(block.cidr): block.affinity for block in blocks.values()}
    for affinity in affinities:
        spec = affinity.spec
        me = f"{spec.type or 'host'}:{spec.node}"
        if spec.state in ("", "confirmed"):
            confirmed[spec.cidr] += 1
            if spec.cidr not in owners:
                yield Problem(kind="BlockAffinity", name=affinity.metadata.name, what="is confirmed without a block")
            elif owners[spec.cidr] != me:
                what = f"is confirmed, but the block's affinity is {owners[spec.cidr] or 'none'}"
                yield Problem(kind="BlockAffinity", name=affinity.metadata.name, what=what)
        else:
            yield Problem(kind="BlockAffinity", name=affinity.metadata.name, what=f"is in state {spec.state}")
    for name, block in blocks.items():
        if block.affinity and not confirmed[str(block.cidr)]:
            yield Problem(
                kind="IPAMBlock", name=name, what=f"has affinity {block.affinity}, but no confirmed BlockAffinity"
            )
        if confirmed[str(block.cidr)] > 1:
            yield Problem(kind="IPAMBlock", name=name, what="has several confirmed BlockAffinities")


def _overlaps(blocks: dict[str, Block]) -> Iterator[Problem]:
    ordered = sorted(blocks.items(), key=lambda item: (item[1].cidr.version, int(item[1].cidr.network_address)))
    for (_, before), (name, block) in pairwise(ordered):
        if before.cidr.version == block.cidr.version and before.cidr.overlaps(block.cidr):
            yield Problem(kind="IPAMBlock", name=name, what=f"overlaps {before.cidr}")


def _pool_problems(blocks: dict[str, Block], pools: Iterable[IPPool]) -> Iterator[Problem]:
    ranges: list[IPNetwork] = []
    for pool in pools:
        try:
            ranges.append(ip_network(pool.spec.cidr))
        except ValueError:
            continue
    for name, block in blocks.items():
        if not any(
            net.version == block.cidr.version
            and net.prefixlen <= block.cidr.prefixlen
            and block.cidr.network_address in net
            for net in ranges
        ):
            yield Problem(kind="IPAMBlock", name=name, what="lies in no IPPool")


def _handle_problems(blocks: dict[str, Block], handles: list[IPAMHandle]) -> Iterator[Problem]:
    counts: Counter[tuple[str, str]] = Counter()
    for block in blocks.values():
        for entry in block.allocations().values():
            counts[(entry.handle, str(block.cidr))] += 1
    said = {(h.spec.handle_id, cidr): n for h in handles if not h.spec.deleted for cidr, n in h.spec.block.items()}
    for (handle, cidr), count in counts.items():
        if said.get((handle, cidr), 0) < count:
            what = f"counts {said.get((handle, cidr), 0)} in {cidr}, which holds {count} of its addresses"
            yield Problem(kind="IPAMHandle", name=handle or "(none)", what=what)
    for wire in handles:
        if not any(counts[(wire.spec.handle_id, cidr)] for cidr in wire.spec.block):
            yield Problem(kind="IPAMHandle", name=wire.metadata.name, what="has no address")


def _pod_problems(blocks: dict[str, Block], pods: list[Pod]) -> Iterator[Problem]:
    users: dict[IPAddress, list[str]] = {}
    for pod in pods:
        for address in pod.addresses:
            users.setdefault(address, []).append(pod.key())
    for address, names in users.items():
        if len(names) > 1:
            yield Problem(kind="Pod", name=names[0], what=f"shares {address} with {', '.join(names[1:])}")
        state = next((_entry(block, address) for block in blocks.values() if _holds(block, address)), "none")
        if not isinstance(state, Allocation):
            how = "is cooling down" if isinstance(state, Cooling) else "is not allocated"
            yield Problem(kind="Pod", name=names[0], what=f"uses {address}, which {how}")
    alive = {pod.key() for pod in pods if not pod.finished}
    for name, block in blocks.items():
        for ordinal, entry in block.allocations().items():
            attributes = dict(entry.attributes)
            if "pod" in attributes and f"{attributes.get('namespace', '')}/{attributes['pod']}" not in alive:
                what = f"{block.address(ordinal)} is allocated to pod {attributes['pod']}, which is gone"
                yield Problem(kind="IPAMBlock", name=name, what=what)


def _holds(block: Block, address: IPAddress) -> bool:
    return block.cidr.version == address.version and address in block.cidr


def _entry(block: Block, address: IPAddress) -> object:
    return block.entries.get(block.ordinal(address))
