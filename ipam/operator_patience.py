"""How long has it been like this? The operator's only memory, and why forgetting it is harmless.

Half states, silent nodes and leaks are never judged at first sight: the other side may be in the middle of its two
writes. So a finding is given a key and a fingerprint (everything that would change if somebody were at work on it, a
resourceVersion or a renewal stamp), and only counts once it has been seen unchanged for a stated time, on this
process's own monotonic clock; a time stamp written by another machine is compared for equality, never with a clock.

A restarted operator has seen nothing yet and waits anew: late, never wrong. Called by the planners of one reconcile
pass, between `begin` and `end`; a finding that a pass does not ask about any more is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[str, ...]
Fingerprint = tuple[str, ...]


@dataclass(slots=True)
class _Sighting:
    fingerprint: Fingerprint
    since_s: float
    changes: int = 0


class Patience:
    """Sightings by key, with the monotonic second since when each has been the same."""

    def __init__(self) -> None:
        self._sightings: dict[Key, _Sighting] = {}
        self._asked: set[Key] = set()
        self._now_s = 0.0
        self._soonest_s = float("inf")

    def begin(self, *, now_s: float) -> None:
        """A pass starts; `now_s` is monotonic."""
        self._now_s = now_s
        self._asked.clear()
        self._soonest_s = float("inf")

    def end(self) -> float:
        """The pass is over: forget what it did not ask about; seconds until the next finding ripens (inf: none)."""
        self._sightings = {key: seen for key, seen in self._sightings.items() if key in self._asked}
        return self._soonest_s

    def same_for_s(self, key: Key, fingerprint: Fingerprint) -> float:
        """For how long `key` has shown this fingerprint; 0.0 at first sight and at every change."""
        self._asked.add(key)
        seen = self._sightings.get(key)
        if seen is None:
            self._sightings[key] = _Sighting(fingerprint, self._now_s)
            return 0.0
        if seen.fingerprint != fingerprint:
            seen.fingerprint, seen.since_s = fingerprint, self._now_s
            seen.changes += 1
        return self._now_s - seen.since_s

    def ripe(self, key: Key, fingerprint: Fingerprint, *, after_s: float) -> bool:
        """Has it been the same for `after_s`, and been seen at least twice? If not, `end` says when to look again."""
        first_sight = key not in self._sightings
        age_s = self.same_for_s(key, fingerprint)
        if not first_sight and age_s >= after_s:
            return True
        self._soonest_s = min(self._soonest_s, max(after_s - age_s, 0.0))
        return False

    def was_seen_to_change(self, key: Key) -> bool:
        """Did the fingerprint ever change under this process's eyes?"""
        seen = self._sightings.get(key)
        return seen is not None and seen.changes > 0
