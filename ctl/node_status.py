"""`tortiectl node status`: every node's BGP sessions, as a router would show them.

Pure: answers of the agents in, an `Answer` out. calicoctl shows the node it runs on; this shows all, from anywhere.
The data of `-o json` is one object a node with `peers` in CalicoNodeStatus' own words.

Called by `ctl.main`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from crds.node_status import CalicoNodeStatusStatus, NodePeer
from ctl.ask_nodes import Answers
from ctl.show import Answer, Grid

ESTABLISHED = "Established"
PEER_TYPES = {"NodeMesh": "node-to-node mesh", "NodePeer": "node specific", "GlobalPeer": "global"}

_COLUMNS = ("NODE", "PEER ADDRESS", "AS", "PEER TYPE", "STATE", "UP/DOWN", "RECEIVED", "SENT", "INFO")
_WIDE = ("SINCE",)


def sessions(answers: Answers, *, now: datetime) -> Answer:
    """One row a session of every node that answered; a note for each node that did not."""
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, object]] = []
    for node, status in sorted(answers.answered.items()):
        peers = _peers(status)
        rows.extend(_row(node, peer, now=now) for peer in peers)
        if not peers:
            rows.append((node, "-", "-", "-", "-", "-", "-", "-", "no BGP sessions are wanted", "-"))
        data.append({"node": node, "lastUpdated": status.last_updated, "peers": [_datum(peer) for peer in peers]})
    notes = tuple(f"{node}: its agent did not answer; is tortie-agent running there?" for node in answers.silent)
    data.extend({"node": node, "lastUpdated": "", "peers": []} for node in answers.silent)
    return Answer(data=data, grids=(Grid(columns=_COLUMNS, wide_columns=_WIDE, rows=rows),), notes=notes)


def all_established(answers: Answers) -> bool:
    """Whether every node answered and every wanted session is up."""
    states = [peer.state for status in answers.answered.values() for peer in _peers(status)]
    return not answers.silent and all(state == ESTABLISHED for state in states)


def _peers(status: CalicoNodeStatusStatus) -> tuple[NodePeer, ...]:
    return (*status.bgp.peers_v4, *status.bgp.peers_v6) if status.bgp else ()


def _row(node: str, peer: NodePeer, *, now: datetime) -> tuple[str, ...]:
    return (
        node,
        peer.peer_ip,
        str(peer.as_number or "-"),
        PEER_TYPES.get(peer.type, peer.type),
        peer.state,
        age(peer.since, now=now),
        str(peer.prefixes_received),
        str(peer.prefixes_sent),
        peer.reason or "-",
        peer.since or "-",
    )


def _datum(peer: NodePeer) -> dict[str, object]:
    return {
        "peerIP": peer.peer_ip,
        "asNumber": peer.as_number,
        "type": peer.type,
        "state": peer.state,
        "since": peer.since,
        "prefixesReceived": peer.prefixes_received,
        "prefixesSent": peer.prefixes_sent,
        "reason": peer.reason,
    }


def age(since: str, *, now: datetime) -> str:
    """`since` (RFC 3339) as a router shows it: 00:01:07, 1d02h, never."""
    if not since:
        return "never"
    seconds = max(0, int((now - datetime.fromisoformat(since).astimezone(UTC)).total_seconds()))
    days, rest = divmod(seconds, 86_400)
    if days:
        return f"{days}d{rest // 3600:02}h"
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
