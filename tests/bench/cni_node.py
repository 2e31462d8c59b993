"""A node for the CNI benchmarks: the real agent process, put together by felix.main as on any node.

Its IPAM claims blocks and writes handles and notes to an API server (tests/bench/memory_api.py, a process of its own,
over HTTP); its journal is synced to the file system under the temporary directory; its shim is the compiled one. So
what is measured is the whole composition, work behind the answers included. Missing are only routers: no BGP session.

With PROFILE=file in the environment the agent writes a cProfile there when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.build import build
from tests.eventually import eventually
from tests.functional.agent_world import AgentWorld, node_object

PORT = 18081
NODE = "node-0"
ADDRESS = "192.0.2.10"


@dataclass
class BenchAgent(AgentWorld):
    """The agent, started so that its pid is known."""

    shim: Path = Path()

    def start(self) -> None:
        profile = os.environ.get("PROFILE", "")
        how = ["-m", "cProfile", "-o", profile] if profile else []
        words = ["ip", "netns", "exec", self.netns, sys.executable, *how, "-m", "felix.main", *self.arguments()]
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, env={**os.environ, "KUBECONFIG": str(self.kubeconfig)}, stdout=log, stderr=log
            )

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--cni-program", str(self.shim)]

    def cpu_s(self) -> float:
        """User and system time so far. `ip netns exec` replaces itself, so the child is the agent."""
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _objects(pods: Sequence[str]) -> list[dict[str, Any]]:
    pool = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "pool"},
        "spec": {"cidr": "10.65.0.0/20"},
    }
    configuration = {  # what the operator makes at its first start
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPAMConfiguration",
        "metadata": {"name": "default"},
        "spec": {"strictAffinity": True, "autoAllocateBlocks": True, "maxBlocksPerHost": 0},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    made = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "x"}]},
            "status": {"phase": "Pending"},
        }
        for name in pods
    ]
    return [node_object(NODE, ADDRESS), namespace, pool, configuration, *made]


@contextlib.contextmanager
def cni_node(pods: Sequence[str]) -> Iterator[BenchAgent]:
    """A node with these pods bound to it and its agent ready; gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="tortie-bench-"))
    netns = f"tortie-b-{os.getpid()}-node"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        subprocess.run(["ip", "netns", "add", netns], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", netns], check=False)
        (base / "objects").write_text(json.dumps(_objects(pods)))
        kubeconfig = base / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                    "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{PORT}"}}],
                    "users": [{"name": "x", "user": {"token": "x"}}],
                }
            )
        )
        shim = build(base / "tortie", run_dir=str(base / "run"))
        node = BenchAgent(netns=netns, node=NODE, directory=base, kubeconfig=kubeconfig, shim=shim)
        node.ip("link", "set", "lo", "up")
        node.uplink(f"{ADDRESS}/24")
        words = [sys.executable, "-m", "tests.bench.memory_api", str(PORT), str(base / "objects")]
        server = subprocess.Popen(["ip", "netns", "exec", netns, *words])
        stack.callback(server.wait)
        stack.callback(server.kill)
        node.start()
        stack.callback(node.end)
        node.until_ready(within_s=60)
        eventually(lambda: node.routes("type", "blackhole"), within_s=20, what="the node has a block")
        yield node
