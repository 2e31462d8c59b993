"""Each CNI command through the real shim, socket and kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.eventually import eventually
from tests.functional.cni_fixtures import idle_node, node, shim_and_run_dir  # noqa: F401
from tests.functional.cni_world import Node, inside, looked_at

DUAL = {"type": "tortie", "assign_ipv4": "true", "assign_ipv6": "true"}
NetnsMaker = Callable[..., str]


def addresses(answer: dict[str, Any]) -> list[str]:
    return [entry["address"].split("/")[0] for entry in answer["ips"]]


def hears(server: str, address: str, *, caller: str) -> bool:
    """A TCP connection from `caller` to `address`, which lives in `server`, carries bytes both ways."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(server):
        listening = socket.create_server((address, 7000), family=family)
    with listening:
        with inside(caller):
            calling = socket.socket(family)
        with calling:
            calling.settimeout(3)
            calling.connect((address, 7000))
            accepted, _ = listening.accept()
            with accepted:
                calling.sendall(b"ping")
                accepted.sendall(accepted.recv(4) + b"pong")
                return calling.recv(8) == b"pingpong"


def test_an_added_pod_talks_to_host_and_other_pods_in_both_families(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pods = {name: netns(name) for name in ("a", "b")}
    given = {}
    for name, pod in pods.items():
        status, answer = node.call("ADD", container=name, netns=pod, config=node.config(ipam=DUAL))
        assert status == 0, answer
        given[name] = addresses(answer)
        assert answer["interfaces"][0]["mac"] == "ee:ee:ee:ee:ee:ee"
        assert answer["interfaces"][1]["sandbox"] == f"/run/netns/{pod}"
    for family in (0, 1):
        assert hears(pods["b"], given["b"][family], caller=pods["a"])
        assert hears(pods["a"], given["a"][family], caller=pods["b"])
        assert hears(pods["a"], given["a"][family], caller=pods["a"])
    with inside(node.netns):
        listening = socket.create_server(("0.0.0.0", 7001))
    with looked_at(node.netns) as view:
        assert {link.name for link in view.list_links()} >= node.pod_links()
    listening.close()
    assert hears(pods["a"], given["a"][0], caller=pods["b"])


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_the_result_has_the_shape_of_its_version(node: Node, netns: NetnsMaker, version: str) -> None:  # noqa: F811
    _, answer = node.call("ADD", container="c", netns=netns("p"), config=node.config(cniVersion=version))
    assert answer["cniVersion"] == version
    assert answer["ips"][0]["interface"] == 1
    assert ("version" in answer["ips"][0]) == (version < "1.0.0")


def test_del_three_times_and_without_a_namespace_succeeds_and_leaves_nothing(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    node.call("ADD", container="c", netns=netns("p"))
    assert node.pod_links()
    for _ in range(3):
        assert node.call("DEL", container="c") == (0, {})
    eventually(node.is_clean, what="link, route and address are gone")


def test_del_of_what_never_was_succeeds(node: Node) -> None:  # noqa: F811
    assert node.call("DEL", container="never", CNI_NETNS="/nowhere") == (0, {})


def test_del_with_the_hosts_own_namespace_touches_nothing_but_the_pods_link(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    node.call("ADD", container="c", netns=netns("p"))
    with looked_at(node.netns) as view:
        before = [link for link in view.list_links() if not link.name.startswith("cali")]
    assert node.call("DEL", container="c", netns=node.netns) == (0, {})
    eventually(node.is_clean)
    with looked_at(node.netns) as view:
        assert list(view.list_links()) == before


def test_add_into_the_hosts_own_namespace_is_refused(node: Node) -> None:  # noqa: F811
    status, answer = node.call("ADD", container="c", netns=node.netns)
    assert (status, answer["code"]) == (1, 4)
    assert "host's own" in answer["msg"]
    assert node.is_clean()


def test_a_recycled_namespace_path_does_not_mislead_a_late_del(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    """The old container's DEL comes when its path already leads to the new container's namespace."""
    pod = netns("p")
    node.call("ADD", container="old", netns=netns("gone"))
    _, new = node.call("ADD", container="new", netns=pod)
    assert node.call("DEL", container="old", netns=pod) == (0, {})
    eventually(lambda: len(node.pod_links()) == 1)
    assert hears(pod, addresses(new)[0], caller=pod)
    assert node.call("CHECK", container="new", netns=pod, config=node.config(prevResult=new)) == (0, {})


def test_a_repeated_add_gives_the_same_answer(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pod = netns("p")
    first = node.call("ADD", container="c", netns=pod)
    assert node.call("ADD", container="c", netns=pod) == first
    assert len(node.pod_links()) == 1


def test_add_straight_after_del_in_the_same_namespace_works(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pod = netns("p")
    for _ in range(3):
        status, answer = node.call("ADD", container="c", netns=pod)
        assert status == 0, answer
        assert node.call("DEL", container="c", netns=pod) == (0, {})


def test_check_finds_what_was_broken(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pod = netns("p")
    _, result = node.call("ADD", container="c", netns=pod, config=node.config(ipam=DUAL))
    asked: dict[str, Any] = {"container": "c", "netns": pod, "config": node.config(ipam=DUAL, prevResult=result)}
    assert node.call("CHECK", **asked) == (0, {})
    host_side = next(iter(node.pod_links()))
    broken = {
        f"ip -n {pod} route del default": "route 0.0.0.0/0 is missing",
        f"ip -n {pod} -6 neigh flush all nud permanent": "neighbour fe80",
        f"ip -n {node.netns} route del {addresses(result)[0]} dev {host_side}": "no route to 10.65.0.1",
        f"ip -n {node.netns} link set {host_side} down": f"{host_side} is down",
    }
    for command, problem in broken.items():
        assert os.system(command) == 0
        status, answer = node.call("CHECK", **asked)
        assert (status, answer["code"]) == (1, 102)
        assert problem in answer["msg"]


def test_gc_removes_what_is_not_valid_and_nothing_else(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    for name in ("keep", "drop"):
        node.call("ADD", container=name, netns=netns(name))
    valid = [{"containerID": "keep", "ifname": "eth0"}]
    assert node.call("GC", config=node.config(**{"cni.dev/valid-attachments": valid})) == (0, {})
    assert list(node.held()) == ["net.keep"]
    eventually(lambda: len(node.pod_links()) == 1)


def test_status_is_ready_with_a_fresh_heartbeat_even_without_an_agent(node: Node) -> None:  # noqa: F811
    eventually((node.run_dir / "heartbeat").exists)
    node.kill()
    assert node.call("STATUS") == (0, {})
    os.utime(node.run_dir / "heartbeat", (1, 1))
    status, answer = node.call("STATUS")
    assert (status, answer["code"]) == (1, 50)


def test_an_exhausted_pool_is_one_clear_sentence_and_leaves_nothing(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pod = netns("p")
    for i in range(62):
        node.call("ADD", container=f"full{i}", netns=netns(f"f{i}"))
    status, answer = node.call("ADD", container="one-more", netns=pod)
    assert (status, answer["code"]) == (1, 101)
    assert answer["msg"] == "no free address is left in the pools test"
    with looked_at(pod) as view:
        assert view.find_link("eth0") is None


def test_a_chained_plugin_before_us_keeps_its_part_of_the_result(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    before = {
        "interfaces": [{"name": "net0", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.1/24", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    _, answer = node.call("ADD", container="c", netns=netns("p"), config=node.config(prevResult=before))
    assert [entry.get("interface") for entry in answer["ips"]] == [0, 2]
    assert answer["dns"] == before["dns"]


def test_the_hook_is_told_after_the_answer(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    node.call("ADD", container="c", netns=netns("p"))
    eventually(lambda: (node.run_dir / "added").read_text() == "default/pod-c 10.65.0.1\n", retry_on=(OSError,))
