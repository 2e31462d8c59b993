"""Nodes of a lab: what can be asked of any node, and the light node, which is a handful of namespaces.

What for: tests and commands speak to `Node`; whether a real kubelet or the stand-in runs behind it is not theirs to
know.

Theory: a light node is `nsenter` into its network namespace, then `unshare` into new mount, PID, IPC and UTS
namespaces with `node_init` as PID 1. Killing the process that called `unshare` ends all of it. Each component runs
with exactly the rights that its container will have: the agent as root with two capabilities, the speaker as a user
without any but the right to bind port 179.

Invariants: signals go to processes found in the node's own PID namespace, never by name alone.

Called by: fabric, main, tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lab import processes, topology
from lab.builder import namespace
from lab.cp_process import Daemon, Lifetime
from lab.processes import Process

Json = dict[str, Any]

CHECKOUT = Path(__file__).resolve().parent.parent
SPEAKER_UID = 65534
"""nobody: ExaBGP wants its user in passwd, and gid 0 is refused."""
AGENT_CAPABILITIES = ("net_admin", "sys_admin")
"""NET_ADMIN for routes and links, SYS_ADMIN for setns into a pod's namespace."""
COMPONENTS = ("kubelet", "agent", "speaker")


class NoSuchComponent(LookupError):
    """There is no such thing to kill; the text says what there is."""


class Node(Protocol):
    """What a lab can do with a node."""

    name: str

    def start(self) -> None:
        """Boot it; returns when its first process runs."""

    def stop(self) -> None:
        """End it with all its pods; idempotent."""

    def kill(self, component: str) -> None:
        """SIGKILL a component (agent, speaker, exabgp, relay, kubelet), or the whole node."""

    def exec(self, command: Sequence[str], *, pod_uid: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the node, or in the network of one of its pods."""

    def pods(self) -> list[str]:
        """UIDs of the pods that the node holds now."""


def script(name: str) -> str:
    """Path of one of Tortie's own commands, beside the Python that runs us."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def needed_paths() -> list[Path]:
    """What a node must be able to read of the machine beyond the system itself: Python, its packages, the code."""
    return sorted({Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), CHECKOUT})


