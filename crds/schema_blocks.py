"""Schemas of IPAMBlock, BlockAffinity and IPAMHandle: written by machines, so shapes are checked and no more."""

from crds.schema import choice, flag, items, number, record, table, text

_OWNER = table("Attributes of an owner: pod, namespace, node, timestamp.", text("A value."))

BLOCK = record(
    "A block of addresses and who has each.",
    {
        "cidr": text("The range; also the object's name."),
        "affinity": text("host:<node> or virtual:<name>.", pattern=r"^(host|virtual):[a-zA-Z0-9.\-_]+$"),
        "affinityClaimTime": text("When the block was claimed.", format="date-time"),
        "allocations": items(
            "For each address an index into attributes, or null when free.",
            number("An index.", nullable=True),
        ),
        "unallocated": items("Free addresses by ordinal, the next one to use first.", number("An ordinal.")),
        "attributes": items(
            "The owners of the addresses.",
            record(
                "One owner.",
                {
                    "handle_id": text("The handle by which the addresses are released."),
                    "secondary": _OWNER,
                    "alternateOwnerAttrs": _OWNER,
                    "releasedAt": text("When the address was freed and began to rest.", format="date-time"),
                },
            ),
        ),
        "sequenceNumber": number("Grows with each change of the block.", default=0),
        "sequenceNumberForAllocation": table(
            "By ordinal: sequenceNumber when the address was given out; a release with another number is refused.",
            number("A sequence number."),
        ),
        "deleted": flag("The block is being deleted."),
        "strictAffinity": flag("Not used.", default=False),
    },
    required=("cidr", "allocations", "unallocated", "attributes", "strictAffinity"),
)

AFFINITY = record(
    "A node's claim to a block.",
    {
        "cidr": text("The block."),
        "node": text("The node."),
        "state": choice("Only a confirmed claim may be used.", "", "confirmed", "pending", "pendingDeletion"),
        "type": choice("What node is: a host, or a name that stands for no host.", "", "host", "virtual"),
        "deleted": flag("The claim is being deleted.", default=False),
    },
    required=("cidr", "node", "state", "deleted"),
)

HANDLE = record(
    "How many addresses of which blocks belong to one owner.",
    {
        "handleID": text("The handle; the object's name is the same in lower case."),
        "block": table("Block (CIDR) to number of addresses.", number("Addresses.")),
        "deleted": flag("The handle is being deleted."),
    },
    required=("handleID", "block"),
)
