"""The host's side of the kubelet's door: `10-tortie.conflist` and the program `tortie`, put there and kept there.

Theory: a runtime looks at the configuration directory at any moment, so files appear by rename, whole. Package updates
wipe /opt/cni/bin and other installers tidy /etc/cni/net.d; a look every few seconds (two stat calls) puts both back.
They are never taken away, not even when the agent ends: without them another network would take the pods.

Invariants: a conflist offers only a version that every chained plugin speaks, else each ADD fails. Secrets: none in it.
Called by felix.agent (`ensure` at start, then every few seconds).
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.spec import VERSIONS

FILE_NAME = "10-tortie.conflist"
PROGRAM = "tortie"
NETWORK = "k8s-pod-network"
"""Calico's network name: it begins every address's handle, so Calico's tools know ours."""
REPAIR_EVERY_S = 5.0
_ASK_LIMIT_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """A plugin that runs after Tortie."""

    type: str
    config: tuple[tuple[str, Any], ...] = ()
    capabilities: tuple[str, ...] = ()


PORTMAP = Chained(type="portmap", config=(("snat", True),), capabilities=("portMappings",))
"""hostPort."""


def render(*, version: str, mtu: int, families: tuple[int, ...] = (4,), chained: tuple[Chained, ...] = ()) -> str:
    """The text of the conflist. `mtu` in bytes, 0 = the agent decides at each ADD."""
    ours: dict[str, Any] = {
        "type": PROGRAM,
        "ipam": {"type": PROGRAM, "assign_ipv4": 4 in families, "assign_ipv6": 6 in families},
        "capabilities": {"ips": True},
    }
    if mtu:
        ours["mtu"] = mtu
    plugins = [ours]
    for plugin in chained:
        plugins.append({"type": plugin.type, **dict(plugin.config)})
        if plugin.capabilities:
            plugins[-1]["capabilities"] = dict.fromkeys(plugin.capabilities, True)
    return json.dumps({"cniVersion": version, "name": NETWORK, "plugins": plugins}, indent=2) + "\n"


def spoken_by(program: Path) -> frozenset[str]:
    """The versions that a plugin says it speaks; none if it does not run."""
    try:
        answer = subprocess.run(
            [program],
            input=b'{"cniVersion":"1.0.0"}',
            env={"CNI_COMMAND": "VERSION", "PATH": os.environ.get("PATH", "")},
            capture_output=True,
            timeout=_ASK_LIMIT_S,
            check=True,
        )
        return frozenset(json.loads(answer.stdout)["supportedVersions"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return frozenset()


def choose_version(spoken: list[frozenset[str]]) -> str:
    """The newest version that Tortie and all the others speak. ValueError if there is none."""
    for version in reversed(VERSIONS):
        if all(version in versions for versions in spoken):
            return version
    raise ValueError("no CNI version is spoken by all plugins")


def chain(bin_dir: Path, wanted: tuple[Chained, ...] = (PORTMAP,)) -> tuple[str, tuple[Chained, ...]]:
    """(version, plugins) for what is there: a wanted plugin that does not run is left out."""
    usable = []
    spoken = []
    for plugin in wanted:
        versions = spoken_by(bin_dir / plugin.type)
        if versions & frozenset(VERSIONS):
            usable.append(plugin)
            spoken.append(versions)
    return choose_version(spoken), tuple(usable)


class Installed:
    """The two files on the host, as they must be."""

    def __init__(self, *, conf_dir: Path, bin_dir: Path, program: Path, text: str) -> None:
        """`program`: the compiled shim that is copied; read once."""
        self._wanted: dict[Path, tuple[bytes, int]] = {
            # The program first: a conflist whose program is missing makes every ADD fail.
            bin_dir / PROGRAM: (program.read_bytes(), 0o755),
            conf_dir / FILE_NAME: (text.encode(), 0o644),
        }
        self._stamps: dict[Path, tuple[int, ...]] = {}

    def ensure(self) -> tuple[Path, ...]:
        """Put right what is missing or changed; returns what that was. Two stat calls when all is well."""
        repaired = []
        for path, (content, mode) in self._wanted.items():
            if _stamp(path) == self._stamps.get(path, ()) != ():
                continue
            if _read(path) != (content, mode):
                _replace(path, content, mode=mode)
                repaired.append(path)
            self._stamps[path] = _stamp(path)
        return tuple(repaired)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode


def _read(path: Path) -> tuple[bytes, int] | None:
    try:
        if path.is_symlink():
            return None
        return path.read_bytes(), path.stat().st_mode & 0o7777
    except OSError:
        return None


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    """Whole or not at all, durable. The draft's name is none that a runtime reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tortie-draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
