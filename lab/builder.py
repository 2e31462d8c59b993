"""Makes the kernel look like a `cabling.Plan`, and takes it away again.

What for: the only file of the lab that creates or removes network namespaces and links.

Theory: all namespaces and cables are one `ip -batch`; then one batch per namespace sets addresses and routes. Removal
needs no plan: a namespace carries the lab's name, and a veth dies with either of its ends, so removing the
namespaces removes everything, also after an `up` that was interrupted half way.

Invariants: touches only namespaces that begin with `tortie-<lab>-`.

Called by: fabric (up, down, cut, heal), tests.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.cabling import Cable, Plan

NETNS_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class KernelRefused(RuntimeError):
    """`ip` failed; the text is its own words."""


def namespace(lab: str, machine: str) -> str:
    """The name of a machine's network namespace."""
    return f"tortie-{lab}-{machine}"


def build(plan: Plan, *, lab: str) -> None:
    """Create every namespace, cable, address and route of `plan`. Not idempotent: `destroy` first."""
    _batch([f"netns add {namespace(lab, name)}" for name in plan.machines])
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda name: _write_sysctls(namespace(lab, name), plan.sysctls[name]), plan.machines))
    _batch([_veth(cable, lab=lab) for cable in plan.cables])
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda name: _batch(plan.lines[name], within=namespace(lab, name)), plan.machines))


def namespaces(lab: str) -> list[str]:
    """The lab's namespaces that exist now."""
    prefix = namespace(lab, "")
    if not NETNS_DIRECTORY.is_dir():
        return []
    return sorted(path.name for path in NETNS_DIRECTORY.iterdir() if path.name.startswith(prefix))


def destroy(*, lab: str) -> list[str]:
    """Remove every namespace of the lab; idempotent. Returns the names that were there."""
    names = namespaces(lab)
    if names:
        _batch([f"netns del {name}" for name in names])
    return names


def cut(cable: Cable, *, lab: str) -> None:
    """Take the cable's router end down: the other end loses its carrier, as when a plug is pulled."""
    _batch([f"link set {cable.a.interface} down"], within=namespace(lab, cable.a.machine))


def heal(cable: Cable, *, lab: str) -> None:
    """Bring a cut cable back; harmless on a whole one."""
    _batch([f"link set {cable.a.interface} up"], within=namespace(lab, cable.a.machine))


def is_cut(cable: Cable, *, lab: str) -> bool:
    """Whether the cable's router end is administratively down."""
    shown = _ip("-n", namespace(lab, cable.a.machine), "-br", "link", "show", "dev", cable.a.interface)
    return "UP" not in shown.partition("<")[2].partition(">")[0].split(",")


def _veth(cable: Cable, *, lab: str) -> str:
    a, b = cable.a, cable.b
    return (
        f"link add name {a.interface} netns {namespace(lab, a.machine)} type veth "
        f"peer name {b.interface} netns {namespace(lab, b.machine)}"
    )


def _batch(lines: list[str] | tuple[str, ...], *, within: str = "") -> None:
    where = ["-n", within] if within else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise KernelRefused(f"ip in {within or 'the root namespace'}: {done.stderr.strip()}")


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KernelRefused(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _write_sysctls(name: str, values: dict[str, str]) -> None:
    """Write below /proc/sys/net as seen from inside a namespace. Runs in a pool thread, and gives the thread back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(NETNS_DIRECTORY / name, os.O_RDONLY)
    try:
        _setns(there)
        for key, value in values.items():
            path = Path("/proc/sys/net") / key
            if path.exists():  # an older kernel may lack one; none is essential by itself
                path.write_text(value)
    finally:
        _setns(home)
        os.close(home)
        os.close(there)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
