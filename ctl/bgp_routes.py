"""`tortiectl bgp routes`: what each node has heard by BGP, what of it is in the kernel, and why the rest is not.

Pure: answers of the agents in, an `Answer` out. A route with `FIB` forwards packets now.

Called by `ctl.main`.
"""

from __future__ import annotations

import ipaddress

from crds.node_status import CalicoNodeStatusStatus, NodeRoute
from ctl.ask_nodes import Answers
from ctl.show import Answer, Grid

_COLUMNS = ("NODE", "PREFIX", "NEXT HOP", "DEVICE", "FROM", "TABLE", "AS PATH")
_WIDE = ("WHY NOT IN THE KERNEL",)


def routes(answers: Answers, *, prefix: str = "") -> Answer:
    """All routes, or those that cover or lie within `prefix`. Raises ValueError when `prefix` is not one."""
    wanted = ipaddress.ip_network(prefix, strict=False) if prefix else None
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, object]] = []
    for node, status in sorted(answers.answered.items()):
        for route in _routes(status):
            network = ipaddress.ip_network(route.destination)
            if wanted is not None and (network.version != wanted.version or not network.overlaps(wanted)):
                continue
            rows.append(_row(node, route))
            data.append(_datum(node, route))
    notes = tuple(f"{node}: its agent did not answer; is tortie-agent running there?" for node in answers.silent)
    return Answer(data=data, grids=(Grid(columns=_COLUMNS, wide_columns=_WIDE, rows=rows),), notes=notes)


def _routes(status: CalicoNodeStatusStatus) -> list[NodeRoute]:
    held = (*status.routes.routes_v4, *status.routes.routes_v6) if status.routes else ()

    def order(route: NodeRoute) -> tuple[int, int, int]:
        network = ipaddress.ip_network(route.destination)
        return network.version, int(network.network_address), network.prefixlen

    return sorted(held, key=order)


def _row(node: str, route: NodeRoute) -> tuple[str, ...]:
    return (
        node,
        route.destination,
        route.gateway or "-",
        route.interface or "-",
        route.learned_from.peer_ip or route.learned_from.source_type,
        route.type,
        " ".join(map(str, route.as_path)) or "-",
        route.reason or "-",
    )


def _datum(node: str, route: NodeRoute) -> dict[str, object]:
    return {
        "node": node,
        "destination": route.destination,
        "gateway": route.gateway,
        "interface": route.interface,
        "sourceType": route.learned_from.source_type,
        "peerIP": route.learned_from.peer_ip,
        "type": route.type,
        "asPath": list(route.as_path),
        "reason": route.reason,
    }
