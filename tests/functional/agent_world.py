"""A node for functional tests: a network namespace with an uplink, a real agent process in it, a real API server.

The API server listens on the machine's loopback, the agent lives in a namespace without a way out; `Door` carries
bytes between the two, like the cable of a real node. Used by tests/functional/test_agent_*.py and tests/bench.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.eventually import eventually

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def in_netns(name: str, work: Callable[[], T]) -> T:
    """Do something in a thread that has entered the namespace."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
            if libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.close(descriptor)
            result.append(work())
        except BaseException as error:  # handed to the caller
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


class Door:
    """Listens on 127.0.0.1:port in a namespace, connects to the same port on the machine."""

    def __init__(self, netns: str, port: int) -> None:
        self._port = port
        self._listener = in_netns(netns, lambda: socket.create_server(("127.0.0.1", port), backlog=64))
        self._ends: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            self._ends |= {near, far}
            other = {near: far, far: near}
            with selectors.DefaultSelector() as ready:
                for end in other:
                    ready.register(end, selectors.EVENT_READ)
                while True:
                    for key, _ in ready.select():
                        end = key.fileobj
                        assert isinstance(end, socket.socket)
                        chunk = end.recv(1 << 16)
                        if not chunk:
                            return
                        other[end].sendall(chunk)

    def close(self) -> None:
        """Hang up on everybody."""
        self._closed = True
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class AgentWorld:
    """One node: namespace, directories, agent process."""

    netns: str
    node: str
    directory: Path
    kubeconfig: Path
    process: subprocess.Popen[bytes] | None = None

    def ip(self, *arguments: str) -> str:
        """`ip` in the namespace."""
        done = subprocess.run(["ip", "-n", self.netns, *arguments], check=True, capture_output=True, text=True)
        return done.stdout

    def routes(self, *more: str) -> set[str]:
        """Our routes as the kernel's own tool shows them, one normalised line each."""
        lines = self.ip("-4", "route", "show", "proto", "80", *more).splitlines()
        return {" ".join(line.split()) for line in lines}

    def uplink(self, address: str = "192.0.2.10/24") -> None:
        """A link to a far end in the same namespace: enough for next hops to resolve."""
        self.ip("link", "add", "eth0", "type", "veth", "peer", "name", "tor0")
        self.ip("addr", "add", address, "dev", "eth0")
        for link in ("eth0", "tor0"):
            self.ip("link", "set", link, "up")

    def start(self) -> None:
        """Start an agent."""
        log = (self.directory / "agent.log").open("ab")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, sys.executable, "-m", "felix.main", *self.arguments()],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "PYTHONUNBUFFERED": "1"},
            stdout=log,
            stderr=log,
        )

    def arguments(self) -> list[str]:
        """Its command line."""
        run = self.directory
        return [
            *("--node", self.node),
            *("--run-dir", str(run / "run")),
            *("--state-dir", str(run / "state")),
            *("--cni-conf-dir", str(run / "net.d")),
            *("--cni-bin-dir", str(run / "bin")),
        ]

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def end(self) -> None:
        """Whatever its state."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    @property
    def log(self) -> str:
        """What the agents said so far."""
        return (self.directory / "agent.log").read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """(status, text) of a page of the health door; (0, why) if it is closed."""

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:9099{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        return in_netns(self.netns, fetch)

    def until_ready(self, *, within_s: float = 30.0) -> None:
        """Wait for /readyz."""

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the agent ended with {self.process.returncode}:\n{self.log}")
            status, text = self.get("/readyz")
            assert status == 200, f"{text}\n{self.log[-2000:]}"
            return True

        eventually(ready, within_s=within_s, what="the agent is ready")


def node_object(name: str, address: str = "192.0.2.10") -> dict[str, Any]:
    """A Node as a kubelet registers it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def register_node(api: Any, name: str, address: str = "192.0.2.10") -> None:
    """Create the Node, its status too."""
    api.kubectl("create", "-f", "-", stdin=json.dumps(node_object(name, address)))
    status = json.dumps({"status": node_object(name, address)["status"]})
    api.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", status)


@contextlib.contextmanager
def agent_world(api: Any, *, netns: str, node: str, directory: Path) -> Iterator[AgentWorld]:
    """A registered node with an uplink and a door to the API server; no agent yet."""
    port = int(api.url.rsplit(":", 1)[1])
    door = Door(netns, port)
    world = AgentWorld(netns=netns, node=node, directory=directory, kubeconfig=api.token_for("tortie-agent"))
    world.uplink()
    register_node(api, node)
    try:
        yield world
    finally:
        world.end()
        door.close()
