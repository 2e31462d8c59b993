"""Which allocations leaked: pure. Valid until proven leaked.

Theory. An allocation is in doubt when its pod is not on this node any more, or is finished, or says that it has other
addresses; a placeholder (an address that only the kernel knew) when the kernel no longer has it. Doubt twice in a row,
`AGE_S` after it was made, and a live read that agrees make a leak; it is freed by handle and sequence number, and only
when all addresses of its handle are in doubt. A handle object leaked when it counts only own blocks and nothing in
them is its own. Nothing is judged before every watch has listed once.

Called by node; `uses` also decides, in a merge, whether somebody else's release is accepted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from crds.blocks import IPAMHandle
from crds.core import Pod
from crds.values import HandleID
from ipam.holdings import Ledger
from ipam.journal import Row
from ipam.recovery import ADOPTED_PREFIX
from ipam.requests import IPAddress

AGE_S = 60.0
"""A younger allocation is never in doubt: its pod may be later in the watch than in the kernel."""

PodKey = tuple[str, str]
"""(namespace, name)"""


def uses(pod: Pod | None, address: IPAddress) -> bool:
    """Whether a pod may be using an address: it is there, not finished, and has that address or none yet."""
    if pod is None or pod.finished or pod.spec.host_network:
        return False
    return not pod.addresses or address in pod.addresses


def pod_of(row: Row) -> PodKey | None:
    """The pod a row names; None if it names none."""
    attributes = dict(row.attributes)
    if "pod" not in attributes or "namespace" not in attributes:
        return None
    return attributes["namespace"], attributes["pod"]


def doubtful(
    ledger: Ledger, pods: Mapping[PodKey, Pod], *, kernel: Collection[IPAddress] | None, now_s: float
) -> frozenset[Row]:
    """The rows in doubt now: all of a handle's or none. `kernel` None: unknown, so placeholders stand."""
    in_doubt: dict[HandleID, list[Row]] = {}
    sound: set[HandleID] = set()
    for row in ledger.held.values():
        if now_s >= row.at_s and now_s - row.at_s < AGE_S:
            sound.add(row.handle)
        elif _is_doubtful(row, pods, kernel):
            in_doubt.setdefault(row.handle, []).append(row)
        else:
            sound.add(row.handle)
    return frozenset(row for handle, rows in in_doubt.items() if handle not in sound for row in rows)


def _is_doubtful(row: Row, pods: Mapping[PodKey, Pod], kernel: Collection[IPAddress] | None) -> bool:
    key = pod_of(row)
    if key is not None:
        return not uses(pods.get(key), row.address)
    return row.handle.startswith(ADOPTED_PREFIX) and kernel is not None and row.address not in kernel


def orphan_handles(
    handles: Iterable[IPAMHandle], *, own_blocks: Collection[str], known: Collection[HandleID]
) -> tuple[IPAMHandle, ...]:
    """Handle objects that count addresses in own blocks only, and have none there."""
    return tuple(
        handle
        for handle in handles
        if handle.spec.block
        and HandleID(handle.spec.handle_id) not in known
        and set(handle.spec.block) <= set(own_blocks)
    )
