"""Pods on a whole agent: the shim asks, the agent answers, the API server learns, a kill changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.build import build
from tests.eventually import eventually
from tests.functional.agent_world import AgentWorld, agent_world

TRY_LATER = 11
STRICT = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "IPAMConfiguration",
    "metadata": {"name": "default"},
    "spec": {"strictAffinity": True, "autoAllocateBlocks": True},
}
"""As the operator makes it on first start: nobody else takes from a node's block, so its agent may answer alone."""


class PodWorld:
    """A node with an agent that is ready, and what a runtime does with it."""

    def __init__(
        self, api: Any, node: AgentWorld, *, namespace: str, shim: Path, pod_netns: Callable[..., str]
    ) -> None:
        self.api, self.node, self.namespace, self.shim = api, node, namespace, shim
        self._pod_netns = pod_netns

    def bind(self, name: str) -> str:
        """A Pod bound to this node; its uid."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "nodeName": self.node.node,
                "automountServiceAccountToken": False,
                "containers": [{"name": "c", "image": "none"}],
            },
        }
        self.api.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        return str(self.get(name)["metadata"]["uid"])

    def get(self, name: str) -> dict[str, Any]:
        """The Pod as the API server has it."""
        found: dict[str, Any] = json.loads(self.api.kubectl("get", "pod", "-n", self.namespace, name, "-o", "json"))
        return found

    def call(self, command: str, name: str, *, uid: str, container: str, netns: str) -> dict[str, Any]:
        """Exec the shim as a runtime does; what it printed."""
        config = json.loads((self.node.directory / "net.d" / "10-tortie.conflist").read_text())
        stdin = {**config["plugins"][0], "cniVersion": config["cniVersion"], "name": config["name"]}
        arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        done = subprocess.run(
            [self.shim],
            input=json.dumps(stdin).encode(),
            capture_output=True,
            check=False,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_NETNS": f"/run/netns/{netns}",
                "CNI_IFNAME": "eth0",
                "CNI_ARGS": arguments,
                "CNI_PATH": "/opt/cni/bin",
                "PATH": os.environ["PATH"],
            },
        )
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return answer

    def add(self, name: str, *, container: str) -> tuple[str, str, str]:
        """(address, uid, namespace of the pod) of a pod that got its network."""
        uid, netns = self.bind(name), self._pod_netns("pod")

        def tried() -> dict[str, Any]:
            answer = self.call("ADD", name, uid=uid, container=container, netns=netns)
            assert answer.get("code") != TRY_LATER, f"{answer}\n{self.node.log[-2000:]}"
            return answer

        answer = eventually(tried, within_s=30)
        assert "ips" in answer, f"{answer}\n{self.node.log[-2000:]}"
        return str(answer["ips"][0]["address"]).split("/")[0], uid, netns

    def noted(self, name: str) -> str:
        """What readers see as the pod's address."""
        return str(self.get(name)["metadata"].get("annotations", {}).get("cni.projectcalico.org/podIP", ""))

    def pings(self, address: str) -> bool:
        """From the node."""
        command = ["ip", "netns", "exec", self.node.netns, "ping", "-c", "1", "-W", "1", address]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def world(api: Any, netns: Callable[..., str], tmp_path: Path) -> Iterator[PodWorld]:
    name, namespace = api.unique("pod-node"), api.namespace("pods")
    (tmp_path / "run").mkdir()
    shim = build(tmp_path / "shim", run_dir=str(tmp_path / "run"))
    with agent_world(api, netns=netns("agent"), node=name, directory=tmp_path) as node:
        pool = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": name},
            "spec": {"cidr": f"10.{120 + int(name.rsplit('-', 1)[1]) % 100}.0.0/24", "blockSize": 28},
        }
        api.kubectl("create", "-f", "-", stdin=json.dumps(pool))
        api.kubectl("apply", "-f", "-", stdin=json.dumps(STRICT))
        node.start()
        node.until_ready()
        eventually((tmp_path / "net.d" / "10-tortie.conflist").exists, within_s=10)
        yield PodWorld(api, node, namespace=namespace, shim=shim, pod_netns=netns)
        node.end()
        api.kubectl("delete", "pods", "--all", "-n", namespace, "--force", "--grace-period=0")
        for kind in ("ippool", "node"):
            api.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false")


def test_a_pod_gets_an_address_that_everybody_learns_at_once_and_loses_at_del(world: PodWorld) -> None:
    address, uid, netns = world.add("web", container="c1")
    assert world.pings(address)
    noted = eventually(lambda: world.noted("web"), within_s=5, every_s=0.02)
    assert noted == f"{address}/32"
    assert world.call("DEL", "web", uid=uid, container="c1", netns=netns) == {}
    assert not world.pings(address)
    eventually(lambda: not world.noted("web"), within_s=5)
    assert not {line for line in world.node.routes() if line.startswith(f"{address} ")}


def test_a_killed_agent_takes_no_pod_with_it_and_the_next_one_knows_them_all(world: PodWorld) -> None:
    address, uid, netns = world.add("web", container="c1")
    routes = world.node.routes()
    assert any(line.startswith(f"{address} dev cali") for line in routes)
    world.node.kill()
    assert world.pings(address)
    world.node.start()
    world.node.until_ready()
    assert world.pings(address)
    assert world.node.routes() >= routes
    second, *_ = world.add("web2", container="c2")
    assert second != address
    assert world.call("DEL", "web", uid=uid, container="c1", netns=netns) == {}
    assert not world.pings(address)
    assert world.pings(second)
    eventually(lambda: not world.noted("web"), within_s=5)


def test_pods_come_and_go_while_the_api_server_is_away(world: PodWorld) -> None:
    address, uid, netns = world.add("web", container="c1")
    later, waiting = world.bind("web2"), world._pod_netns("pod")
    eventually(lambda: "web2" in world.api.kubectl("get", "pods", "-n", world.namespace), within_s=5)
    with world.api.away():
        answer = world.call("ADD", "web2", uid=later, container="c2", netns=waiting)
        assert "ips" in answer, f"{answer}\n{world.node.log[-2000:]}"
        second = str(answer["ips"][0]["address"]).split("/")[0]
        assert world.pings(second)
        assert world.call("DEL", "web", uid=uid, container="c1", netns=netns) == {}
        assert not world.pings(address)
    eventually(lambda: world.noted("web2") == f"{second}/32" and not world.noted("web"), within_s=60, every_s=0.2)
