"""What the conflist says follows the pools and the plugins that are there."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cni.conflist import FILE_NAME
from crds.meta import ObjectMeta
from crds.pools import IPPool, IPPoolSpec
from crds.values import NodeName
from felix.host_files import HostFiles
from felix.settings import Settings
from felix.snapshot import Snapshot, Sync

PORTMAP = """#!/bin/sh
echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'
"""


def pool(name: str, cidr: str, **spec: Any) -> IPPool:
    return IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr=cidr, **spec))


V4, V6 = pool("v4", "10.0.0.0/16"), pool("v6", "fd00::/64")
V6_DISABLED = pool("v6", "fd00::/64", disabled=True)


class Host:
    """A host's two directories, and a cluster's pools."""

    def __init__(self, path: Path) -> None:
        program = path / "shim"
        program.write_bytes(b"shim")
        self.bin, self.conf = path / "bin", path / "net.d"
        self.bin.mkdir()
        self.pools: tuple[IPPool, ...] = (V4,)
        settings = Settings(node=NodeName("n1"), cni_conf_dir=self.conf, cni_bin_dir=self.bin, cni_program=program)
        self.files = HostFiles(settings, snapshot=self.snapshot)

    def snapshot(self) -> Snapshot:
        return Snapshot(sync=Sync.COMPLETE, pools={pool.metadata.name: pool for pool in self.pools})

    def look(self, *pools: IPPool) -> None:
        self.pools = pools or self.pools
        asyncio.run(self.files.look())

    def plugins(self) -> list[str]:
        return [plugin["type"] for plugin in self._conflist()["plugins"]]

    def families(self) -> tuple[bool, bool]:
        ipam = self._conflist()["plugins"][0]["ipam"]
        return ipam["assign_ipv4"], ipam["assign_ipv6"]

    def install(self) -> None:
        (self.bin / "portmap").write_text(PORTMAP)
        (self.bin / "portmap").chmod(0o755)

    def _conflist(self) -> Any:
        return json.loads((self.conf / FILE_NAME).read_text())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_plugin_that_is_there_at_the_start_is_chained_at_once(host: Host) -> None:
    host.install()
    host.look()
    assert host.plugins() == ["tortie", "portmap"]


def test_a_plugin_that_comes_or_goes_later_is_followed_at_the_second_look(host: Host) -> None:
    host.look()
    host.install()
    host.look()
    assert host.plugins() == ["tortie"], "it may still be being copied"
    host.look()
    assert host.plugins() == ["tortie", "portmap"]
    (host.bin / "portmap").unlink()
    host.look()
    assert host.plugins() == ["tortie", "portmap"], "it may be being updated"
    host.look()
    assert host.plugins() == ["tortie"]


def test_a_plugin_that_is_back_at_the_next_look_was_never_away(host: Host) -> None:
    host.install()
    host.look()
    kept = (host.bin / "portmap").rename(host.bin / "aside")
    host.look()
    kept.rename(host.bin / "portmap")
    host.look()
    host.look()
    assert host.plugins() == ["tortie", "portmap"]


@pytest.mark.parametrize(
    ("pools", "families"),
    [
        ((V4,), (True, False)),
        ((V4, V6), (True, True)),
        ((V4, V6_DISABLED), (True, False)),
        ((V4, pool("lb", "fd00::/64", allowed_uses=("LoadBalancer",))), (True, False)),
        ((V6,), (False, True)),
        ((V4, V6, pool("more", "fd01::/64", disabled=True)), (True, True)),
    ],
)
def test_pods_get_an_address_of_each_family_that_has_a_pool_for_them(
    host: Host, pools: tuple[IPPool, ...], families: tuple[bool, bool]
) -> None:
    host.look(*pools)
    assert host.families() == families


@pytest.mark.parametrize("left", [(V4,), (V4, V6_DISABLED)])
def test_the_last_pool_of_a_family_does_not_go_unnoticed(
    host: Host, left: tuple[IPPool, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "felix.host_files")

    def told() -> list[str]:
        found = [record.levelname for record in caplog.records if "family=IPv6" in record.getMessage()]
        caplog.clear()
        return found

    host.look(V4, V6)
    assert told() == []
    host.look(*left)
    host.look(*left)
    assert told() == ["WARNING"], "once"
    host.look(V4, V6)
    assert told() == ["INFO"]


def test_a_cluster_that_never_had_ipv6_hears_nothing_of_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.look(V4)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
