"""Ask the agents of all nodes about themselves, through the API server.

Theory: no agent listens on the network and `tortiectl` needs no shell on a node. A question is a CalicoNodeStatus
object; the node's agent writes the answer into its status. The question is created, waited for and always deleted
again, also when the wait is interrupted.

Invariants: one slow or dead agent costs the others nothing: all are asked at once, and a node that has not answered
in time is reported as such, by name.

Called by `ctl.node_status` and `ctl.bgp_routes`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crds.core import Node
from crds.errors import NotFound
from crds.kube_store import KubeStore
from crds.meta import ObjectMeta
from crds.node_status import CalicoNodeStatus, CalicoNodeStatusSpec, CalicoNodeStatusStatus

POLL_S = 0.05
LABEL_ASKED_BY = "app.kubernetes.io/created-by"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """By node name. `silent`: nodes whose agent did not answer in time."""

    answered: dict[str, CalicoNodeStatusStatus]
    silent: tuple[str, ...]


def ask_nodes(
    store: KubeStore,
    *,
    nodes: Sequence[str] = (),
    classes: tuple[str, ...],
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Answers:
    """Ask `nodes`, or all. Raises NotFound when a node that is asked for does not exist."""
    known = {node.name for node in store.list(Node).items}
    for name in nodes:
        if name not in known:
            raise NotFound(f"there is no node {name}; known: {_names(known)}")
    questions = {name: _question(name, classes=classes) for name in (nodes or sorted(known))}
    try:
        for question in questions.values():
            store.create(question)
        return _collect(store, questions, deadline_s=clock() + within_s, clock=clock, wait=wait)
    finally:
        for question in questions.values():
            _forget(store, question)


def _question(node: str, *, classes: tuple[str, ...]) -> CalicoNodeStatus:
    # Node names may be as long as object names: the random part alone makes the name.
    name = f"tortiectl-{secrets.token_hex(8)}"
    return CalicoNodeStatus(
        metadata=ObjectMeta(name=name, labels={LABEL_ASKED_BY: "tortiectl"}),
        spec=CalicoNodeStatusSpec(node=node, classes=classes, update_period_seconds=0),
    )


def _collect(
    store: KubeStore,
    questions: dict[str, CalicoNodeStatus],
    *,
    deadline_s: float,
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> Answers:
    by_question = {question.name: node for node, question in questions.items()}
    answered: dict[str, CalicoNodeStatusStatus] = {}
    while len(answered) < len(questions):
        for item in store.list(CalicoNodeStatus, labels=f"{LABEL_ASKED_BY}=tortiectl").items:
            node = by_question.get(item.name)
            if node is not None and item.status is not None and item.status.last_updated:
                answered[node] = item.status
        if clock() >= deadline_s:
            break
        wait(POLL_S)
    return Answers(answered=answered, silent=tuple(node for node in questions if node not in answered))


def _forget(store: KubeStore, question: CalicoNodeStatus) -> None:
    try:
        store.delete(CalicoNodeStatus, question.name)
    except NotFound:
        return


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
