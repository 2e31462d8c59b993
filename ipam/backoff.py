"""How long to wait after a failure: doubling, with jitter, so that a fleet does not come back in step."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Waits of `base_s` to `cap_s`, each spread over half to the whole of itself. The cap is short: two seconds
    after the API server is back it is to show everything."""

    rng: random.Random
    base_s: float = 0.2
    cap_s: float = 1.5
    _failures: int = 0

    def next_s(self) -> float:
        """The wait after one more failure in a row."""
        whole_s = min(self.cap_s, self.base_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return whole_s * (0.5 + self.rng.random() / 2)

    def reset(self) -> None:
        """It worked."""
        self._failures = 0
