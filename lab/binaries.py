"""Where etcd, kube-apiserver and kubectl come from: the user's own, else built once and kept.

What for: lab and tests need a real control plane, and there is no package of it in Debian.

Theory: each program is looked for in `KUBEBUILDER_ASSETS`, then in `PATH`, and taken if it says that it is of the right
minor version; else from the cache, in a directory that is named after the versions; else all three are built into that
directory from the Go modules that lab/build/kubernetes/go.mod names, whose sums are in go.sum.

Invariants: what is in the cache is whole, for it got there by a rename; two builds at once are one build and one that
waits; an interrupted build leaves nothing but Go's own cache, with which the next one goes on.

Called by: controlplane, `make` (`python -m lab.binaries`).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.cache import cache
from lab.go_build import Build, BuildFailed, compile_all

KUBERNETES = "1.36.3"
ETCD = "3.6.16"

MODULE = Path(__file__).resolve().parent / "build" / "kubernetes"
"""The Go module that pins everything; a test compares it with the versions above."""

_MAJOR, _MINOR, _ = KUBERNETES.split(".")
_KUBERNETES_FLAGS = " ".join(
    f"-X {variable}"
    for variable in (
        # Without these the programs call themselves v0.0.0 and clients refuse to speak with them.
        f"k8s.io/component-base/version.gitVersion=v{KUBERNETES}",
        f"k8s.io/component-base/version.gitMajor={_MAJOR}",
        f"k8s.io/component-base/version.gitMinor={_MINOR}",
        f"k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES}",
    )
)

BUILDS = (
    # In this order, for each reuses what the one before has compiled. Seconds as seen on two cores.
    Build(program="etcd", package="go.etcd.io/etcd/server/v3", ldflags="", about_s=45),
    Build(
        program="kube-apiserver", package="k8s.io/kubernetes/cmd/kube-apiserver", ldflags=_KUBERNETES_FLAGS, about_s=190
    ),
    Build(program="kubectl", package="k8s.io/kubernetes/cmd/kubectl", ldflags=_KUBERNETES_FLAGS, about_s=25),
)

VERSION_QUESTIONS = {"etcd": ("--version",), "kube-apiserver": ("--version",), "kubectl": ("version", "--client")}
_VERSION = re.compile(r"(?:etcd Version: |Kubernetes v|Client Version: v)(\d+)\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of the three programs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def kubernetes_binaries(
    *, say: Callable[[str], None] = print, environment: Mapping[str, str] | None = None
) -> Binaries:
    """The three programs; built first, in some minutes, where they are nowhere. BuildFailed says why that failed."""
    environment = os.environ if environment is None else environment
    found = {build.program: _users_own(build.program, environment, say) for build in BUILDS}
    if None in found.values():
        directory = _built(say)
        found = {program: path or directory / program for program, path in found.items()}
    paths = {program: path for program, path in found.items() if path is not None}
    return Binaries(etcd=paths["etcd"], kube_apiserver=paths["kube-apiserver"], kubectl=paths["kubectl"])


def _users_own(program: str, environment: Mapping[str, str], say: Callable[[str], None]) -> Path | None:
    """From KUBEBUILDER_ASSETS or PATH, if the version is right; one that is not is passed over, aloud."""
    for source in ("KUBEBUILDER_ASSETS", "PATH"):
        path = shutil.which(program, path=environment.get(source, ""))
        if path is None:
            continue
        if is_right_version(program, Path(path)):
            return Path(path)
        if source == "KUBEBUILDER_ASSETS":
            wanted = ETCD if program == "etcd" else KUBERNETES
            say(f"{path} is not of version {wanted.rpartition('.')[0]}, so it is not used")
    return None


def is_right_version(program: str, path: Path) -> bool:
    """Whether it runs and says that it is of our minor version."""
    try:
        done = subprocess.run(
            [path, *VERSION_QUESTIONS[program]], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    said = _VERSION.search(done.stdout)
    wanted = (ETCD if program == "etcd" else KUBERNETES).split(".")[:2]
    return said is not None and [*said.groups()] == wanted


def _built(say: Callable[[str], None]) -> Path:
    """The cache's directory with all three in it."""
    directory = cache() / "bin" / f"kubernetes-{KUBERNETES}-etcd-{ETCD}"
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock:
        _lock(lock.fileno(), say)
        if directory.is_dir():  # by somebody else, while we waited
            return directory
        with tempfile.TemporaryDirectory(prefix=".building-", dir=directory.parent) as temporary:
            made = Path(temporary) / "bin"
            compile_all(BUILDS, module=MODULE, into=made, say=say)
            for build in BUILDS:
                if not is_right_version(build.program, made / build.program):
                    raise BuildFailed(f"{build.program} was built but does not say that it is of the right version")
            made.rename(directory)
    return directory


def _lock(descriptor: int, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("somebody else is building etcd, kube-apiserver and kubectl; waiting for that")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def main() -> int:
    """Find or build; one line on stderr when that fails."""
    try:
        kubernetes_binaries(say=lambda text: print(f"  {text}", flush=True))
    except BuildFailed as error:
        print(f"tortie: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntortie: interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
