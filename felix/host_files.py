"""The two files on the host (conflist and shim), as the cluster and the host's other plugins now want them.

Theory: what a conflist says follows from what is seen at each look: pods get an address of each family that has a pool
for them, and the plugins that are installed run after ours. A plugin counts as installed or taken away when two looks
find it alike, so that one which is being copied, or is away for the moment of a package's update, changes nothing:
an ADD without it fails and is tried again, an ADD that leaves it out would leave a pod without its hostPort.

A family whose last pool goes away takes nothing from pods that have an address of it; new pods come up with the other
family alone. That is said once, as a warning.

Called by felix.main once ADDs can be answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from cni.build import OUTPUT as BUILT_PROGRAM
from cni.conflist import PORTMAP, REPAIR_EVERY_S, Installed, chain, render
from crds.pools import IPPool
from felix.settings import Settings
from felix.snapshot import Snapshot

log = logging.getLogger("felix.host_files")

Stamp = tuple[int, ...]


class HostFiles:
    """Keeps them right."""

    def __init__(self, settings: Settings, *, snapshot: Callable[[], Snapshot]) -> None:
        self._settings, self._snapshot = settings, snapshot
        self._installed: Installed | None = None
        self._families: tuple[int, ...] = ()
        self._served: frozenset[int] = frozenset()
        self._unserved: frozenset[int] = frozenset()
        self._plugins: tuple[Stamp, ...] = ()
        self._glimpsed: tuple[Stamp, ...] = ()

    async def run(self) -> None:
        """Now, and whenever something changes or somebody takes them away."""
        while True:
            await self.look()
            await asyncio.sleep(REPAIR_EVERY_S)

    async def look(self) -> None:
        """Once: a few stat calls where all is well."""
        pools = tuple(self._snapshot().pools.values())
        self._tell(pools)
        families = tuple(sorted(served(pools))) or (4,)
        if self._installed is None or families != self._families or self._plugins_changed():
            self._plugins = self._glimpsed = self._seen_plugins()
            self._families = families
            self._installed = await asyncio.to_thread(self._files)
        try:
            repaired = self._installed.ensure()
        except OSError as error:
            log.warning('cannot install error="%s"', error)
            return
        for path in repaired:
            log.info("installed path=%s", path)

    def _plugins_changed(self) -> bool:
        before, self._glimpsed = self._glimpsed, self._seen_plugins()
        return self._plugins != self._glimpsed == before

    def _seen_plugins(self) -> tuple[Stamp, ...]:
        return tuple(_stamp(self._settings.cni_bin_dir / plugin.type) for plugin in (PORTMAP,))

    def _files(self) -> Installed:
        settings = self._settings
        version, chained = chain(settings.cni_bin_dir, (PORTMAP,))
        return Installed(
            conf_dir=settings.cni_conf_dir,
            bin_dir=settings.cni_bin_dir,
            program=settings.cni_program or _program(),
            text=render(version=version, mtu=0, families=self._families, chained=chained),
        )

    def _tell(self, pools: tuple[IPPool, ...]) -> None:
        """Families that had a pool, or have one that gives pods nothing: a wish that is not met."""
        now = served(pools)
        unserved = (self._served | self._unserved | _wished(pools)) - now
        for family in sorted(unserved - self._unserved):
            log.warning(
                'no IPPool is left for pods family=IPv%d meaning="new pods get no IPv%d address"', family, family
            )
        for family in sorted(self._unserved - unserved):
            log.info("pods get addresses again family=IPv%d", family)
        self._served, self._unserved = now, unserved


def served(pools: tuple[IPPool, ...]) -> frozenset[int]:
    """The families of which pods get an address: those with a pool for pods that is not disabled."""
    return frozenset(_family(pool) for pool in pools if _is_for_pods(pool) and not pool.spec.disabled)


def _wished(pools: tuple[IPPool, ...]) -> frozenset[int]:
    return frozenset(_family(pool) for pool in pools if _is_for_pods(pool))


def _is_for_pods(pool: IPPool) -> bool:
    return not pool.spec.allowed_uses or "Workload" in pool.spec.allowed_uses


def _family(pool: IPPool) -> int:
    return 6 if ":" in pool.spec.cidr else 4


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode


def _program() -> Path:
    """The shim: shipped inside the package, or built beside a checkout."""
    shipped = Path(__file__).resolve().parent.parent / "cni" / "tortie-cni"
    return shipped if shipped.exists() else BUILT_PROGRAM
