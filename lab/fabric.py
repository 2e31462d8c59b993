"""A lab: up, looked at, broken, mended, down. The library behind `tortie-lab` and the tests.

What for: `with Lab.up("default") as lab:` gives a real fabric with a real control plane and Tortie on every node.

Theory: `up` is a list of steps, each a method with one sentence that says what is done and why; the sentences are what
a reader of the terminal sees. Everything that outlives us is found again from the run directory (pid files,
settings) and from the names of the network namespaces, so `down` works after any end of `up`.

Invariants: all files of a lab are below `/run/tortie-lab/NAME`; all its namespaces begin with `tortie-NAME-`;
`down` is idempotent and leaves neither processes, namespaces, mounts nor files.

Called by: main, tests/lab.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import builder, cabling, objects, pods, processes, topology
from lab.api import Api
from lab.builder import namespace
from lab.controlplane import ControlPlane, Side
from lab.cp_process import Daemon, Lifetime
from lab.cp_settings import Settings
from lab.fabric_routers import FabricRouter
from lab.node import CHECKOUT, LightNode, script
from lab.pods import NotYet, RunningPod
from lab.topology import BadTopology, Topology

Json = dict[str, Any]
Say = Callable[[str], None]

RUN = Path("/run/tortie-lab")
LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
"""No dash: namespaces of lab `a` must never look like those of a lab `a-b`."""
READY_WITHIN_S = 90.0


class LabExists(RuntimeError):
    """A lab of that name is there already."""


class NoSuchLab(LookupError):
    """No lab of that name."""


def check_name(name: str) -> None:
    """BadTopology unless a lab may be called so; the name becomes a directory, which `down` empties and removes."""
    if not LAB_NAME.fullmatch(name):
        raise BadTopology("name", f"is {name!r}; allowed: a letter, then up to 15 letters and digits, lower case")


@dataclass(slots=True)
class Lab:
    """A fabric and all that runs on it. Made by `up` or `attach`."""

    name: str
    topology: Topology
    say: Say = field(default=lambda _: None, repr=False)
    _api: Api | None = field(default=None, repr=False)
    _control_plane: ControlPlane | None = field(default=None, repr=False)

    # ---- life

    @classmethod
    def up(cls, which: str | Topology = "default", *, name: str = "lab", say: Say = lambda _: None) -> Lab:
        """Build a whole lab and return when every node is Ready; on any failure it is taken down again."""
        check_name(name)
        chosen = which if isinstance(which, Topology) else topology.load(topology.find(which))
        lab = cls(name, chosen, say)
        if lab.directory.exists() or builder.namespaces(name):
            raise LabExists(f"there is a lab {name!r} already (or what is left of one): tortie-lab down --name {name}")
        try:
            lab._build()
            lab._boot()
        except BaseException:
            with contextlib.suppress(ValueError):  # not in the main thread: then Ctrl-C is not ours anyway
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave half of it
            say("taking away again what was built so far")
            cls.remove(name)
            raise
        return lab

    @classmethod
    def attach(cls, name: str = "lab", *, say: Say = lambda _: None) -> Lab:
        """The lab that an earlier `up` left running; NoSuchLab when there is none."""
        check_name(name)
        try:
            chosen = topology.decode((RUN / name / "topology.json").read_bytes())
        except FileNotFoundError:
            known = ", ".join(sorted(p.name for p in RUN.iterdir())) if RUN.is_dir() else ""
            raise NoSuchLab(f"no lab {name!r} is up{'; there are: ' + known if known else ''}") from None
        return cls(name, chosen, say)

    @classmethod
    def remove(cls, name: str, *, say: Say = lambda _: None) -> list[str]:
        """Take a lab down by its name alone, also one whose `up` never finished. Returns what was found and ended.

        BadTopology for what no lab can be called: an empty name would be the directory of all labs.
        """
        check_name(name)
        found = [f"node {path.parent.name}" for path in _pid_files(name, "nodes")]
        for path in _pid_files(name, "nodes"):  # SIGKILL takes a whole node along
            Daemon(name=path.stem, directory=path.parent, lifetime=Lifetime.DETACHED).stop(grace_s=0)
        for path in _pid_files(name, ""):
            found.append(f"process {path.stem}")
            Daemon(name=path.stem, directory=path.parent, lifetime=Lifetime.DETACHED).stop(grace_s=0)
        strays = processes.inside(builder.NETNS_DIRECTORY / netns for netns in builder.namespaces(name))
        processes.end(strays)
        found += [f"network namespace {netns}" for netns in builder.destroy(lab=name)]
        shutil.rmtree(RUN / name, ignore_errors=True)
        if RUN.is_dir() and not any(RUN.iterdir()):
            RUN.rmdir()
        for line in found:
            say(f"ended {line}")
        return found

    def down(self) -> list[str]:
        """Take everything away; idempotent."""
        return self.remove(self.name, say=self.say)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # ---- parts

    @property
    def directory(self) -> Path:
        """Where all files of this lab are."""
        return RUN / self.name

    @property
    def plan(self) -> cabling.Plan:
        """The kernel objects of the fabric."""
        return cabling.plan(self.topology)

    @property
    def control_plane(self) -> ControlPlane:
        """etcd and kube-apiserver."""
        if self._control_plane is None:
            self._control_plane = ControlPlane.load(self.directory / "control-plane")
        return self._control_plane

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for kubectl on this machine."""
        return self.control_plane.kubeconfig

    @property
    def api(self) -> Api:
        """The API as administrator, in plain dicts."""
        if self._api is None:
            self._api = Api(self.kubeconfig)
        return self._api

    def node(self, name: str) -> LightNode:
        """A node by name; KeyError when there is none."""
        return LightNode(self.name, self.topology.node(name), self.directory / "nodes" / name)

    @property
    def nodes(self) -> tuple[LightNode, ...]:
        """All nodes."""
        return tuple(self.node(spec.name) for spec in self.topology.nodes)

    def router(self, name: str) -> FabricRouter:
        """A router by name; KeyError when there is none."""
        return FabricRouter(self.name, self.topology, self.topology.router(name), self.directory / "routers" / name)

    @property
    def routers(self) -> tuple[FabricRouter, ...]:
        """All routers."""
        return tuple(self.router(spec.name) for spec in self.topology.routers)

    @property
    def operator(self) -> Daemon:
        """The operator's process, which stands beside the control plane."""
        netns = namespace(self.name, self.topology.control_plane)
        return Daemon(name="operator", directory=self.directory, netns=netns, lifetime=Lifetime.DETACHED)

    # ---- building

    def _build(self) -> None:
        """Fabric, control plane, routers, Tortie's objects, operator."""
        self.directory.mkdir(parents=True)
        (self.directory / "topology.json").write_bytes(topology.encode(self.topology))
        plan = self.plan
        self.say(
            f"fabric: {len(plan.machines)} network namespaces, one for each machine, and {len(plan.cables)} cables "
            "between them, each a veth pair; IPv4 and IPv6 addresses; nodes get a default route to their router"
        )
        builder.build(plan, lab=self.name)
        self.say("routers: BIRD and FRR, one eBGP session for each link and family; they know nothing of Kubernetes")
        with ThreadPoolExecutor() as pool:
            list(pool.map(FabricRouter.start, self.routers))
        self.say("control plane: a real etcd and kube-apiserver, as a host behind the spine")
        address = self.topology.host(self.topology.control_plane)
        self._control_plane = ControlPlane.create(
            self.directory / "control-plane",
            Settings(
                netns=namespace(self.name, self.topology.control_plane),
                address=str(address.v4),
                names=(str(address.v6),),
                lifetime=Lifetime.DETACHED,
            ),
        )
        self.control_plane.start()
        self.say("kubectl apply: CustomResourceDefinitions (Calico's API) and the rights of agent and operator")
        self.control_plane.apply(CHECKOUT / "crds" / "manifests", CHECKOUT / "deploy" / "rbac")
        self.say("operator: accepts pools, releases what is no longer used; never in the path of a pod's start")
        self.start_operator()
        self.say(f"kubectl apply: {len(self.topology.pools)} IPPools, the BGPConfiguration and the BGPPeers")
        self.apply([*objects.pools(self.topology), *objects.bgp(self.topology)])

    def start_operator(self) -> None:
        """Run `tortie-operator` with its own ServiceAccount and no capability."""
        kubeconfig = self.control_plane.kubeconfig_for_account("tortie-operator", side=Side.FABRIC)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONUNBUFFERED": "1"}
        # The topology names its pools; without this the operator, if it looks before they are applied, makes one too.
        environment["NO_DEFAULT_POOLS"] = "true"
        bounded = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        keep = [sys.executable, "-m", "lab.keep"]
        self.operator.start([*bounded, *keep, script("tortie-operator")], environment=environment)

    def _boot(self) -> None:
        """Boot every node and wait until Kubernetes calls it Ready."""
        self.say("nodes: network, mount and PID namespaces; in each a kubelet stand-in, tortie-agent, tortie-speaker")
        agent = self.control_plane.kubeconfig_for_account(
            "tortie-agent", side=Side.FABRIC, token_file=Path("/var/lib/tortie-node/agent.token")
        )
        for node in self.nodes:
            kubelet = self.control_plane.kubeconfig_for_user(
                f"system:node:{node.name}", groups=("system:nodes",), side=Side.FABRIC
            )
            node.provision(
                labels=objects.node_labels(node.spec),
                annotations=objects.node_annotations(node.spec),
                kubelet=kubelet,
            )
            node.give_agent(kubeconfig=agent, token=self.control_plane.token_path("tortie-agent"))
            node.start()
        self.say("waiting: the agent installs the CNI configuration, and with that the node is Ready")
        self.wait_ready()
        self.say("waiting: BGP sessions come up, and every node learns where the others' blocks are")
        self.wait_routed()

    def wait_ready(self, *, within_s: float = READY_WITHIN_S) -> None:
        """Return when every node of the topology is Ready; NotYet says what is missing."""
        pods.wait_for(self._all_ready, within_s=within_s, what="all nodes are Ready")

    def _all_ready(self) -> bool:
        known = {node["metadata"]["name"]: node for node in self.api.get("/api/v1/nodes")["items"]}
        for spec in self.topology.nodes:
            conditions = known.get(spec.name, {}).get("status", {}).get("conditions", [])
            ready = next((c for c in conditions if c["type"] == "Ready"), {"status": "False", "message": "no word yet"})
            if ready["status"] != "True":
                raise NotYet(f"{spec.name}: {ready['message']}")
        return True

    def wait_routed(self, *, within_s: float = READY_WITHIN_S) -> None:
        """Return when every node has a block, and a route to each block of the others."""
        pods.wait_for(self._all_routed, within_s=within_s, what="every node has routes to the others' blocks")

    def _all_routed(self) -> bool:
        affinities = [item["spec"] for item in self.api.get("/apis/projectcalico.org/v3/blockaffinities")["items"]]
        for node in (spec.name for spec in self.topology.nodes):
            if not any(spec["node"] == node and spec["state"] == "confirmed" for spec in affinities):
                raise NotYet(f"{node} has no block")
            known = {route["dst"] for family in ("-4", "-6") for route in self._routes(node, family)}
            missing = {spec["cidr"] for spec in affinities if spec["node"] != node} - known
            if missing:
                raise NotYet(f"{node} has no route to {', '.join(sorted(missing))}")
        return True

    def _routes(self, machine: str, family: str) -> list[Json]:
        found: list[Json] = json.loads(self.exec(machine, ["ip", "-j", family, "route"]).stdout)
        return found

    # ---- use

    def apply(self, wanted: Sequence[Json]) -> None:
        """`kubectl apply` of objects."""
        self.control_plane.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
        )

    def create_pod(self, name: str, node: str, *, namespace: str = "default", **wanted: Any) -> None:
        """Create a Pod bound to a node, without waiting; further arguments are those of `objects.pod`."""
        made = objects.pod(name, node=node, namespace=namespace, **wanted)
        self.api.post(f"/api/v1/namespaces/{namespace}/pods", made)

    def run_pod(
        self, name: str, node: str, *, namespace: str = "default", within_s: float = 30.0, **wanted: Any
    ) -> RunningPod:
        """`create_pod`, and return when it runs; NotYet carries the kubelet's complaint."""
        self.create_pod(name, node, namespace=namespace, **wanted)
        return self.pod(name, namespace=namespace, within_s=within_s)

    def pod(self, name: str, *, namespace: str = "default", within_s: float = 30.0) -> RunningPod:
        """A pod that exists, once it runs."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"

        def look() -> RunningPod:
            found = self.api.get(path)
            return pods.running(found, node=self.node(found["spec"]["nodeName"]), api=self.api)

        found: RunningPod = pods.wait_for(look, within_s=within_s, what=f"pod {name} runs")
        return found

    def running_pods(self) -> list[RunningPod]:
        """All pods that run, on their own network."""
        found = []
        for item in self.api.get("/api/v1/pods")["items"]:
            if item["spec"].get("nodeName") and not item["spec"].get("hostNetwork"):
                try:
                    found.append(pods.running(item, node=self.node(item["spec"]["nodeName"]), api=self.api))
                except NotYet:
                    continue
        return found

    def network(self, machine: str) -> list[str]:
        """The command prefix that runs something in a machine's network."""
        if machine not in self.topology.names:
            raise KeyError(f"no machine {machine!r}; there are: {', '.join(self.topology.names)}")
        return ["nsenter", f"--net={builder.NETNS_DIRECTORY / namespace(self.name, machine)}"]

    def exec(self, where: str | RunningPod, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, in a pod, or in the network of a router or host."""
        if isinstance(where, RunningPod):
            return where.exec(command)
        if where in {node.name for node in self.topology.nodes}:
            return self.node(where).exec(command)
        return subprocess.run([*self.network(where), *command], capture_output=True, text=True, check=False)

    @contextlib.contextmanager
    def probing(self, here: RunningPod | str, there: RunningPod | str, *, to: str = "") -> Iterator[pods.Probing]:
        """200 UDP probes a second and a TCP stream from `here` to `there` (pods, or names of machines)."""
        target = to or (there.ip if isinstance(there, RunningPod) else str(self._address(there)))
        ends = [place.network() if isinstance(place, RunningPod) else self.network(place) for place in (here, there)]
        with pods.Probing(ends[0], ends[1], to=target, directory=self.directory / "probes") as probing:
            yield probing

    def _address(self, machine: str) -> object:
        return next(leaf.v4 for leaf in self.topology.leaves if leaf.name == machine)

    def cut(self, one: str, other: str) -> None:
        """Pull the cable between two machines; KeyError, naming all cables, when there is none."""
        builder.cut(self.plan.cable(one, other), lab=self.name)

    def heal(self, one: str = "", other: str = "") -> None:
        """Plug a cable in again; without names, all of them."""
        cables = [self.plan.cable(one, other)] if one else self.plan.cables
        for cable in cables:
            builder.heal(cable, lab=self.name)

    def cut_cables(self) -> list[cabling.Cable]:
        """The cables that are cut now."""
        return [cable for cable in self.plan.cables if builder.is_cut(cable, lab=self.name)]


def _pid_files(name: str, below: str) -> list[Path]:
    """Pid files of ours; those that a daemon writes for itself hold a bare number."""
    found = (RUN / name / below).rglob("*.pid") if (RUN / name / below).is_dir() else ()
    return sorted(path for path in found if path.read_text().startswith("["))
