"""Time as an argument: the three clocks IPAM reads, behind one protocol.

* wall clock: only for stamps that people and Calico read (releasedAt, affinityClaimTime, timestamp attributes);
* boot clock (CLOCK_BOOTTIME): goes on while the machine sleeps, so the fence cannot be outslept; starts again at boot,
  hence always stored with the boot id;
* monotonic waiting is the event loop's own business.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What IPAM may ask about time."""

    @property
    def boot_id(self) -> str:
        """Names this boot of this machine; boot_s() of two boots must not be compared."""

    def wall_s(self) -> float:
        """Seconds since the epoch; may jump."""

    def boot_s(self) -> float:
        """Seconds since boot, suspension included; never jumps."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self, boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")) -> None:
        self._boot_id = boot_id_file.read_text(encoding="ascii").strip()

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def wall_s(self) -> float:
        return time.time()

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that a test moves by hand; shipped, so that every package's tests use the same one."""

    def __init__(self, *, wall_s: float = 1_800_000_000.0, boot_s: float = 1_000.0, boot_id: str = "boot-1") -> None:
        self._wall_s, self._boot_s, self._boot_id = wall_s, boot_s, boot_id

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def wall_s(self) -> float:
        return self._wall_s

    def boot_s(self) -> float:
        return self._boot_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall_s += seconds
        self._boot_s += seconds

    def reboot(self, *, boot_id: str, off_s: float = 60.0) -> None:
        """The machine was off for `off_s`; the boot clock starts again."""
        self._wall_s += off_s
        self._boot_s, self._boot_id = 10.0, boot_id
