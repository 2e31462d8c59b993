"""The file system that a light node sees: the host's, with its own `/run`, `/etc`, `/opt` and `/var/lib`.

What for: many nodes on one machine, each with what kubelet, the CNI plugins and the agent expect at its usual path.

Theory: runs inside the node's new mount namespace, before anything else. `/etc` and `/opt` are overlays (the
host's below, the node's own above), because `/etc/cni` and `/opt/cni/bin` need not exist on the host and must not be
made there. `/var/lib` belongs to the node and outlives its restart, as a disk does; `/run` is new at each boot.
The speaker runs as a user without rights, and Python and the checkout may lie below a home directory that only its
owner may enter; there a small tmpfs takes the directory's place and shows what the node needs and nothing else.

Invariants: changes nothing outside the mount namespace; standard library only.

Called by: node_init.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str | Path, kind: str, *, flags: int = 0, options: str = "") -> None:
    """mount(2); OSError says which one failed."""
    done = _libc.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind} {source} on {target}: {os.strerror(number)}")


def bind(source: str | Path, target: str | Path) -> None:
    """Show `source`, with all that is mounted below it, at `target` too."""
    mount(str(source), target, "none", flags=_MS_BIND | _MS_REC)


def prepare(directory: Path, *, needed: Iterable[Path]) -> None:
    """Make this mount namespace the node's. `directory` is the node's own on the host; `needed` stays visible."""
    held = {path: os.open(path, os.O_PATH) for path in needed}
    mount("none", "/", "none", flags=_MS_REC | _MS_PRIVATE)
    _overlay(directory, "etc", inside="cni/net.d")
    _overlay(directory, "opt", inside="cni/bin")
    var_lib = directory / "var-lib"
    var_lib.mkdir(parents=True, exist_ok=True)
    bind(var_lib, "/var/lib")
    _fresh_sysfs()
    for closed in sorted({top for path in held if (top := _closed_to_others(path))}):
        mount("tmpfs", closed, "tmpfs", options="mode=0755")
    mount("tmpfs", "/run", "tmpfs", flags=_MS_NOSUID | _MS_NODEV, options="mode=0755")
    for path, descriptor in held.items():
        if not _is_same(path, descriptor):
            path.mkdir(parents=True, exist_ok=True)
            bind(f"/proc/self/fd/{descriptor}", path)
        os.close(descriptor)


def _overlay(directory: Path, name: str, *, inside: str) -> None:
    """Put a private layer over `/name`. Where the run directory cannot carry one (itself an overlay), use memory."""
    own = directory / name
    own.mkdir(parents=True, exist_ok=True)
    try:
        _mount_overlay(own, f"/{name}")
    except OSError:
        mount("tmpfs", own, "tmpfs", options="mode=0755")
        _mount_overlay(own, f"/{name}")
    Path(f"/{name}", inside).mkdir(parents=True, exist_ok=True)


def _mount_overlay(own: Path, target: str) -> None:
    for part in ("upper", "work"):
        (own / part).mkdir(exist_ok=True)
    mount("overlay", target, "overlay", options=f"lowerdir={target},upperdir={own}/upper,workdir={own}/work")


def _fresh_sysfs() -> None:
    """`/sys/class/net` of the node's own network; the control groups stay where they were."""
    cgroups = Path("/sys/fs/cgroup")
    held = os.open(cgroups, os.O_PATH) if cgroups.is_dir() else -1
    mount("sysfs", "/sys", "sysfs")
    if held >= 0:
        if cgroups.is_dir():
            bind(f"/proc/self/fd/{held}", cgroups)
        os.close(held)


def _closed_to_others(path: Path) -> str:
    """The topmost directory above `path` that a stranger may not enter; '' when the way is open."""
    for parent in reversed(path.parents):
        if str(parent) != "/" and not parent.stat().st_mode & 0o001:
            return str(parent)
    return ""


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        there, held = path.stat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
