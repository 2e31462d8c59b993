"""`tortiectl`: commands, options and their help. What they do is in the modules that each one calls.

Exit status: 0 all well, 1 the cluster said no or an answer is bad news (a session down, an agent silent), 2 the
command line is wrong.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from typing import Annotated

import typer

from crds.blocks import IPAMBlock
from crds.cluster import ClusterInformation
from crds.errors import NotFound
from crds.node_status import CLASS_BGP, CLASS_ROUTES
from crds.pools import IPPool, IPReservation
from ctl import bgp_routes, ipam_show, node_status
from ctl.ask_nodes import ask_nodes
from ctl.connection import ExitCode, Target, cluster, fail
from ctl.show import Answer, Format, Grid, emit

app = typer.Typer(
    name="tortiectl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="See what Tortie does in a cluster: addresses, BGP sessions, routes.",
    epilog="Example: tortiectl node status",
)
node_app = typer.Typer(no_args_is_help=True, help="Nodes and their BGP sessions.")
ipam_app = typer.Typer(no_args_is_help=True, help="Pools, blocks and addresses.")
bgp_app = typer.Typer(no_args_is_help=True, help="What the nodes heard by BGP.")
app.add_typer(node_app, name="node")
app.add_typer(ipam_app, name="ipam")
app.add_typer(bgp_app, name="bgp")

Output = Annotated[Format, typer.Option("--output", "-o", help="Form of the answer.", case_sensitive=False)]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the agents' answers.")]
Nodes = Annotated[list[str] | None, typer.Argument(help="Names of nodes; all if none is given.")]


@app.callback()
def options(
    context: typer.Context,
    kubeconfig: Annotated[str, typer.Option(help="Kubeconfig file; else KUBECONFIG, else ~/.kube/config.")] = "",
    kube_context: Annotated[str, typer.Option("--context", help="Context in it; else its current one.")] = "",
) -> None:
    """Options that stand before the command."""
    context.obj = Target(kubeconfig=kubeconfig, context=kube_context)


@app.command(epilog="Example: tortiectl version -o json")
def version(
    context: typer.Context,
    client: Annotated[
        bool,
        typer.Option("--client", help="Only this program's version; asks no cluster."),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show the versions of this program and of the cluster."""
    data = {"clientVersion": package_version("tortie")}
    rows = [("Client Version", data["clientVersion"])]
    if not client:
        with cluster(context.obj) as store:
            data["serverVersion"] = str(store.request("GET", "/version")["gitVersion"])
            rows.append(("Kubernetes Version", data["serverVersion"]))
            try:
                spec = store.get(ClusterInformation, "default").spec
                data |= {"clusterGUID": spec.cluster_guid, "clusterType": spec.cluster_type}
                rows += [("Cluster GUID", spec.cluster_guid), ("Cluster Type", spec.cluster_type)]
            except NotFound:
                rows.append(("Cluster GUID", "none yet: tortie-operator has not run on this cluster"))
    emit(Answer(data=data, grids=(Grid(columns=("WHAT", "VALUE"), rows=rows),)), output=output)


@node_app.command("status", epilog="Example: tortiectl node status n1 n2 -o json")
def show_node_status(
    context: typer.Context, nodes: Nodes = None, output: Output = Format.TABLE, timeout: Timeout = 5.0
) -> None:
    """Show the BGP sessions of every node. Exit status 1 when a session is down or an agent is silent."""
    with cluster(context.obj) as store:
        answers = ask_nodes(store, nodes=nodes or (), classes=(CLASS_BGP,), within_s=timeout)
    emit(node_status.sessions(answers, now=datetime.now(UTC)), output=output)
    if not node_status.all_established(answers):
        raise typer.Exit(ExitCode.FAILED)


@bgp_app.command("routes", epilog="Example: tortiectl bgp routes n1 --prefix 10.244.0.0/16 -o wide")
def show_bgp_routes(
    context: typer.Context,
    nodes: Nodes = None,
    prefix: Annotated[str, typer.Option(help="Only routes that cover this prefix or lie in it.")] = "",
    output: Output = Format.TABLE,
    timeout: Timeout = 5.0,
) -> None:
    """Show the routes that nodes heard by BGP, and which of them the kernel uses."""
    try:
        ipaddress.ip_network(prefix or "0.0.0.0/0", strict=False)
    except ValueError:
        fail(f"--prefix: {prefix!r} is not an address or prefix such as 10.244.0.0/16")
    with cluster(context.obj) as store:
        answers = ask_nodes(store, nodes=nodes or (), classes=(CLASS_ROUTES,), within_s=timeout)
    emit(bgp_routes.routes(answers, prefix=prefix), output=output)
    if answers.silent:
        raise typer.Exit(ExitCode.FAILED)


@ipam_app.command("show", epilog="Examples: tortiectl ipam show --show-blocks; tortiectl ipam show --ip=10.244.0.5")
def show_ipam(
    context: typer.Context,
    ip: Annotated[str, typer.Option("--ip", help="Who has this one address.")] = "",
    show_blocks: Annotated[
        bool,
        typer.Option("--show-blocks", help="Also each block, and (with -o wide) the node that owns it."),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show how full the pools are, or who has one address."""
    if ip:
        try:
            wanted = ipaddress.ip_address(ip)
        except ValueError:
            fail(f"--ip: {ip!r} is not an address such as 10.244.0.5")
        with cluster(context.obj) as store:
            answer = ipam_show.address(wanted, blocks=store.list(IPAMBlock).items)
    else:
        show = ipam_show.pools_and_blocks if show_blocks else ipam_show.pools
        with cluster(context.obj) as store:
            answer = show(store.list(IPPool).items, store.list(IPAMBlock).items, store.list(IPReservation).items)
    emit(answer, output=output)


def main() -> None:
    """Entry point."""
    app()
