"""An fsync in a thread: durable before anybody is told, shared by all who come meanwhile, final when it fails."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from crds.values import HandleID
from ipam.journal import Journal, JournalError, Row, RowState, read_rows

ROW = Row(ip_address("10.0.0.1"), HandleID("net.a"), (("pod", "a"),), 1, RowState.HELD, 1.0)
OTHER = replace(ROW, address=ip_address("10.0.0.2"), handle=HandleID("net.b"))
LATER = replace(ROW, address=ip_address("10.0.0.3"), handle=HandleID("net.c"))


class Disk:
    """Counts the fsyncs; while `gate` is closed they hang, with `fails` they fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, _descriptor: int) -> None:
        self.gate.wait(10)
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        self.synced += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def opened(base: Path) -> Journal:
    return Journal(state_dir=base / "var", run_dir=base / "run")


async def test_nobody_is_told_before_the_disk_has_it(tmp_path: Path, disk: Disk) -> None:
    journal = opened(tmp_path)
    disk.gate.clear()
    journal.put(ROW)
    telling = asyncio.create_task(journal.commit_beside())
    done, _ = await asyncio.wait({telling}, timeout=0.02)
    assert not done
    disk.gate.set()
    await telling
    assert read_rows(journal.path) == (ROW,)
    journal.close()


async def test_all_who_come_during_an_fsync_share_the_next(tmp_path: Path, disk: Disk) -> None:
    journal = opened(tmp_path)
    before = disk.synced
    disk.gate.clear()
    journal.put(ROW)
    first = asyncio.create_task(journal.commit_beside())
    await asyncio.wait({first}, timeout=0.02)
    for row in (OTHER, LATER):
        journal.put(row)
    rest = [asyncio.create_task(journal.commit_beside()) for _ in (OTHER, LATER)]
    await asyncio.wait(rest, timeout=0.02)
    disk.gate.set()
    await asyncio.gather(first, *rest)
    assert disk.synced == before + 2
    assert read_rows(journal.path) == (ROW, OTHER, LATER)
    journal.close()


async def test_after_a_failed_fsync_nothing_more_is_written(tmp_path: Path, disk: Disk) -> None:
    journal = opened(tmp_path)
    disk.fails = True
    journal.put(ROW)
    with pytest.raises(JournalError, match="Input/output error"):
        await journal.commit_beside()
    disk.fails = False
    with pytest.raises(JournalError, match="restart the agent"):
        journal.put(OTHER)
    journal.close()
