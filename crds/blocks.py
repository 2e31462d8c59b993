"""IPAMBlock, BlockAffinity, IPAMHandle: who owns which address. Written by agents and operator, read by everybody.

Calico: `api/pkg/apis/projectcalico/v3/{ipamblock,blockaffinity,ipamhandle}.go`. An ordinal is an address's offset in
its block. `allocations[ordinal]` is an index into `attributes`, or None when free; `unallocated` is a FIFO of free
ordinals, head first. The arithmetic on these lives in `ipam`, not here.
"""

from typing import ClassVar

import msgspec

from crds.meta import CalicoResource, Status, Wire

LABEL_HOSTNAME_HASH = "projectcalico.org/hostname-hash"
LABEL_AFFINITY_TYPE = "projectcalico.org/affinity-type"
LABEL_IP_VERSION = "projectcalico.org/ip-version"


class AllocationAttribute(Wire, frozen=True, kw_only=True):
    """Whose an address is. Identical owners within a block share one entry."""

    handle_id: str | None = msgspec.field(default=None, name="handle_id")  # Calico's one snake_case name
    secondary: dict[str, str] = msgspec.field(default_factory=dict)
    """pod, namespace, node, timestamp: the active owner."""
    alternate_owner_attrs: dict[str, str] = msgspec.field(default_factory=dict)
    released_at: str | None = None
    """RFC 3339; set while a freed address waits out its cool-down."""


class IPAMBlockSpec(Wire, frozen=True, kw_only=True):
    cidr: str
    affinity: str | None = None
    """`host:<node>` or `virtual:<name>`; None when no one owns the block."""
    affinity_claim_time: str | None = None
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[AllocationAttribute, ...]
    sequence_number: int = 0
    sequence_number_for_allocation: dict[str, int] = msgspec.field(default_factory=dict)
    """By ordinal as decimal text; a late release with an older number must not free a reused address."""
    deleted: bool = False
    strict_affinity: bool = False
    """Unused since long; the schema wants it."""


class IPAMBlock(CalicoResource, frozen=True, kw_only=True):
    """Named by its CIDR: `crds.names.block_name`."""

    kind: ClassVar[str] = "IPAMBlock"
    plural: ClassVar[str] = "ipamblocks"

    spec: IPAMBlockSpec
    status: Status | None = None


class BlockAffinitySpec(Wire, frozen=True, kw_only=True):
    cidr: str
    node: str
    state: str = ""
    """"" (an old object: confirmed), pending, confirmed or pendingDeletion. Only a confirmed one may be used."""
    type: str = ""
    """host (also when empty) or virtual."""
    deleted: bool = False


class BlockAffinity(CalicoResource, frozen=True, kw_only=True):
    """Named by node and CIDR: `crds.names.affinity_name`."""

    kind: ClassVar[str] = "BlockAffinity"
    plural: ClassVar[str] = "blockaffinities"

    spec: BlockAffinitySpec
    status: Status | None = None


class IPAMHandleSpec(Wire, frozen=True, kw_only=True):
    handle_id: str
    block: dict[str, int]
    """How many addresses this handle has in each block (by CIDR). Over-counts are tolerated, under-counts leak."""
    deleted: bool = False


class IPAMHandle(CalicoResource, frozen=True, kw_only=True):
    """Named by the handle in lower case: `crds.names.handle_name`."""

    kind: ClassVar[str] = "IPAMHandle"
    plural: ClassVar[str] = "ipamhandles"

    spec: IPAMHandleSpec
    status: Status | None = None
