"""What comes from Debian: programs that are installed, and daemons that never are.

What for: a fresh machine needs a compiler, iptables and the like, which apt installs. BIRD and FRR are different: their
packages start a routing daemon in the user's own system. They are downloaded and unpacked into the cache, with the
shared libraries that the machine lacks, and run from there (`routers_run`).

Theory: a program that is found is not installed again, whoever put it there. The unpacked tree is laid out as the
packages have it (`usr/`, `etc/`), so it can be laid over the machine's own in a mount namespace; it is made in a
temporary directory, tried, and renamed into place, named after the versions in it.

Invariants: standard library only, for it runs before anything is installed; nothing outside the cache is written but
by apt-get, and apt-get runs only when something is missing.

Called by: `make` (`python3 -m lab.packages`), routers_run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.cache import cache

SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
"""A user's PATH may lack the directories that most of these programs are in."""

PROGRAMS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "tcpdump": "tcpdump",
    "ping": "iputils-ping",
    "gcc": "gcc",
    "git": "git",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "setcap": "libcap2-bin",
}
"""Program -> Debian package."""

FILES = {
    "/usr/include/stdio.h": "libc6-dev",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
"""File -> Debian package, where there is no program to look for."""

ROUTERS = ("bird2", "frr", "libyang2")
"""Unpacked, never installed."""


class Missing(RuntimeError):
    """Something is missing and cannot be got; the text is one sentence."""


def missing() -> list[str]:
    """Debian packages whose program or file is not on this machine."""
    programs = [package for program, package in PROGRAMS.items() if shutil.which(program, path=SEARCH_PATH) is None]
    files = [package for path, package in FILES.items() if not Path(path).exists()]
    return sorted({*programs, *files})


def install(*, say: Callable[[str], None] = print) -> None:
    """Install what is missing; does nothing, and runs nothing, when all is there."""
    names = missing()
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise Missing(f"there is no apt-get here; install what Debian calls {', '.join(names)} and try again")
    if os.geteuid() != 0:
        raise Missing(f"missing: {', '.join(names)}; run as root once, or: sudo apt-get install {' '.join(names)}")
    say(f"installing {', '.join(names)} with apt-get")
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *names)


def routers(*, say: Callable[[str], None] = print) -> Path:
    """The unpacked tree of BIRD and FRR; downloads and unpacks it the first time (5 MB, two seconds)."""
    if found := _unpacked():
        return found
    directory = cache() / "debian"
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        if found := _unpacked():  # by somebody else, while we waited
            return found
        if shutil.which("apt-get") is None:
            raise Missing("there is no apt-get here, from which the lab's routers (bird2, frr) would come")
        say("downloading bird2 and frr; they are unpacked into the cache and never installed")
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=directory) as temporary:
            tree = Path(temporary) / "tree"
            name = _download_and_unpack(Path(temporary), tree)
            tree.rename(directory / name)
        return directory / name


def _unpacked() -> Path | None:
    found = sorted((cache() / "debian").glob("bird2_*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _download_and_unpack(directory: Path, tree: Path) -> str:
    """Download into `directory`, unpack into `tree`; returns a name made of the versions."""
    directory.chmod(0o755)
    wanted = _with_missing_libraries()
    try:
        _apt("download", *wanted, within=directory)
    except Missing:
        _apt("update")
        _apt("download", *_with_missing_libraries(), within=directory)
    tree.mkdir()
    for package in sorted(directory.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, tree], check=True)
    # Where /lib is a link to /usr/lib, a package that still ships /lib would lie beside it.
    for top in ("lib", "bin", "sbin"):
        if (tree / top).is_dir():
            shutil.copytree(tree / top, tree / "usr" / top, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(tree / top)
    names = [path.stem for path in directory.glob("*.deb") if path.name.split("_")[0] in ("bird2", "frr")]
    # A colon (of an epoch, written %3a) or a comma would break the options of an overlay mount.
    return "+".join(sorted(names)).replace("%3a", ".").replace(":", ".").replace(",", ".")


def _with_missing_libraries() -> list[str]:
    """The routers and those of their libraries that apt says it would have to install."""
    simulated = subprocess.run(
        ["apt-get", "--simulate", "--no-install-recommends", "install", *ROUTERS],
        capture_output=True,
        text=True,
        check=False,
    )
    would = [line.split()[1] for line in simulated.stdout.splitlines() if line.startswith("Inst ")]
    return sorted({*ROUTERS, *(name for name in would if name.startswith("lib"))})


def _apt(*arguments: str, within: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "--quiet", "-o", "APT::Sandbox::User=root", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=within, env=environment)
    if done.returncode != 0:
        raise Missing(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; released by the kernel however the holder ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install what is missing and unpack the routers; one line a step."""
    try:
        install(say=_say)
        routers(say=_say)
    except Missing as error:
        print(f"tortie: {error}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