@dataclass(slots=True)
class LightNode:
    """A node of namespaces. `directory` is its own on the host; credentials are put there before `start`."""

    lab: str
    spec: topology.Node
    directory: Path

    @property
    def name(self) -> str:
        """The node's name, as in the topology and in Kubernetes."""
        return self.spec.name

    @property
    def state(self) -> Path:
        """The node's `/var/lib/tortie-node`, from outside."""
        return self.directory / "var-lib" / "tortie-node"

    @property
    def _daemon(self) -> Daemon:
        netns = namespace(self.lab, self.name)
        return Daemon(name=self.name, directory=self.directory, netns=netns, lifetime=Lifetime.DETACHED)

    def provision(self, *, labels: Mapping[str, str], annotations: Mapping[str, str], kubelet: Path) -> None:
        """Write what a machine gets when it is installed: kubelet's identity and credentials, the process table."""
        self.state.mkdir(parents=True, exist_ok=True)
        (self.directory / "var-lib" / "kubelet").mkdir(exist_ok=True)
        _copy_private(kubelet, self.directory / "var-lib/kubelet/kubeconfig")
        config = {
            "name": self.name,
            "kubeconfig": "/var/lib/kubelet/kubeconfig",
            "addresses": [str(self.spec.v4), str(self.spec.v6)],
            "labels": dict(labels),
            "annotations": dict(annotations),
        }
        (self.directory / "var-lib/kubelet/config.json").write_text(json.dumps(config))
        (self.directory / "init.json").write_text(json.dumps(self._init_spec()))

    def give_agent(self, *, kubeconfig: Path, token: Path) -> None:
        """Put the agent's credentials in place; may be repeated under a running node."""
        _copy_private(token, self.state / "agent.token")
        _copy_private(kubeconfig, self.state / "agent.kubeconfig")

    def _init_spec(self) -> Json:
        path = f"{sysconfig.get_path('scripts')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {"PATH": path, "HOME": "/", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "NODE_NAME": self.name}
        agent_env = {**base, "KUBECONFIG": "/var/lib/tortie-node/agent.kubeconfig"}
        agent = [*_only_capabilities(AGENT_CAPABILITIES), script("tortie-agent"), "--node", self.name]
        speaker = [*_as_speaker(), script("tortie-speaker"), "--run-dir", "/run/tortie"]
        kubelet = [sys.executable, "-m", "lab.kubelet", "/var/lib/kubelet/config.json"]
        return {
            "name": self.name,
            "directory": str(self.directory),
            "needed": [str(path) for path in needed_paths()],
            "own_directories": {"/run/tortie": [0, "0755"], "/run/tortie-speaker": [SPEAKER_UID, "0750"]},
            "components": [
                {"name": "kubelet", "command": kubelet, "env": base, "backoff_s": 0.1},
                {"name": "agent", "command": agent, "env": agent_env, "backoff_s": 0.2},
                {"name": "speaker", "command": speaker, "env": base, "backoff_s": 0.0},
            ],
        }

    def start(self) -> None:
        """Boot it; returns when process 1 runs and knows what to start."""
        (self.state / "components.json").unlink(missing_ok=True)
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc", "--kill-child"]
        init = [sys.executable, "-m", "lab.node_init", str(self.directory / "init.json")]
        self._daemon.start([*unshare, *init])
        deadline_s = time.monotonic() + 10
        while not (self.state / "components.json").exists():
            if self._daemon.pid is None or time.monotonic() > deadline_s:
                raise RuntimeError(f"node {self.name} did not boot: {self._daemon.last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGKILL process 1: as when the power goes. Everything in the node ends with it."""
        if (init := self._init_pid()) is not None:
            Process(init, processes.start_ticks(init)).send(signal.SIGKILL)
        self._daemon.stop(grace_s=2)

    def kill(self, component: str) -> None:
        """SIGKILL a component, which process 1 starts again; `node` is `stop` and stays down."""
        if component == "node":
            self.stop()
            return
        for process in self.find(component):
            process.send(signal.SIGKILL)

    def hold(self, component: str) -> None:
        """Take a component away until `release`."""
        (self.state / "stopped" / component).touch()
        self._nudge()

    def release(self, component: str) -> None:
        """Let a held component start again."""
        (self.state / "stopped" / component).unlink(missing_ok=True)
        self._nudge()

    def _nudge(self) -> None:
        if (init := self._init_pid()) is not None:
            os.kill(init, signal.SIGHUP)

    def find(self, component: str) -> list[Process]:
        """The processes of a component; NoSuchComponent when none runs."""
        found = [p for p in self.processes() if _is_component(p, component)]
        if component in COMPONENTS:
            inner = self.components().get(component, {}).get("pid", 0)
            found = [p for p in self.processes() if _inner_pid(p.pid) == inner]
        if not found:
            allowed = ", ".join((*COMPONENTS, "exabgp", "relay", "node"))
            raise NoSuchComponent(f"{component!r} does not run on {self.name}; one can kill {allowed}")
        return found

    def components(self) -> dict[str, Json]:
        """What process 1 says of its children: pid (inside), starts, last_exit."""
        try:
            answer: dict[str, Json] = json.loads((self.state / "components.json").read_text())
        except OSError:
            return {}
        return answer

    def processes(self) -> list[Process]:
        """Every process in the node, pods' included."""
        init = self._init_pid()
        return processes.inside([Path(f"/proc/{init}/ns/pid")]) if init is not None else []

    @property
    def running(self) -> bool:
        """Whether process 1 lives."""
        return self._init_pid() is not None

    def enter(self, *, pod_uid: str = "") -> list[str]:
        """The command prefix that runs something on the node, or in the network of one of its pods."""
        prefix = ["nsenter", f"--target={self._living_init()}", "--mount", "--net", "--pid", "--uts", "--ipc"]
        pinned = self._pod_network(pod_uid)
        return [*prefix, "nsenter", f"--net={pinned}"] if pinned else prefix

    def network(self, *, pod_uid: str = "") -> list[str]:
        """The command prefix that runs a program of the machine in the node's or a pod's network, and only that."""
        pinned = self._pod_network(pod_uid)
        if pinned:
            return ["nsenter", f"--net=/proc/{self._living_init()}/root{pinned}"]
        return ["nsenter", f"--net=/run/netns/{namespace(self.lab, self.name)}"]

    def _pod_network(self, pod_uid: str) -> str:
        """Where a pod's namespace is pinned, as the node sees it; '' for the node's own network."""
        record = self.record(pod_uid) if pod_uid else None
        return "" if record is None or record["host_network"] else f"/run/netns/cni-{record['container_id'][:32]}"

    def _living_init(self) -> int:
        init = self._init_pid()
        if init is None:
            raise RuntimeError(f"node {self.name} is down")
        return init

    def exec(self, command: Sequence[str], *, pod_uid: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end with all rights of the machine's root."""
        return subprocess.run([*self.enter(pod_uid=pod_uid), *command], capture_output=True, text=True, check=False)

    def pods(self) -> list[str]:
        """UIDs of the pods that have a sandbox here."""
        return sorted(path.stem for path in (self.directory / "var-lib/kubelet/pods").glob("*.json"))

    def record(self, pod_uid: str) -> Json:
        """The kubelet stand-in's record of a pod (`sandbox.Record`); LookupError when there is none."""
        try:
            answer: Json = json.loads((self.directory / "var-lib/kubelet/pods" / f"{pod_uid}.json").read_text())
        except OSError as error:
            raise LookupError(f"no sandbox of pod {pod_uid} on {self.name}") from error
        return answer

    def log(self, component: str) -> Path:
        """Where a component's output goes, from outside."""
        return self.state / "log" / f"{component}.log"

    def _init_pid(self) -> int | None:
        outer = self._daemon.pid
        if outer is None:
            return None
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None


def _only_capabilities(names: Sequence[str]) -> list[str]:
    allowed = ",".join(f"+{name}" for name in names)
    return ["setpriv", f"--bounding-set=-all,{allowed}", "--inh-caps=-all", "--no-new-privs"]


def _as_speaker() -> list[str]:
    """A stranger to the node that may bind port 179. In a cluster the file capability of its Python does this."""
    return [
        "setpriv",
        f"--reuid={SPEAKER_UID}",
        f"--regid={SPEAKER_UID}",
        "--clear-groups",
        "--inh-caps=-all,+net_bind_service",
        "--ambient-caps=-all,+net_bind_service",
        "--bounding-set=-all,+net_bind_service",
        "--no-new-privs",
    ]


def _is_component(process: Process, component: str) -> bool:
    words = " ".join(process.command)
    match component:
        case "exabgp":
            return "bgp.exabgp_program server" in words
        case "relay":
            return "bgp/relay.py" in words
        case _:
            return False


def _inner_pid(pid: int) -> int:
    """The pid that a process has in its own, innermost namespace."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return -1
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])


def _copy_private(source: Path, target: Path) -> None:
    new = target.with_name(target.name + ".new")
    shutil.copyfile(source, new)
    new.chmod(0o600)
    new.rename(target)
