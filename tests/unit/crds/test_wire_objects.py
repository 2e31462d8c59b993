"""Wire objects: spelling, what is left out, what is ignored, and what a misfit says."""

from __future__ import annotations

import gc
import json
import tracemalloc
from ipaddress import ip_address

import msgspec
import pytest

from crds.bgp_kinds import BGPConfiguration, BGPPeer
from crds.blocks import AllocationAttribute, IPAMBlock, IPAMBlockSpec
from crds.codec import decode, decode_list, encode, from_wire, to_wire
from crds.core import Node, Pod, Secret
from crds.definitions import DEFINITIONS, Definition
from crds.errors import BadObject
from crds.meta import ObjectMeta, Wire, kube_name
from crds.pools import IPPool, IPPoolSpec


@pytest.mark.parametrize(
    ("attribute", "wire"),
    [
        ("peer_ip", "peerIP"),
        ("as_number", "asNumber"),
        ("disable_bgp_export", "disableBGPExport"),
        ("handle_id", "handleID"),
        ("pod_cidr", "podCIDR"),
        ("local_as_number", "localASNumber"),
        ("num_allowed_local_as_numbers", "numAllowedLocalASNumbers"),
        ("service_load_balancer_ips", "serviceLoadBalancerIPs"),
        ("local_workload_peering_ipv6", "localWorkloadPeeringIPV6"),
        ("ipv4_normal_route_priority", "ipv4NormalRoutePriority"),
        ("kube_virt_vm_address_persistence", "kubeVirtVMAddressPersistence"),
        ("reserved_cidrs", "reservedCIDRs"),
        ("cluster_guid", "clusterGUID"),
        ("import_v4", "importV4"),
        ("as_path_prefix", "asPathPrefix"),
    ],
)
def test_names_are_spelled_as_kubernetes_and_calico_do(attribute: str, wire: str) -> None:
    assert kube_name(attribute) == wire


def test_an_object_is_encoded_with_its_kind_and_without_defaults() -> None:
    pool = IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr="10.0.0.0/16", disable_bgp_export=True))
    assert json.loads(encode(pool)) == {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "p"},
        "spec": {"cidr": "10.0.0.0/16", "disableBGPExport": True},
    }


def test_a_blocks_lists_are_written_when_empty_for_the_schema_wants_them() -> None:
    spec = IPAMBlockSpec(
        cidr="10.0.0.0/32", allocations=(0,), unallocated=(), attributes=(AllocationAttribute(handle_id="h"),)
    )
    wire = to_wire(IPAMBlock(metadata=ObjectMeta(name="b"), spec=spec))
    assert wire["spec"]["unallocated"] == ()
    assert wire["spec"]["attributes"] == ({"handle_id": "h"},)


def test_unknown_fields_are_ignored() -> None:
    body = b'{"kind":"X","metadata":{"name":"p","managedFields":[{}]},"spec":{"cidr":"10.0.0.0/8","new":[1]}}'
    assert decode(IPPool, body) == IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr="10.0.0.0/8"))


def test_a_misfit_names_the_field_as_the_wire_spells_it() -> None:
    with pytest.raises(BadObject) as refusal:
        decode(BGPPeer, b'{"spec":{"asNumber":"x"}}')
    assert str(refusal.value) == "spec.asNumber: Expected `int | null`, got `str`"
    with pytest.raises(BadObject) as refusal:
        decode(IPPool, b"{")
    assert refusal.value.field == "object"


def test_one_bad_object_does_not_hide_the_others_of_a_list() -> None:
    body = (
        b'{"metadata":{"resourceVersion":"7"},"items":['
        b'{"metadata":{"name":"a"},"spec":{"cidr":"10.0.0.0/8"}},'
        b'{"metadata":{"name":"b"},"spec":{"cidr":8}}]}'
    )
    page, bad = decode_list(IPPool, body)
    assert page.metadata.resource_version == "7"
    assert [pool.name for pool in page.items] == ["a"]
    assert [(key, problem.field) for key, problem in bad] == [("b", "spec.cidr")]


def test_paths_and_keys_of_objects() -> None:
    assert IPPool.path("p", subresource="status") == "/apis/projectcalico.org/v3/ippools/p/status"
    assert Pod.path("p", namespace="n") == "/api/v1/namespaces/n/pods/p"
    assert Pod.path() == "/api/v1/pods"
    assert Pod(metadata=ObjectMeta(name="p", namespace="n")).key() == "n/p"


def test_a_secret_does_not_show_its_bytes() -> None:
    secret = from_wire(Secret, {"metadata": {"name": "s", "namespace": "n"}, "data": {"k": "cGFzc3dvcmQ="}})
    assert secret.data == {"k": b"password"}
    assert "password" not in repr(secret)
    assert "password" not in f"{[secret]}"


def _pod(*, host_network: bool = False, phase: str = "Running", annotations: dict[str, str] | None = None) -> Pod:
    return from_wire(
        Pod,
        {
            "metadata": {"name": "p", "namespace": "n", "annotations": annotations or {}},
            "spec": {"nodeName": "n1", "hostNetwork": host_network},
            "status": {"phase": phase, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        },
    )


def test_a_pods_addresses_come_from_its_status() -> None:
    assert _pod().addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))


