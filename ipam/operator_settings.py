"""The operator's settings, read from the environment once at the start.

The environment and not flags, because `kopf run -m ipam.handlers` passes none on. All durations are seconds; each
default and its reason stand at the field it sets. A value that is no positive number ends the start with one sentence.

    TORTIE_SETTLE_S, TORTIE_RELEASE_S                     healing of half states (operator_affinity.HealTimes)
    TORTIE_FENCE_S, TORTIE_FENCE_GRACE_S,
    TORTIE_DECOMMISSION_S, TORTIE_SILENT_S                the fence (operator_fence.JudgeTimes)
    TORTIE_LOOK_S, TORTIE_RELIST_S, TORTIE_SECRETS_S      the loop (operator_reconcile.Pace)
    TORTIE_LEASE_S                                        leader election: others may take over after this long; the
                                                          holder ends after two thirds of it and renews ten times in it
    TORTIE_IPV4POOL_CIDR and others                       the default pool (operator_defaults)
"""

from __future__ import annotations

from collections.abc import Mapping

from crds.errors import BadObject
from ipam.operator_affinity import HealTimes
from ipam.operator_fence import JudgeTimes
from ipam.operator_leader import LeaderTimes
from ipam.operator_reconcile import Pace, Settings


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings. Raises BadObject that names the variable."""

    def seconds(name: str, default: float) -> float:
        return _seconds(environment, name, default)

    pace, heal, judge = Pace(), HealTimes(), JudgeTimes()
    return Settings(
        pace=Pace(
            look_s=seconds("TORTIE_LOOK_S", pace.look_s),
            relist_s=seconds("TORTIE_RELIST_S", pace.relist_s),
            secrets_s=seconds("TORTIE_SECRETS_S", pace.secrets_s),
        ),
        heal=HealTimes(
            settle_s=seconds("TORTIE_SETTLE_S", heal.settle_s),
            release_s=seconds("TORTIE_RELEASE_S", heal.release_s),
        ),
        judge=JudgeTimes(
            fence_s=seconds("TORTIE_FENCE_S", judge.fence_s),
            grace_s=seconds("TORTIE_FENCE_GRACE_S", judge.grace_s),
            decommission_s=seconds("TORTIE_DECOMMISSION_S", judge.decommission_s),
            silent_s=seconds("TORTIE_SILENT_S", judge.silent_s),
        ),
        environment=environment,
    )


def leader_times_from(environment: Mapping[str, str]) -> LeaderTimes:
    """The times of the leader election. Raises BadObject."""
    lease_s = _seconds(environment, "TORTIE_LEASE_S", LeaderTimes().lease_s)
    return LeaderTimes(lease_s=lease_s, deadline_s=lease_s * 2 / 3, retry_s=lease_s / 10)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise BadObject(name, f"must be a number of seconds above 0, is {text!r}")
    return number
