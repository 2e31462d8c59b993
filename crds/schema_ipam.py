"""Schemas of IPPool, IPReservation and IPAMConfiguration. Fields, limits and defaults: Calico's, native v3 CRDs."""

from crds.schema import Schema, choice, cidr, flag, items, number, record, rule, selector, text

_FAMILY_DEFAULT = "(self.cidr.contains(':') ? 122 : 26)"


def _block_size(of: str) -> str:
    """CEL for the effective block size: absent and 0 mean the family's default."""
    return f"(has({of}.blockSize) && {of}.blockSize != 0 ? {of}.blockSize : {_FAMILY_DEFAULT})"


def _uses_load_balancer(of: str) -> str:
    return f"(has({of}.allowedUses) && 'LoadBalancer' in {of}.allowedUses)"


def _never(field: str) -> Schema:
    # Not an enum: an enum's message would say only what is supported, not why.
    return text(
        "Encapsulation; Tortie routes and does not encapsulate, so only Never is allowed.",
        longest=32,
        rules=(rule("self == 'Never'", f"Tortie does not encapsulate: spec.{field} must be Never"),),
        default="Never",
    )


_POOL_CIDR = cidr(
    "The range of addresses. Cannot be changed.",
    field="spec.cidr",
    rules=(
        rule("self == oldSelf", "spec.cidr cannot be changed: make a new IPPool instead"),
        rule("cidr(self) == cidr(self).masked()", "spec.cidr must be masked: no bit set beyond its prefix length"),
        rule(
            "!(cidr(self).ip().family() == 4 && (cidr('169.254.0.0/16').containsCIDR(cidr(self))"
            " || cidr(self).containsCIDR('169.254.0.0/16')))",
            "spec.cidr must not overlap the link-local range 169.254.0.0/16",
        ),
        rule(
            "!(cidr(self).ip().family() == 6 && (cidr('fe80::/10').containsCIDR(cidr(self))"
            " || cidr(self).containsCIDR('fe80::/10')))",
            "spec.cidr must not overlap the link-local range fe80::/10",
        ),
    ),
)

_POOL_RULES = (
    rule(
        f"!isCIDR(self.cidr) || !isCIDR(oldSelf.cidr) || {_block_size('self')} == {_block_size('oldSelf')}",
        "spec.blockSize cannot be changed: make a new IPPool instead",
        at="blockSize",
    ),
    rule(
        "!has(self.blockSize) || self.blockSize == 0 || self.cidr.contains(':')"
        " || (self.blockSize >= 20 && self.blockSize <= 32)",
        "spec.blockSize must lie in 20..32 for IPv4",
        at="blockSize",
    ),
    rule(
        "!has(self.blockSize) || self.blockSize == 0 || !self.cidr.contains(':')"
        " || (self.blockSize >= 116 && self.blockSize <= 128)",
        "spec.blockSize must lie in 116..128 for IPv6",
        at="blockSize",
    ),
    rule(
        "(has(self.disabled) && self.disabled) || !isCIDR(self.cidr)"
        f" || cidr(self.cidr).prefixLength() <= {_block_size('self')}",
        "spec.blockSize must not be smaller than the prefix length of spec.cidr:"
        " a block (/26 for IPv4 and /122 for IPv6 when not set) must fit into the pool",
        at="blockSize",
    ),
    rule(
        f"!{_uses_load_balancer('self')} || !('Workload' in self.allowedUses || 'Tunnel' in self.allowedUses)",
        "spec.allowedUses must hold LoadBalancer alone or not at all",
        at="allowedUses",
    ),
    rule(
        f"!{_uses_load_balancer('oldSelf')} || {_uses_load_balancer('self')}",
        "spec.allowedUses of a LoadBalancer pool must keep LoadBalancer: make a new IPPool instead",
        at="allowedUses",
    ),
    rule(
        f"!{_uses_load_balancer('self')} || !has(self.disableBGPExport) || !self.disableBGPExport",
        "spec.disableBGPExport must be false when spec.allowedUses has LoadBalancer",
        at="disableBGPExport",
    ),
    rule(
        f"!{_uses_load_balancer('self')} || !has(self.nodeSelector) || self.nodeSelector == 'all()'",
        "spec.nodeSelector must be all() when spec.allowedUses has LoadBalancer",
        at="nodeSelector",
    ),
    rule(
        "!has(self.namespaceSelector) || self.namespaceSelector == ''"
        " || !has(self.allowedUses) || !('Tunnel' in self.allowedUses)",
        "spec.namespaceSelector must be empty when spec.allowedUses has Tunnel",
        at="namespaceSelector",
    ),
)

POOL = record(
    "A range of addresses for Pods, cut into blocks that nodes own.",
    {
        "cidr": _POOL_CIDR,
        "blockSize": number(
            "Prefix length of a block: 20..32 for IPv4 (default 26), 116..128 for IPv6 (default 122).", low=0, high=128
        ),
        "nodeSelector": selector("The nodes that may draw from it.", field="spec.nodeSelector", default="all()"),
        "namespaceSelector": selector(
            "The namespaces whose Pods may draw from it; empty means all.", field="spec.namespaceSelector"
        ),
        "allowedUses": items(
            "What its addresses may be used for; empty means Workload and Tunnel.",
            choice("One use.", "Workload", "Tunnel", "LoadBalancer"),
            most=10,
            kind="set",
        ),
        "assignmentMode": choice(
            "Manual: only for Pods that name this pool.", "Automatic", "Manual", default="Automatic"
        ),
        "disabled": flag("No new address is given out of it.", default=False),
        "disableBGPExport": flag("Its blocks are not announced.", default=False),
        "natOutgoing": flag("Pods' traffic to addresses in no pool leaves with the node's address.", default=False),
        "ipipMode": _never("ipipMode"),
        "vxlanMode": _never("vxlanMode"),
    },
    required=("cidr",),
    rules=_POOL_RULES,
)

RESERVATION = record(
    "Addresses that are never chosen automatically.",
    {
        "reservedCIDRs": items(
            "Ranges of addresses; one that is asked for by name is still given.",
            cidr("A range.", field="each of spec.reservedCIDRs"),
            most=1000,
            kind="set",
        )
    },
)

CONFIGURATION = record(
    "How addresses are given out.",
    {
        "strictAffinity": flag("No node takes addresses from another node's block.", default=False),
        "autoAllocateBlocks": flag("A node that needs a block takes one.", default=True),
        "maxBlocksPerHost": number("Blocks a node may own; 0 means 20.", low=0, high=1_000_000, default=0),
        "ipCooldownSeconds": number("How long a freed address rests before it is used again.", low=0, high=1200),
        "kubeVirtVMAddressPersistence": choice("Addresses of virtual machines outlive Pods.", "Enabled", "Disabled"),
    },
    required=("strictAffinity", "autoAllocateBlocks"),
    rules=(
        rule(
            "self.strictAffinity || self.autoAllocateBlocks",
            "spec.autoAllocateBlocks must be true unless spec.strictAffinity is true",
            at="autoAllocateBlocks",
        ),
        rule(
            "!has(self.maxBlocksPerHost) || self.maxBlocksPerHost == 0 || self.strictAffinity",
            "spec.maxBlocksPerHost must be 0 unless spec.strictAffinity is true",
            at="maxBlocksPerHost",
        ),
    ),
)
