"""How a start finds out what is in use: an address is free only if journal, API and kernel all say so.

Theory. Two cases. A trusted journal is the truth: its rows are laid over the API's blocks (`overlay`), and what the API
or the kernel shows beyond them is added. A doubtful one (lost, corrupt, an older copy) is rebuilt: first come the API's
allocations of this node, then, for addresses that only the kernel shows, the owner that the old journal or a Pod names,
and at last a placeholder. Old rows that neither API nor kernel knows are dropped; old tombstones too, for a number from
an older journal proves nothing. Too much may be held for a while (leaks.py collects), nothing is given twice.

The functions change only the ledger (hence the journal's open transaction); the caller commits before the first ADD.
Called by node (recover) and claims (when a block comes or comes back).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from crds.core import Pod
from crds.values import HandleID, NodeName
from ipam.blocks import Allocation, Block, Cooling, attributes_of
from ipam.holdings import Ledger
from ipam.journal import Row, RowState
from ipam.requests import IPAddress

ADOPTED_PREFIX = "adopted."
"""Handle of an address that the kernel shows and nobody explains: "adopted.<address in hex>"."""
CONTAINER_ID = "cni.projectcalico.org/containerID"
"""Pod annotation that names the container, hence the handle, of a running pod."""


def overlay(block: Block, ledger: Ledger, *, now_s: float) -> Block:
    """The block as it should be: the API's view with this node's own rows laid over it."""
    for ordinal, entry in block.allocations().items():
        key = (block.address(ordinal), entry.handle)
        freed = ledger.freed.get(key)
        if freed is not None and freed.sequence == entry.sequence:
            block = block.put(ordinal, Cooling(int(min(freed.at_s, now_s)), block.sequence + 1))
    for address, row in ledger.held.items():
        if address.version != block.cidr.version or address not in block.cidr:
            continue
        ordinal = block.ordinal(address)
        held = block.entries.get(ordinal)
        if isinstance(held, Allocation) and (held.handle, held.sequence) == (row.handle, row.sequence):
            continue
        block = block.put(ordinal, Allocation(row.handle, row.attributes, row.sequence))
    return block


def adopt_rows(block: Block, ledger: Ledger, *, node: NodeName, now_s: float) -> None:
    """Take into the ledger what the API block says is this node's and the ledger does not know."""
    for ordinal, entry in block.allocations().items():
        address = block.address(ordinal)
        freed = ledger.freed.get((address, entry.handle))
        if address in ledger.held or (freed is not None and freed.sequence == entry.sequence):
            continue
        if dict(entry.attributes).get("node", node) == node:
            ledger.put(Row(address, entry.handle, entry.attributes, entry.sequence, RowState.HELD, now_s))


def rebuild(
    ledger: Ledger,
    blocks: Iterable[Block],
    *,
    kernel: Collection[IPAddress],
    node: NodeName,
    now_s: float,
) -> None:
    """Make a doubtful journal true: API first, old rows only where the kernel bears them out."""
    old = dict(ledger.held)
    for row in [*ledger.held.values(), *ledger.freed.values()]:
        ledger.drop(row)
    for block in blocks:
        adopt_rows(block, ledger, node=node, now_s=now_s)
    for address, row in old.items():
        if address in kernel and address not in ledger.held:
            ledger.put(row)


def adopt_kernel(
    ledger: Ledger,
    *,
    kernel: Mapping[IPAddress, str],
    handles: Mapping[IPAddress, HandleID],
    pods: Iterable[Pod],
    node: NodeName,
    network: str,
    now_s: float,
) -> tuple[IPAddress, ...]:
    """Take into the ledger the addresses that the kernel has on pod interfaces and nobody else knows of, or knows as
    another's than the interface itself (`handles`) says."""
    owners = {address: pod for pod in pods for address in pod.addresses}
    freed = {row.address: row for row in sorted(ledger.freed.values(), key=lambda row: row.at_s)}
    found = []
    for address in kernel:
        held, named = ledger.held.get(address), handles.get(address)
        if held is not None and (named is None or named == held.handle):
            continue
        found.append(address)
        if held is not None:  # an interface that is there is better evidence than any record
            ledger.drop(held)
        if address in freed and named in (
            None,
            freed[address].handle,
        ):
            # A DEL that was cut short: it will be repeated and must find its handle.
            ledger.put(replace(freed[address], state=RowState.HELD))
            continue
        pod = owners.get(address)
        attributes = {"node": str(node)}
        handle = HandleID(f"{ADOPTED_PREFIX}{int(address):x}")
        if pod is not None:
            attributes |= {"pod": pod.metadata.name, "namespace": pod.metadata.namespace}
            if container := pod.metadata.annotations.get(CONTAINER_ID):
                handle = HandleID(f"{network}.{container}")
        ledger.put(Row(address, named or handle, attributes_of(attributes), 0, RowState.HELD, now_s))
    return tuple(found)
