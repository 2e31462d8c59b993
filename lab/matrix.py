"""Who reaches whom: one ICMP echo from every pod, every node and the outside client to every pod.

What for: the one question that a pod network has to answer, as a table and as data.

Theory: one prober process for each source, in its network, asks all targets at once; so a whole matrix takes as long
as its slowest answer. A target is ok when every address that it has answers, of both families; its time is the
slowest. A packet that is lost is asked for once more, for this says what is reachable, not what is lost
(`Lab.probing` does that).

Called by: main, tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lab.fabric import Lab
from lab.pods import PROBE, RunningPod


@dataclass(frozen=True, slots=True)
class Source:
    """A place to ping from: its name and the command prefix that runs something there."""

    name: str
    network: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One question and its answer; `ms` is None when it is not ok."""

    source: str
    target: str
    ok: bool
    ms: float | None

    def as_json(self) -> dict[str, Any]:
        """The stable form of `ping -o json`."""
        return {"from": self.source, "to": self.target, "ok": self.ok, "ms": self.ms}


def pod_name(pod: RunningPod) -> str:
    """A pod as the matrix calls it."""
    return pod.name if pod.namespace == "default" else f"{pod.namespace}/{pod.name}"


def matrix(lab: Lab) -> list[Cell]:
    """Every source to every pod that runs, in a stable order."""
    pods = sorted(lab.running_pods(), key=lambda pod: (pod.node.name, pod_name(pod)))
    sources = [Source(pod_name(pod), tuple(pod.network())) for pod in pods]
    sources += [Source(node.name, tuple(lab.network(node.name))) for node in lab.nodes]
    sources += [
        Source(host.name, tuple(lab.network(host.name)))
        for host in lab.topology.hosts
        if host.name != lab.topology.control_plane
    ]
    with ThreadPoolExecutor(max_workers=8) as pool:
        rows = pool.map(lambda source: _row(source, pods), sources)
    return [cell for row in rows for cell in row]


def _row(source: Source, pods: list[RunningPod]) -> list[Cell]:
    addresses = [address for pod in pods for address in pod.addresses]
    answers = _ask(source, addresses)
    if silent := [address for address in addresses if answers.get(address) is None]:
        answers |= _ask(source, silent)
    return [_cell(source.name, pod, answers) for pod in pods]


def _cell(source: str, pod: RunningPod, answers: dict[str, float | None]) -> Cell:
    times = [ms for address in pod.addresses if (ms := answers.get(address)) is not None]
    ok = len(times) == len(pod.addresses)
    return Cell(source, pod_name(pod), ok, max(times) if ok else None)


def _ask(source: Source, addresses: list[str]) -> dict[str, float | None]:
    if not addresses:
        return {}
    done = subprocess.run(
        [*source.network, sys.executable, str(PROBE), "ping", *addresses], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return {}
    answers: dict[str, float | None] = json.loads(done.stdout)
    return answers
