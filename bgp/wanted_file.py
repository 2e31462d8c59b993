"""What is wanted, on disk: a speaker that restarts while the agent is away announces the same set.

Invariants: the file is whole or absent (written aside, synced, renamed), readable by its owner alone (it holds MD5
keys), and only a complete set is ever written. It lives under /run: after a reboot of the node nothing of before
counts.

Called by `bgp.supervisor`.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bgp import wire


def load(path: Path) -> wire.Wanted | None:
    """What was wanted last; None if there is nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=wire.Wanted)
    except (OSError, msgspec.DecodeError):
        return None


def save(path: Path, wanted: wire.Wanted) -> None:
    """Raises OSError."""
    replace(path, msgspec.json.encode(wanted))


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, mode 0600. Raises OSError."""
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
