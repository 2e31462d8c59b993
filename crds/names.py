"""Names of objects that follow from their content, exactly as Calico makes them, so that both find the same object.

Calico: `libcalico-go/lib/names/cidr.go` and `lib/backend/k8s/resources/{affinityblock,ipam_handle}.go`.
"""

import base64
import hashlib
from ipaddress import IPv4Network, IPv6Network

NAME_MAX = 253
"""Kubernetes: an object's name is a DNS subdomain of at most 253 characters."""

_HASH_LEN = 11


def block_name(cidr: IPv4Network | IPv6Network | str) -> str:
    """`10.0.0.0/26` -> `10-0-0-0-26`; `fd00::/122` -> `fd00---122`."""
    return str(cidr).replace(".", "-").replace(":", "-").replace("/", "-")


def affinity_name(host: str, cidr: IPv4Network | IPv6Network | str) -> str:
    """`<host>-<block name>`; 253 characters or more are cut and end in 11 hex digits of a digest of the whole."""
    block = block_name(cidr)
    name = f"{host}-{block}"
    if len(name) < NAME_MAX:
        return name
    digest = hashlib.sha256(f"{host}+{block}".encode()).hexdigest()[:_HASH_LEN]
    return f"{name[: NAME_MAX - 1 - _HASH_LEN]}-{digest}"


def handle_name(handle_id: str) -> str:
    """Object names are lower case; the exact handle is kept in spec.handleID."""
    return handle_id.lower()


def hostname_hash(host: str) -> str:
    """The value of label projectcalico.org/hostname-hash: a label holds 63 characters, a node's name may be longer."""
    return base64.b32encode(hashlib.sha3_256(host.encode()).digest()).decode().rstrip("=")
