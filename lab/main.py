"""`tortie-lab`: a fabric in a box, from the command line.

What for: two racks, real routers, a real Kubernetes API and Tortie, on one machine with root, in seconds; to look at,
to break and to mend. Every command says what it does and what to try next.

Invariants: no logic here that the library (`fabric`) does not have. Results go to stdout, progress to stderr.

Called by: a person, `make lab`.
"""

from __future__ import annotations

import enum
import json
import os
import shlex
import signal
import sys
import time
from typing import Annotated

import typer

from lab import matrix as reach
from lab import show
from lab.api import ApiRefused
from lab.fabric import Lab, NoSuchLab
from lab.matrix import matrix
from lab.pods import RunningPod
from lab.terminal import EXPECTED, Steps, attach, err, fail, flag_of, need_root, out, print_exports, try_next
from lab.topology import BadTopology

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A routed Kubernetes fabric in network namespaces: racks, BIRD and FRR routers, a real API server, Tortie.",
)


class Output(enum.Enum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


Name = Annotated[str, typer.Option("--name", help="The lab's name; several may be up.")]
End = Annotated[str, typer.Argument(help="A machine at one end of the cable.")]
Fabric = Annotated[str, typer.Option("--topology", help="default, dual-tor, or a YAML file.")]
Format = Annotated[Output, typer.Option("-o", "--output", help="table for people, json for programs.")]


def _up(topology: str, name: str) -> Lab:
    need_root()
    steps = Steps()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of stopping us clean up
    try:
        lab = Lab.up(topology, name=name, say=steps)
    except KeyboardInterrupt:
        fail("interrupted; all that was built has been taken away again")
    except EXPECTED as problem:
        fail(problem)
    err.print(f"{time.monotonic() - steps.began_s:5.1f} s  up: {len(lab.nodes)} nodes are Ready", style="green")
    return lab


@app.command()
def up(
    *,
    topology: Fabric = "default",
    name: Name = "lab",
) -> None:
    """Build a fabric and leave it running.

    Namespaces for the machines, routers, an API server, and Tortie on every node.

    Example: tortie-lab up --topology dual-tor --name two
    """
    lab = _up(topology, name)
    flag = flag_of(name)
    try_next(
        f"tortie-lab demo{flag}",
        f"tortie-lab status{flag}",
        "kubectl get nodes,ippools,bgppeers",
        f"tortie-lab down{flag}",
    )
    print_exports(lab)


@app.command()
def demo(*, name: Name = "lab", topology: Fabric = "default") -> None:
    """Run a pod on each node, show the routes, and ping everything.

    Builds the lab first if there is none; only then does --topology matter.

    Example: tortie-lab demo
    """
    need_root()
    try:
        lab = Lab.attach(name)
    except BadTopology as problem:
        fail(problem)
    except NoSuchLab:
        lab = _up(topology, name)
    try:
        for pod in _one_pod_a_node(lab):
            err.print(f"pod {pod.name} on {pod.node.name}: {', '.join(pod.addresses)}", markup=False)
        _await_reach(lab)
        for router in lab.routers:
            if router.name != "spine":
                err.print(f"\nwhat {router.name} ({router.spec.kind}) has learnt by BGP:", style="bold")
                out.print(router.routes().strip(), markup=False, soft_wrap=True)
        err.print("\nwho reaches whom:", style="bold")
        cells = matrix(lab)
    except EXPECTED as problem:
        fail(problem)
    show.print_matrix(out, cells)
    node, flag = lab.nodes[0].name, flag_of(name)
    try_next(
        f"tortie-lab kill {node} agent{flag} && tortie-lab ping{flag}",
        f"tortie-lab exec{flag} demo-{node} -- ip route",
        f"tortie-lab exec{flag} {node} -- ip route",
        f"tortie-lab cut {lab.plan.cables[0].a.machine} {lab.plan.cables[0].b.machine}{flag}",
        "kubectl get pods -o wide; kubectl get ipamblocks,blockaffinities",
        "tortiectl node status; tortiectl bgp routes; tortiectl ipam show --show-blocks -o wide",
        f"tortie-lab down{flag}",
    )
    print_exports(lab)
    raise typer.Exit(0 if cells and all(cell.ok for cell in cells) else 1)


def _one_pod_a_node(lab: Lab) -> list[RunningPod]:
    """`demo-NODE` on every node; those that run already stay."""
    for node in lab.nodes:
        try:
            lab.api.get(f"/api/v1/namespaces/default/pods/demo-{node.name}")
        except ApiRefused as refused:
            if refused.status != 404:
                raise
            lab.create_pod(f"demo-{node.name}", node.name)
    return [lab.pod(f"demo-{node.name}") for node in lab.nodes]


def _await_reach(lab: Lab, *, within_s: float = 15.0) -> None:
    """Routes take a moment from a new block to the far rack; a demonstration waits for them, `ping` does not."""
    deadline_s = time.monotonic() + within_s
    while not all(cell.ok for cell in matrix(lab)) and time.monotonic() < deadline_s:
        time.sleep(0.3)


@app.command()
def status(*, name: Name = "lab", output: Format = Output.TABLE) -> None:
    """Show what runs, what is down and which cables are cut.

    Control plane, routers and their sessions, nodes and their components, pods.

    Example: tortie-lab status -o json
    """
    lab = attach(name)
    try:
        seen = show.status(lab)
    except (*EXPECTED, OSError) as problem:
        fail(problem)
    if output is Output.JSON:
        print(json.dumps(seen, indent=2))
        return
    show.print_status(out, seen)
    try_next(f"tortie-lab ping{flag_of(name)}", f"export KUBECONFIG={lab.kubeconfig}")


@app.command()
def ping(*, name: Name = "lab", output: Format = Output.TABLE) -> None:
    """Ping every pod from every pod, node and the outside client.

    Exit status 0 only if all answer. Makes a pod on each node first if none runs at all.

    Example: tortie-lab ping -o json
    """
    lab = attach(name)
    try:
        if not lab.running_pods():
            err.print("no pod runs yet: making one on each node")
            _one_pod_a_node(lab)
            _await_reach(lab)
        cells = matrix(lab)
    except (*EXPECTED, OSError) as problem:
        fail(problem)
    if output is Output.JSON:
        print(json.dumps([cell.as_json() for cell in cells]))
    else:
        show.print_matrix(out, cells)
        try_next(f"tortie-lab cut {lab.plan.cables[0].a.machine} {lab.plan.cables[0].b.machine}{flag_of(name)}")
    raise typer.Exit(0 if cells and all(cell.ok for cell in cells) else 1)


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def execute(
    where: Annotated[str, typer.Argument(help="A node, router, host, or pod (NAME or NAMESPACE/NAME).")],
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    *,
    name: Name = "lab",
) -> None:
    """Run a command on a node, or in the network of a pod or router.

    Also in the network of a host: client, cp. Routers answer in their own language, see the examples.

    Examples: tortie-lab exec n1 -- ip route; tortie-lab exec demo-n1 -- ip route;
    tortie-lab exec tor1 -- birdc show route; tortie-lab exec tor2 -- vtysh -c 'show bgp'
    """
    lab = attach(name)
    try:
        if where in {router.name for router in lab.topology.routers} and command[0] in {"birdc", "vtysh"}:
            words = command[1:] if command[0] == "birdc" else [word for word in command[1:] if word != "-c"]
            print(lab.router(where).ask(*words), end="")
            return
        pods = lab.running_pods() if where not in lab.topology.names else []
        prefix = _prefix(lab, where, pods)
    except (*EXPECTED, KeyError, OSError, RuntimeError) as problem:
        fail(problem)
    if not prefix:
        there = ", ".join(reach.pod_name(pod) for pod in pods) or "none"
        fail(f"there is no {where!r}; machines: {', '.join(lab.topology.names)}; pods: {there}")
    os.execvp(prefix[0], [*prefix, *command])


def _prefix(lab: Lab, where: str, pods: list[RunningPod]) -> list[str]:
    """What enters a machine or pod; empty when there is none of that name."""
    if where in {node.name for node in lab.topology.nodes}:
        return lab.node(where).enter()
    if where in lab.topology.names:
        return lab.network(where)
    found = (pod for pod in pods if where in {pod.name, f"{pod.namespace}/{pod.name}"})
    return next((pod.enter() for pod in found), [])


def _need_node_or_router(lab: Lab, name: str) -> None:
    known = [*(node.name for node in lab.topology.nodes), *(router.name for router in lab.topology.routers)]
    if name not in known:
        fail(f"there is no node or router {name!r}; there are: {', '.join(known)}")


@app.command()
def kill(
    node: Annotated[str, typer.Argument(help="A node or a router.")],
    component: Annotated[str, typer.Argument(help="agent, speaker, exabgp, relay, kubelet, node; bgp for a router.")],
    *,
    name: Name = "lab",
) -> None:
    """Kill one part of a node, or a router's BGP, with SIGKILL.

    What kept the part running starts it again. `node` takes the whole node, which stays away until `start`, as does a
    router's BGP.

    Example: tortie-lab kill n1 exabgp
    """
    lab = attach(name)
    _need_node_or_router(lab, node)
    if component != "bgp" and node in {router.name for router in lab.topology.routers}:
        fail(f"{component!r} does not run on router {node}; one can kill: bgp")
    try:
        if node in {router.name for router in lab.topology.routers}:
            lab.router(node).kill_bgp()
        else:
            lab.node(node).kill(component)
    except EXPECTED as problem:
        fail(problem)
    err.print(f"killed {component} on {node}")
    again = (
        f"tortie-lab start {node}{flag_of(name)}"
        if component in {"node", "bgp"}
        else f"tortie-lab status{flag_of(name)}"
    )
    try_next(f"tortie-lab ping{flag_of(name)}", again)


@app.command()
def start(node: Annotated[str, typer.Argument(help="A node or a router.")], *, name: Name = "lab") -> None:
    """Start a node or a router that was killed.

    Example: tortie-lab start n1
    """
    lab = attach(name)
    _need_node_or_router(lab, node)
    try:
        if node in {router.name for router in lab.topology.routers}:
            lab.router(node).stop()
            lab.router(node).start()
        else:
            lab.node(node).start()
    except (*EXPECTED, KeyError, RuntimeError) as problem:
        fail(problem)
    try_next(f"tortie-lab status{flag_of(name)}", f"tortie-lab ping{flag_of(name)}")


@app.command()
def cut(one: End, other: End, *, name: Name = "lab") -> None:
    """Pull the cable between two machines: both lose their carrier.

    Example: tortie-lab cut spine tor1
    """
    lab = attach(name)
    try:
        lab.cut(one, other)
    except (*EXPECTED, KeyError) as problem:
        fail(problem)
    err.print(f"cut {one} - {other}")
    try_next(f"tortie-lab ping{flag_of(name)}", f"tortie-lab heal {one} {other}{flag_of(name)}")


@app.command()
def heal(one: End = "", other: End = "", *, name: Name = "lab") -> None:
    """Plug a cable in again; without names, every cable that is cut.

    Example: tortie-lab heal spine tor1
    """
    lab = attach(name)
    if one and not other:
        fail(f"a cable has two ends: tortie-lab heal {one} OTHER, or without names for every cable")
    try:
        lab.heal(one, other)
    except (*EXPECTED, KeyError) as problem:
        fail(problem)
    try_next(f"tortie-lab ping{flag_of(name)}")


@app.command()
def down(*, name: Name = "lab") -> None:
    """End every process, remove every namespace and file of a lab.

    Works after an interrupted `up` too.

    Example: tortie-lab down
    """
    need_root()
    try:
        found = Lab.remove(name)
    except EXPECTED as problem:
        fail(problem)
    for line in found:
        err.print(f"ended {line}", markup=False)
    err.print(f"lab {name!r} is gone" if found else f"there was no lab {name!r}", markup=False)
    try_next(f"{shlex.join(['tortie-lab', 'up'])}{flag_of(name)}")


def main() -> None:
    """Entry point of `tortie-lab`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
