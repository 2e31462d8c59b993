"""Tables of the lab for people, data for programs. Colour only on a terminal (rich sees to that).

Called by: main.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from lab.api import ApiRefused
from lab.fabric import Lab
from lab.matrix import Cell
from lab.routers_run import RouterFailed

Json = dict[str, Any]


def status(lab: Lab) -> Json:
    """Everything that `status` knows, as plain data."""
    return {
        "name": lab.name,
        "topology": lab.topology.description,
        "kubeconfig": str(lab.kubeconfig),
        "controlPlane": {name: pid is not None for name, pid in lab.control_plane.processes().items()},
        "operator": lab.operator.pid is not None,
        "routers": [_router(lab, spec.name) for spec in lab.topology.routers],
        "nodes": [_node(lab, spec.name) for spec in lab.topology.nodes],
        "cut": [[cable.a.machine, cable.b.machine] for cable in lab.cut_cables()],
        "pods": [
            {"name": pod.name, "namespace": pod.namespace, "node": pod.node.name, "addresses": list(pod.addresses)}
            for pod in lab.running_pods()
        ],
    }


def _router(lab: Lab, name: str) -> Json:
    router = lab.router(name)
    try:
        established = router.established() if router.alive() else 0
    except RouterFailed:
        established = 0
    return {
        "name": name,
        "kind": router.spec.kind,
        "asn": router.spec.asn,
        "up": router.alive(),
        "sessions": established,
    }


def _node(lab: Lab, name: str) -> Json:
    node = lab.node(name)
    components = node.components() if node.running else {}
    try:
        conditions = lab.api.get(f"/api/v1/nodes/{name}").get("status", {}).get("conditions", [])
    except ApiRefused:
        conditions = []
    return {
        "name": name,
        "rack": node.spec.rack,
        "asn": node.spec.asn,
        "addresses": [str(node.spec.v4), str(node.spec.v6)],
        "up": node.running,
        "ready": any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        "components": {
            part: {"up": bool(state["pid"]), "restarts": state["starts"] - 1} for part, state in components.items()
        },
    }


def print_status(console: Console, seen: Json) -> None:
    """`status` as tables."""
    console.print(f"[bold]{seen['name']}[/bold]: {seen['topology']}", soft_wrap=True)
    parts = {**seen["controlPlane"], "operator": seen["operator"]}
    console.print("control plane: " + ", ".join(f"{name} {_up(up)}" for name, up in parts.items()))
    routers = Table("ROUTER", "KIND", "AS", "STATE", "SESSIONS UP", box=None, pad_edge=False)
    for router in seen["routers"]:
        routers.add_row(router["name"], router["kind"], str(router["asn"]), _up(router["up"]), str(router["sessions"]))
    nodes = Table("NODE", "RACK", "AS", "READY", "ADDRESSES", "COMPONENTS (restarts)", box=None, pad_edge=False)
    for node in seen["nodes"]:
        parts_of = [f"{part} {_up(state['up'])} ({state['restarts']})" for part, state in node["components"].items()]
        state = "yes" if node["ready"] and node["up"] else "[red]no[/red]"
        addresses = " ".join(node["addresses"])
        nodes.add_row(
            node["name"], node["rack"], str(node["asn"]), state, addresses, ", ".join(parts_of) or "[red]down[/red]"
        )
    pods = Table("POD", "NODE", "ADDRESSES", box=None, pad_edge=False)
    for pod in seen["pods"]:
        pods.add_row(f"{pod['namespace']}/{pod['name']}", pod["node"], " ".join(pod["addresses"]))
    for table in (routers, nodes, *([pods] if seen["pods"] else [])):
        console.print()
        console.print(table)
    if seen["cut"]:
        console.print("\n[red]cut:[/red] " + ", ".join(" - ".join(pair) for pair in seen["cut"]))


def print_matrix(console: Console, cells: list[Cell]) -> None:
    """The ping matrix: a row for each source, a column for each pod, milliseconds or a cross."""
    targets = list(dict.fromkeys(cell.target for cell in cells))
    table = Table("FROM \\ TO", box=None, pad_edge=False)
    for target in targets:
        table.add_column(target, justify="right")
    for source in dict.fromkeys(cell.source for cell in cells):
        row = {cell.target: cell for cell in cells if cell.source == source}
        table.add_row(source, *(_time(row[target]) for target in targets))
    console.print(table)
    good = sum(cell.ok for cell in cells)
    console.print(f"{good} of {len(cells)} ok; milliseconds, the slowest of IPv4 and IPv6")


def _time(cell: Cell) -> str:
    return f"[green]{cell.ms:.1f}[/green]" if cell.ms is not None else "[red]x[/red]"


def _up(running: bool) -> str:  # noqa: FBT001 a state to be shown, not a switch
    return "[green]up[/green]" if running else "[red]down[/red]"
