"""What the kubelet stand-in writes."""

from __future__ import annotations

from typing import Any

from lab import kubelet_objects
from lab.kubelet_objects import NodeIdentity, PodState

IDENTITY = NodeIdentity(name="n1", addresses=("10.1.1.11", "fd00::11"), labels={"rack": "rack1"}, annotations={})
POD: dict[str, Any] = {
    "metadata": {"name": "a", "namespace": "default", "uid": "u"},
    "spec": {"containers": [{"name": "main", "image": "x"}]},
}


def _condition(status: dict[str, Any], kind: str) -> str:
    return str(next(c["status"] for c in status["status"]["conditions"] if c["type"] == kind))


def test_a_node_is_ready_unless_there_is_a_problem_which_is_then_its_message() -> None:
    assert _condition(kubelet_objects.node_status(IDENTITY, problem="", now="t"), "Ready") == "True"
    broken = kubelet_objects.node_status(IDENTITY, problem="no CNI configuration", now="t")
    assert _condition(broken, "Ready") == "False"
    assert broken["status"]["conditions"][0]["message"] == "no CNI configuration"


def test_a_node_reports_both_families_as_internal_addresses() -> None:
    addresses = kubelet_objects.node_status(IDENTITY, problem="", now="t")["status"]["addresses"]
    assert [a["address"] for a in addresses if a["type"] == "InternalIP"] == ["10.1.1.11", "fd00::11"]


def test_a_running_pod_is_ready_and_has_all_its_addresses() -> None:
    state = PodState(phase="Running", addresses=("10.244.0.5", "fd00:244::5"))
    status = kubelet_objects.pod_status(POD, state, host_addresses=IDENTITY.addresses, now="t")
    assert status["status"]["podIP"] == "10.244.0.5"
    assert status["status"]["podIPs"] == [{"ip": "10.244.0.5"}, {"ip": "fd00:244::5"}]
    assert _condition(status, "Ready") == "True"


def test_a_pod_that_cannot_start_says_why_where_kubectl_shows_it() -> None:
    state = PodState(phase="Pending", reason="ContainerCreating", message="CNI code 11: try again later")
    status = kubelet_objects.pod_status(POD, state, host_addresses=IDENTITY.addresses, now="t")["status"]
    assert "podIP" not in status
    assert status["containerStatuses"][0]["state"]["waiting"]["message"] == "CNI code 11: try again later"


def test_result_addresses_put_ipv4_first_and_drop_the_prefix() -> None:
    result = {"ips": [{"address": "fd00:244::5/128"}, {"address": "10.244.0.5/32"}]}
    assert kubelet_objects.result_addresses(result) == ("10.244.0.5", "fd00:244::5")


def test_a_pod_without_a_command_waits() -> None:
    assert kubelet_objects.pod_command(POD) == (["sleep", "infinity"], {})


def test_host_ports_become_port_mappings() -> None:
    container = {"name": "main", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}
    pod = {**POD, "spec": {"containers": [container]}}
    assert kubelet_objects.port_mappings(pod) == ({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},)
