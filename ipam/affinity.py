"""BlockAffinity objects of a node: how they are named, labelled and read. Pure; Calico's spelling.

A block is a node's when a BlockAffinity says so (state confirmed) and the IPAMBlock's affinity agrees. Names hold a
node's *name*, and a name may come back: an annotation says which Node object (uid) confirmed the claim, so that the
agent of a re-created Node re-confirms by compare-and-swap before it uses the block, and thereby meets whoever is
releasing it.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_network

import msgspec

from crds.blocks import (
    LABEL_AFFINITY_TYPE,
    LABEL_HOSTNAME_HASH,
    LABEL_IP_VERSION,
    BlockAffinity,
    BlockAffinitySpec,
)
from crds.meta import ObjectMeta
from crds.names import affinity_name, hostname_hash
from crds.values import NodeName
from ipam.requests import IPNetwork

NODE_UID = "tortie.dev/node-uid"
"""Annotation on a BlockAffinity: the uid of the Node that confirmed it."""


class State(Enum):
    """BlockAffinity.spec.state; "" is an old object's way to say confirmed."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    PENDING_DELETION = "pendingDeletion"


def host_affinity(node: NodeName) -> str:
    """IPAMBlock.spec.affinity of a node's block."""
    return f"host:{node}"


def make_affinity(node: NodeName, cidr: IPNetwork, *, state: State, uid: str) -> BlockAffinity:
    """A new BlockAffinity of this node."""
    return BlockAffinity(
        metadata=ObjectMeta(
            name=affinity_name(node, cidr),
            labels={
                LABEL_AFFINITY_TYPE: "host",
                LABEL_HOSTNAME_HASH: hostname_hash(node),
                LABEL_IP_VERSION: str(cidr.version),
            },
            annotations={NODE_UID: uid},
        ),
        spec=BlockAffinitySpec(cidr=str(cidr), node=node, state=state.value, type="host"),
    )


def with_state(affinity: BlockAffinity, state: State, *, uid: str) -> BlockAffinity:
    """The same affinity in another state, signed by this Node."""
    meta = msgspec.structs.replace(affinity.metadata, annotations={**affinity.metadata.annotations, NODE_UID: uid})
    spec = msgspec.structs.replace(affinity.spec, state=state.value, type="host")
    return msgspec.structs.replace(affinity, metadata=meta, spec=spec)


def is_of(affinity: BlockAffinity, node: NodeName) -> bool:
    """Whether it is this node's; one that is marked deleted is nobody's."""
    spec = affinity.spec
    return spec.node == node and spec.type in ("", "host") and not spec.deleted


def state_of(affinity: BlockAffinity) -> State:
    """The state; anything unknown counts as pending: not to be used, to be looked into."""
    if not affinity.spec.state:
        return State.CONFIRMED
    try:
        return State(affinity.spec.state)
    except ValueError:
        return State.PENDING


def is_confirmed(affinity: BlockAffinity | None, *, node: NodeName, uid: str) -> bool:
    """Whether this very Node may use the block."""
    return (
        affinity is not None
        and is_of(affinity, node)
        and state_of(affinity) is State.CONFIRMED
        and affinity.metadata.annotations.get(NODE_UID) == uid
    )


def cidr_of(affinity: BlockAffinity) -> IPNetwork | None:
    """The block it speaks of; None if unreadable."""
    try:
        return ip_network(affinity.spec.cidr)
    except ValueError:
        return None
