"""One nftables rule: IPv6 neighbour discovery from pods is dropped before the host looks at it.

Theory: the host needs to discover nothing on a pod's link, both ends have permanent neighbours. For IPv4 the NOARP flag
makes the kernel ignore ARP; IPv6 has no such flag for what comes in, and each forged router solicitation or
advertisement would make a neighbour entry (ndisc_router_discovery does so even with accept_ra=0), until the node's
table is full for everybody. The rule covers types 133 to 137: solicitations, advertisements and redirects.

The table is ours alone (family ip6, name in felix.kernel.names), replaced in one transaction: idempotent, and never
absent in between. Installed at the agent's start; stays while the agent is down.
Source: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct

from felix.kernel.names import GUARD_TABLE, POD_PREFIX
from felix.kernel.nfnl import F_ACK, NetfilterSocket, message
from felix.kernel.rawnl import F_CREATE, NESTED, attr

_NFPROTO_IPV6 = 10
_NFT = 10 << 8
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = _NFT, _NFT | 2, _NFT | 3, _NFT | 6
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_REG = 1
_PRIORITY_RAW = -300
_FIRST_TYPE, _LAST_TYPE = 133, 137
_IPPROTO_ICMPV6 = 58
_META_IIFNAME, _META_L4PROTO = 6, 16
_EQ, _LTE, _GTE = 0, 3, 5
_NF_DROP = 0


def _be32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">i", value))


def _nest(kind: int, body: bytes) -> bytes:
    return attr(kind | NESTED, body)


def _name(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def _expression(name: str, body: bytes) -> bytes:
    return _nest(1, _name(1, name) + _nest(2, body))  # NFTA_LIST_ELEM{NFTA_EXPR_NAME, NFTA_EXPR_DATA}


def _meta(key: int) -> bytes:
    return _expression("meta", _be32(2, key) + _be32(1, _REG))


def _compare(operator: int, value: bytes) -> bytes:
    return _expression("cmp", _be32(1, _REG) + _be32(2, operator) + _nest(3, attr(1, value)))


def _payload_byte(*, base: int, offset: int) -> bytes:
    return _expression("payload", _be32(1, _REG) + _be32(2, base) + _be32(3, offset) + _be32(4, 1))


def _drop() -> bytes:
    verdict = _nest(2, _be32(1, _NF_DROP))  # NFTA_DATA_VERDICT{NFTA_VERDICT_CODE}
    return _expression("immediate", _be32(1, 0) + _nest(2, verdict))


def transaction() -> tuple[bytes, int]:
    """The whole table as one batch, and how many acknowledgements it asks for."""
    table, chain = _name(1, GUARD_TABLE), "from-pods"
    hook = _nest(4, _be32(1, 0) + _be32(2, _PRIORITY_RAW))  # prerouting
    expressions = (
        _meta(_META_IIFNAME)
        + _compare(_EQ, POD_PREFIX.encode())
        + _meta(_META_L4PROTO)
        + _compare(_EQ, bytes([_IPPROTO_ICMPV6]))
        + _payload_byte(base=2, offset=0)
        + _compare(_GTE, bytes([_FIRST_TYPE]))
        + _compare(_LTE, bytes([_LAST_TYPE]))
        + _drop()
    )
    steps = [
        (_NEWTABLE, F_CREATE, table),  # so that the next line always finds one
        (_DELTABLE, 0, table),
        (_NEWTABLE, F_CREATE, table),
        (_NEWCHAIN, F_CREATE, table + _name(3, chain) + hook + _name(7, "filter") + _be32(5, 1)),
        (_NEWRULE, F_CREATE | 0x800, table + _name(2, chain) + _nest(4, expressions)),
    ]
    batch = message(_BATCH_BEGIN, 0, family=0, resource=10)
    for sequence, (kind, flags, body) in enumerate(steps, 1):
        batch += message(kind, flags | F_ACK, family=_NFPROTO_IPV6, body=body, sequence=sequence)
    return batch + message(_BATCH_END, 0, family=0, resource=10), len(steps)


def install() -> None:
    """Put the rule in place. OSError if the kernel has no nftables."""
    batch, acknowledged = transaction()
    with NetfilterSocket() as sock:
        sock.do(batch, acknowledged=acknowledged)
