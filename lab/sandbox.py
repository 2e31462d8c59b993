"""A pod's sandbox in a light node: its network namespace, its record on disk, its process.

What for: the part of a container runtime that outlives the kubelet. All that is needed to go on, or to clean up,
after the kubelet or the node died is in one JSON file per pod, written before the step that it describes.

Theory: the namespace is pinned under `/run/netns` of the node, so it lives while the node does, whatever happens to
the kubelet; `/run` is empty after a reboot, which is how a lost sandbox is recognised. The process is named by pid
and start time, so a restarted kubelet adopts it.

Invariants: a record exists before its namespace does and is removed after the CNI DEL succeeded. Removal is
idempotent.

Called by: kubelet_pod, kubelet.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.processes import start_ticks
from lab.runtime import Attachment

Json = dict[str, Any]

DIRECTORY = Path("/var/lib/kubelet/pods")
LOGS = Path("/var/lib/kubelet/logs")
NETNS = Path("/run/netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What stands on disk about a pod. `result` is the final CNI result; None before ADD succeeded."""

    uid: str
    namespace: str
    name: str
    container_id: str
    host_network: bool
    conf: str = ""
    result: Json | None = None
    pid: int = 0
    start_ticks: int = -1
    restarts: int = 0
    port_mappings: tuple[Json, ...] = field(default=())

    @property
    def netns(self) -> str:
        """Path of the pinned namespace; '' for a pod on the node's own network."""
        return "" if self.host_network else str(NETNS / f"cni-{self.container_id[:32]}")

    @property
    def running(self) -> bool:
        """Whether the pod's process lives."""
        return self.pid > 0 and self.start_ticks >= 0 and start_ticks(self.pid) == self.start_ticks

    def attachment(self) -> Attachment:
        """The sandbox as CNI calls see it; no namespace when the pin is gone."""
        return Attachment(
            container_id=self.container_id,
            netns=self.netns if Path(self.netns).exists() else "",
            namespace=self.namespace,
            pod=self.name,
            uid=self.uid,
            port_mappings=self.port_mappings,
        )


def fresh(pod: Json, *, port_mappings: tuple[Json, ...]) -> Record:
    """A record with a new container ID."""
    meta = pod["metadata"]
    return Record(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        container_id=secrets.token_hex(32),
        host_network=bool(pod["spec"].get("hostNetwork")),
        port_mappings=port_mappings,
    )


def save(record: Record) -> Record:
    """Write the record; atomic."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{record.uid}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(record)))
    new.rename(path)
    return record


def load_all() -> list[Record]:
    """All records on disk."""
    records = []
    for path in DIRECTORY.glob("*.json"):
        raw = json.loads(path.read_text())
        records.append(Record(**{**raw, "port_mappings": tuple(raw["port_mappings"])}))
    return records


def forget(record: Record) -> None:
    """Remove the record; idempotent."""
    (DIRECTORY / f"{record.uid}.json").unlink(missing_ok=True)


def make_namespace(record: Record) -> None:
    """Create and pin the pod's namespace with its loopback up, as a runtime does before ADD."""
    name = Path(record.netns).name
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, capture_output=True)


def drop_namespace(record: Record) -> None:
    """Unpin the pod's namespace; idempotent."""
    if record.netns and Path(record.netns).exists():
        subprocess.run(["ip", "netns", "del", Path(record.netns).name], check=False, capture_output=True)


def start(record: Record, command: list[str], env: dict[str, str]) -> tuple[Record, subprocess.Popen[bytes]]:
    """Start the pod's process in its namespace and note it. OSError when the command cannot be run."""
    LOGS.mkdir(parents=True, exist_ok=True)
    within = ["nsenter", f"--net={record.netns}"] if record.netns else []
    with log_path(record).open("ab") as log:
        child = subprocess.Popen(
            [*within, *command],
            env={**os.environ, **env, "HOSTNAME": record.name},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return save(replace(record, pid=child.pid, start_ticks=start_ticks(child.pid))), child


def stop(record: Record, *, grace_s: float) -> None:
    """Ask the pod's process group to end, then make it."""
    if not record.running:
        return
    _signal_group(record, signal.SIGTERM)
    deadline_s = time.monotonic() + grace_s
    while record.running and time.monotonic() < deadline_s:
        time.sleep(0.02)
    _signal_group(record, signal.SIGKILL)


def log_path(record: Record) -> Path:
    """Where the pod's output goes."""
    return LOGS / f"{record.namespace}_{record.name}_{record.uid}.log"


def _signal_group(record: Record, number: int) -> None:
    if record.running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, number)