def test_the_agents_annotation_is_newer_than_the_status() -> None:
    pod = _pod(annotations={"cni.projectcalico.org/podIPs": "10.0.0.9/32,fd00::9/128"})
    assert pod.addresses == (ip_address("10.0.0.9"), ip_address("fd00::9"))


def test_a_blank_annotation_means_that_the_address_is_gone() -> None:
    assert _pod(annotations={"cni.projectcalico.org/podIPs": ""}).addresses == ()


@pytest.mark.parametrize("pod", [_pod(host_network=True), _pod(phase="Succeeded"), _pod(phase="Failed")])
def test_host_network_and_finished_pods_hold_no_address(pod: Pod) -> None:
    assert pod.addresses == ()


def _node(**annotations: str) -> Node:
    keys = {key.replace("_", "/"): value for key, value in annotations.items()}
    status = {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]}
    return from_wire(Node, {"metadata": {"name": "n1", "annotations": keys}, "status": status})


def test_a_nodes_address_is_its_annotations_or_else_its_status() -> None:
    assert _node().internal_ip(4) == ip_address("192.0.2.1")
    assert _node().internal_ip(6) is None
    assert _node(**{"projectcalico.org_IPv4Address": "192.0.2.9/24"}).internal_ip(4) == ip_address("192.0.2.9")


@pytest.mark.parametrize("text", ["x", "2001:db8::1/64"])
def test_a_nodes_unreadable_address_is_said_not_guessed(text: str) -> None:
    with pytest.raises(BadObject, match="IPv4Address"):
        _node(**{"projectcalico.org_IPv4Address": text}).internal_ip(4)


@pytest.mark.parametrize(("text", "number"), [("65001", 65001), ("1.10", 65546), ("4294967295", 4294967295)])
def test_a_nodes_as_number(text: str, number: int) -> None:
    assert _node(**{"projectcalico.org_ASNumber": text}).as_number() == number
    assert _node().as_number() is None


@pytest.mark.parametrize("text", ["0", "4294967296", "-1", "1.65536", "x", "1.x", "²"])
def test_a_nodes_wrong_as_number_is_said(text: str) -> None:
    with pytest.raises(BadObject, match="ASNumber"):
        _node(**{"projectcalico.org_ASNumber": text}).as_number()


def _wire_names(struct: type[Wire]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.kind.kind)
def test_struct_and_schema_have_the_same_fields(definition: Definition) -> None:
    types = {field.name: field.type for field in msgspec.structs.fields(definition.kind)}
    _compare(types["spec"], definition.spec, at="spec")


def _compare(struct: type[Wire], schema: dict[str, object], *, at: str) -> None:
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert _wire_names(struct) == set(properties), at
    for field in msgspec.structs.fields(struct):
        below = properties[field.encode_name]
        inner = next((t for t in _parts(field.type) if isinstance(t, type) and issubclass(t, Wire)), None)
        if inner is not None:
            below = below.get("items", below)
            _compare(inner, below, at=f"{at}.{field.encode_name}")


def _parts(annotation: object) -> list[object]:
    return [annotation, *(part for arg in getattr(annotation, "__args__", ()) for part in _parts(arg))]


def test_a_bgp_configuration_that_says_nothing_says_nothing() -> None:
    assert to_wire(BGPConfiguration(metadata=ObjectMeta(name="node.n1")))["metadata"] == {"name": "node.n1"}
    assert "spec" not in to_wire(BGPConfiguration(metadata=ObjectMeta(name="node.n1")))


def _busy_pod(number: int) -> bytes:
    """As the API server sends one: half of it is of no interest here."""
    return json.dumps(
        {
            "metadata": {
                "name": f"web-7d4b9c6f5-{number:05d}",
                "generateName": "web-7d4b9c6f5-",
                "namespace": f"team-{number % 50}",
                "uid": f"6a1b8f3e-0000-4000-8000-{number:012d}",
                "resourceVersion": str(100000 + number),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"},
                "annotations": {
                    "cni.projectcalico.org/podIPs": f"10.0.{number // 250}.{number % 250}/32",
                    "kubectl.kubernetes.io/last-applied-configuration": "x" * 2000,
                },
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u"}],
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}],
            },
            "spec": {
                "nodeName": f"node-{number % 100}",
                "containers": [{"name": "web", "ports": [{"containerPort": 80}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        }
    ).encode()


def test_a_watched_pod_costs_about_a_kilobyte() -> None:
    bodies = [_busy_pod(number) for number in range(1000)]
    decode(Pod, bodies[0])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        pods = [decode(Pod, body) for body in bodies]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(pods) < 1500


def test_pods_share_what_they_have_in_common() -> None:
    first, second = decode(Pod, _busy_pod(1)), decode(Pod, _busy_pod(101))
    assert first.metadata.labels is second.metadata.labels
    assert first.spec is second.spec
    assert list(first.metadata.annotations) == ["cni.projectcalico.org/podIPs"]


def test_wire_objects_are_not_walked_by_the_garbage_collector() -> None:
    assert not gc.is_tracked(_pod())
