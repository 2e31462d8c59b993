"""Pods of a lab as tests and commands hold them: made, waited for, entered, probed, removed.

What for: `lab.run_pod("a", node="n1")` returns when the pod has its addresses and runs.

Theory: everything goes through the real API, as for any user; only entering a pod goes around it, through the node's
namespaces, because a light node serves no `kubectl exec`.

Invariants: a `RunningPod` is a snapshot; its addresses do not change while the pod lives.

Called by: fabric, matrix, main, tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.api import Api, ApiRefused
from lab.node import LightNode

Json = dict[str, Any]

PROBE = Path(__file__).with_name("probe.py")
ECHO_PORT = 7777


class NotYet(TimeoutError):
    """Something did not come true in time; the text says what was last seen."""


def wait_for(condition: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """The first truthy result of `condition`, which says by raising NotYet what is still missing."""
    deadline_s = time.monotonic() + within_s
    seen = ""
    while True:
        try:
            if result := condition():
                return result
        except NotYet as missing:
            seen = str(missing)
        if time.monotonic() > deadline_s:
            raise NotYet(f"{what}: not within {within_s:.0f} s{'; ' + seen if seen else ''}")
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class RunningPod:
    """A pod with addresses, and the ways into it."""

    name: str
    namespace: str
    uid: str
    node: LightNode
    addresses: tuple[str, ...]
    api: Api = field(repr=False)

    @property
    def ip(self) -> str:
        """Its first address, IPv4 where it has both."""
        return self.addresses[0]

    @property
    def path(self) -> str:
        """Its path in the API."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def exec(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the pod's network, with the node's file system."""
        return self.node.exec(command, pod_uid=self.uid)

    def enter(self) -> list[str]:
        """The command prefix that runs something in the pod's network."""
        return self.node.enter(pod_uid=self.uid)

    def network(self) -> list[str]:
        """The command prefix that runs something of the machine's in the pod's network; signals reach it directly."""
        return self.node.network(pod_uid=self.uid)

    def delete(self, *, within_s: float = 20.0) -> None:
        """Delete the pod and wait until the API has forgotten it: then DEL has succeeded."""
        try:
            self.api.delete(self.path)
        except ApiRefused as refused:
            if refused.status != 404:
                raise
        wait_for(lambda: not exists(self.api, self.path, uid=self.uid), within_s=within_s, what=f"{self.name} is gone")


def exists(api: Api, path: str, *, uid: str = "") -> bool:
    """Whether the API has that object (with that UID)."""
    try:
        found = api.get(path)
    except ApiRefused as refused:
        if refused.status == 404:
            return False
        raise
    return not uid or bool(found["metadata"]["uid"] == uid)


def running(pod: Json, *, node: LightNode, api: Api) -> RunningPod:
    """A Pod object that runs, as a `RunningPod`; NotYet, with the kubelet's own words, while it does not."""
    status = pod.get("status", {})
    if status.get("phase") != "Running" or not status.get("podIPs"):
        raise NotYet(
            f"{pod['metadata']['name']} is {status.get('phase')}: {status.get('message', 'no word of it yet')}"
        )
    addresses = tuple(entry["ip"] for entry in status["podIPs"])
    meta = pod["metadata"]
    return RunningPod(meta["name"], meta["namespace"], meta["uid"], node, addresses, api)


class Probing:
    """Traffic between two places of the lab while a `with` block runs; `result` afterwards.

    `here` and `there` are network prefixes (`RunningPod.network()`, `Lab.network("client")`), `to` is an address of
    `there`. The probers die with the thread that started them.
    """

    def __init__(self, here: list[str], there: list[str], *, to: str, directory: Path, port: int = ECHO_PORT) -> None:
        self._here, self._there, self._to, self._port = here, there, to, port
        directory.mkdir(parents=True, exist_ok=True)
        self._report = directory / f"probe-{time.monotonic_ns()}.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.result: Json = {}

    def __enter__(self) -> Probing:
        bound = ["setpriv", "--pdeathsig", "SIGKILL"]
        python = [sys.executable, str(PROBE)]
        serve = [*bound, *self._there, *python, "echo", "--port", str(self._port)]
        server = subprocess.Popen(serve, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._processes.append(server)
        assert server.stdout is not None
        server.stdout.readline()  # it listens
        load = [*python, "load", "--to", self._to, "--port", str(self._port), "--report", str(self._report)]
        self._processes.append(subprocess.Popen([*bound, *self._here, *load], stdin=subprocess.DEVNULL))
        try:
            wait_for(self._flows, within_s=15, what=f"probes to {self._to} come back")
        except NotYet:
            self._end()
            raise
        return self

    def _flows(self) -> bool:
        seen = self.so_far()
        return bool(seen.get("received", 0) > 10 and seen.get("tcp_blocks", 0) > 0)

    def so_far(self) -> Json:
        """The counts at this moment; {} before there are any."""
        try:
            answer: Json = json.loads(self._report.read_text())
        except OSError:
            return {}
        return answer

    def __exit__(self, *_: object) -> None:
        self._end()
        self.result = self.so_far()
        self._report.unlink(missing_ok=True)

    def _end(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
