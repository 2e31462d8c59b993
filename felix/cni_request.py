"""From what a runtime and the cluster say about a pod to what IPAM is asked: one pure function.

Calico's annotations count here, the pod's before its namespace's before the configuration: ipv4pools, ipv6pools,
ipFamilies (our reading of Calico's key), ipAddrs. They are read once, at ADD: a pod that changes them later gains
nothing.

Called by felix.cni_attach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

from cni.spec import CniCall, CniError, Code, IPAddress
from crds.values import HandleID
from ipam.requests import AssignRequest

_PREFIX = "cni.projectcalico.org/"
_FAMILIES = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInfo:
    """What the agent's watches show of one pod, as far as its ADD needs it."""

    namespace: str
    name: str
    uid: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)


class PodLookup(Protocol):
    """The agent's watch of this node's pods."""

    async def wait_pod(self, *, namespace: str, name: str, uid: str) -> PodInfo | None:
        """The pod once the watch shows it (with this uid, if not ""); the caller bounds the wait. None: it cannot
        come any more."""


def handle_of(call: CniCall) -> HandleID:
    """The handle that this call is about."""
    return handle_for(call.config.name, container_id=call.container_id, ifname=call.ifname)


def handle_for(network: str, *, container_id: str, ifname: str) -> HandleID:
    """Calico's handle of an attachment; a second interface of a container gets one of its own."""
    second = "" if ifname == "eth0" else f".{ifname}"
    return HandleID(f"{network}.{container_id}{second}")


def assign_request(call: CniCall, pod: PodInfo | None) -> AssignRequest:
    """What IPAM is asked for this ADD; `pod` None outside Kubernetes. CniError if an annotation is wrong."""

    def annotated(key: str) -> tuple[str, ...]:
        if pod is None:
            return ()
        for noted in (pod.annotations, pod.namespace_annotations):
            text = noted.get(_PREFIX + key, "")
            if text:
                return _text_list(text, key)
        return ()

    families = call.config.families()
    named = annotated("ipFamilies")
    if named:
        unknown = [name for name in named if name not in _FAMILIES]
        if unknown:
            raise CniError(Code.INVALID_CONFIG, f"annotation {_PREFIX}ipFamilies knows IPv4 and IPv6 only")
        families = tuple(sorted(_FAMILIES[name] for name in set(named)))
    addresses = call.fixed_addresses() or tuple(_address(text) for text in annotated("ipAddrs"))
    if len({address.version for address in addresses}) < len(addresses):
        raise CniError(Code.INVALID_CONFIG, f"annotation {_PREFIX}ipAddrs has more than one address of a family")
    return AssignRequest(
        handle=handle_of(call),
        namespace=call.namespace,
        pod=call.pod,
        families=tuple(sorted({*families, *(address.version for address in addresses)})),
        pools_v4=annotated("ipv4pools") or call.config.ipam.ipv4_pools,
        pools_v6=annotated("ipv6pools") or call.config.ipam.ipv6_pools,
        addresses=addresses,
        namespace_labels={} if pod is None else pod.namespace_labels,
    )


def _text_list(text: str, key: str) -> tuple[str, ...]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list) or not all(isinstance(entry, str) for entry in parsed):
        raise CniError(Code.INVALID_CONFIG, f"annotation {_PREFIX}{key} must be a JSON list of strings")
    return tuple(parsed)


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise CniError(Code.INVALID_CONFIG, f"annotation {_PREFIX}ipAddrs has {text[:60]!r}, no IP address") from None
