"""Where etcd, kube-apiserver and kubectl come from.

Called by: controlplane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.cache import cache

KUBERNETES = "1.36.3"
ETCD = "3.6.16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of the three programs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def kubernetes_binaries(*, say: Callable[[str], None] = print) -> Binaries:
    """The three programs, found or built."""
    directory = cache() / "bin" / f"kubernetes-{KUBERNETES}-etcd-{ETCD}"
    return Binaries(etcd=directory / "etcd", kube_apiserver=directory / "kube-apiserver", kubectl=directory / "kubectl")
