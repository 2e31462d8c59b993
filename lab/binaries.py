"""Where etcd, kube-apiserver and kubectl come from.

Called by: controlplane.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.36.3"
ETCD = "3.6.16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of the three programs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def cache() -> Path:
    """Where things are kept that take long to make, outside any checkout."""
    if own := os.environ.get("TORTIE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tortie"


def kubernetes_binaries(*, say: Callable[[str], None] = print) -> Binaries:
    """The three programs, found or built."""
    directory = cache() / "bin" / f"kubernetes-{KUBERNETES}-etcd-{ETCD}"
    return Binaries(etcd=directory / "etcd", kube_apiserver=directory / "kube-apiserver", kubectl=directory / "kubectl")
