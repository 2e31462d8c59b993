"""One condition on one object: what is said, and whether saying it would change anything.

Every status that the operator writes goes through `with_condition`, which answers None when the object already says the
same. That is the whole defence against write loops: a write makes a watch event, the event a pass, and the pass finds
nothing to write. Conditions of other types are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from crds.bgp_kinds import BGPConfiguration, BGPFilter, BGPPeer
from crds.meta import Condition, Status
from crds.pools import IPAMConfiguration, IPPool, IPReservation

Conditioned = IPPool | IPReservation | IPAMConfiguration | BGPConfiguration | BGPPeer | BGPFilter
R = TypeVar("R", bound=Conditioned)

MESSAGE_MAX = 32768
"""metav1.Condition's limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one condition is to say."""

    type: str
    holds: bool
    reason: str
    message: str


def with_condition(obj: R, statement: Statement, *, wall_stamp: str) -> R | None:
    """The object with that condition, or None if it already says so. `wall_stamp` marks a change of status only."""
    status = "True" if statement.holds else "False"
    conditions: tuple[Condition, ...] = obj.status.conditions if obj.status else ()
    old = next((condition for condition in conditions if condition.type == statement.type), None)
    turned = old is None or old.status != status
    new = Condition(
        type=statement.type,
        status=status,
        reason=statement.reason,
        message=statement.message[:MESSAGE_MAX],
        last_transition_time=wall_stamp if turned or old is None else old.last_transition_time,
        observed_generation=obj.metadata.generation,
    )
    if new == old:
        return None
    kept = [condition for condition in conditions if condition.type != statement.type]
    return msgspec.structs.replace(obj, status=Status(conditions=(*kept, new)))
