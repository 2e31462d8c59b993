"""What the operator wants changed, as values; and the one place that carries them out.

A planner returns actions, so that a test or a log line can show a pass before it happens. Each is one request with a
precondition: all but Create carry the resourceVersion they were planned on, Delete the UID too. If the world has moved,
the server refuses, the action is dropped and the next pass plans again from what is then; so no plan needs to be
undone, and two operators at once only waste requests.

`apply` returns what the server answered, which is fed back to the view at once: the next pass must not plan the same
thing again because its watch event is still on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, assert_never

from crds.errors import AlreadyExists, ApiError, Conflict, NotFound
from crds.meta import Resource
from crds.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Create:
    """Make `obj`; somebody who was quicker is left alone."""

    obj: Resource
    why: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Write `obj` over the version it was read at."""

    obj: Resource
    why: str


@dataclass(frozen=True, slots=True)
class ReplaceStatus:
    """Write the status of `obj` over the version it was read at."""

    obj: Resource
    why: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly this object in exactly this version."""

    obj: Resource
    why: str


@dataclass(frozen=True, slots=True)
class SetFinalizers:
    """Write the finalizers of `obj` and nothing else, so that fields which this version does not know stay."""

    obj: Resource
    finalizers: tuple[str, ...]
    why: str


Action = Create | Replace | ReplaceStatus | SetFinalizers | Delete


@dataclass(slots=True)
class Outcome:
    """What came of a list of actions."""

    stored: list[Resource] = field(default_factory=list)
    """Objects as the server now has them."""
    deleted: list[Resource] = field(default_factory=list)
    """Objects for which the server accepted the deletion; one with finalizers of others may still be there."""
    moved: list[Action] = field(default_factory=list)
    """Refused because the object had changed: look again."""
    failed: list[tuple[Action, Exception]] = field(default_factory=list)
    """Refused or unanswered for another reason: look again, later."""


async def apply(store: Store, actions: Iterable[Action]) -> Outcome:
    """Carry the actions out in order; the failure of one never keeps back the others."""
    outcome = Outcome()
    for action in actions:
        try:
            await _apply_one(store, action, outcome)
        except (Conflict, NotFound, AlreadyExists):
            outcome.moved.append(action)
        except (ApiError, OSError, TimeoutError) as error:
            outcome.failed.append((action, error))
            log.warning("write failed %s error=%r", describe(action), str(error))
    return outcome


async def _apply_one(store: Store, action: Action, outcome: Outcome) -> None:
    match action:
        case Create(obj=obj):
            outcome.stored.append(await store.create(obj))
        case Replace(obj=obj):
            outcome.stored.append(await store.replace(obj))
        case ReplaceStatus(obj=obj):
            outcome.stored.append(await store.replace_status(obj))
        case SetFinalizers(obj=obj, finalizers=finalizers):
            meta = obj.metadata
            patch = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": list(finalizers)}}
            outcome.stored.append(await store.patch(type(obj), meta.name, patch))
        case Delete(obj=obj):
            kind: type[Any] = type(obj)
            meta = obj.metadata
            await store.delete(
                kind, meta.name, namespace=meta.namespace, uid=meta.uid, resource_version=meta.resource_version
            )
            outcome.deleted.append(obj)
        case _:
            assert_never(action)
    log.info("%s", describe(action))


def describe(action: Action) -> str:
    """One line for a log: what is done to which object, and why."""
    obj = action.obj
    return f"action={type(action).__name__} kind={obj.kind} name={obj.metadata.name} why={action.why!r}"
