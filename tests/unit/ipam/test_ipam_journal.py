"""The journal: durable, shared commits, and honest about whether it can be trusted."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from crds.values import HandleID
from ipam.journal import Journal, JournalError, JournalInUse, Row, RowState, read_rows
from tests.unit.ipam.ipam_rig import refuse_commits

ROW = Row(ip_address("10.0.0.1"), HandleID("net.a"), (("pod", "a"),), 7, RowState.HELD, 1.5)


def opened(directory: Path, *, run: str = "run") -> Journal:
    return Journal(state_dir=directory / "var", run_dir=directory / run)


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A directory whose journal has been used and closed."""
    journal = opened(tmp_path)
    journal.believe()
    journal.put(ROW)
    journal.commit_now()
    journal.close()
    return tmp_path


async def test_what_was_committed_is_there_after_a_restart(used: Path) -> None:
    journal = opened(used)
    assert journal.doubt == ""
    assert journal.rows() == (ROW,)


async def test_what_was_not_committed_is_gone(used: Path) -> None:
    journal = opened(used)
    journal.put(replace(ROW, address=ip_address("10.0.0.2")))
    journal.close()
    assert opened(used).rows() == (ROW,)


async def test_an_address_may_have_a_holder_and_tombstones(used: Path) -> None:
    journal = opened(used)
    journal.put(replace(ROW, state=RowState.FREED))
    journal.put(replace(ROW, handle=HandleID("net.b"), sequence=9))
    assert [(row.handle, row.state) for row in journal.rows()] == [
        ("net.a", RowState.FREED),
        ("net.b", RowState.HELD),
    ]


async def test_all_who_wait_share_one_commit(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    before = journal.meta("commits")

    async def add(number: int) -> None:
        journal.put(replace(ROW, address=ip_address(f"10.0.0.{number}")))
        await journal.commit()

    await asyncio.gather(*(add(number) for number in range(50)))
    assert len(journal.rows()) == 50
    assert journal.meta("commits") == before + 1  # type: ignore[operator]


async def test_one_who_gives_up_does_not_take_the_others_along(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put(ROW)
    first, second = asyncio.create_task(journal.commit()), asyncio.create_task(journal.commit())
    await asyncio.wait({first}, timeout=0)
    first.cancel()
    await second
    assert read_rows(journal.path) == (ROW,)


async def test_a_failed_commit_fails_everybody_who_waits(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put(ROW)
    refuse_commits(journal)
    outcomes = await asyncio.gather(*(journal.commit() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [JournalError] * 3
    assert read_rows(journal.path) == ()


async def test_a_new_journal_is_doubted_until_it_has_been_rebuilt(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.doubt == "there was no journal"
    journal.believe()
    assert journal.doubt == ""


async def test_a_journal_that_somebody_has_locked_is_not_taken_for_a_corrupt_one(used: Path) -> None:
    other = sqlite3.connect(used / "var" / "ipam.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("INSERT INTO meta VALUES ('other', '1')")
    with pytest.raises(JournalError, match="locked"):
        opened(used)
    other.close()
    assert not (used / "var" / "ipam.db.corrupt").exists()
    assert read_rows(used / "var" / "ipam.db") == (ROW,)


async def test_a_corrupt_journal_is_kept_aside_and_doubted(used: Path) -> None:
    path = used / "var" / "ipam.db"
    path.write_bytes(b"not a database at all" * 400)
    journal = opened(used)
    assert "corrupt" in journal.doubt
    assert journal.rows() == ()
    assert (used / "var" / "ipam.db.corrupt").read_bytes().startswith(b"not a database")


async def test_a_page_that_was_overwritten_is_noticed(used: Path) -> None:
    path = used / "var" / "ipam.db"
    raw = bytearray(path.read_bytes())
    raw[4096:8192] = b"\xff" * 4096
    path.write_bytes(bytes(raw))
    assert "corrupt" in opened(used).doubt


async def test_a_truncated_journal_is_doubted(used: Path) -> None:
    path = used / "var" / "ipam.db"
    path.write_bytes(b"")
    assert opened(used).doubt


async def test_another_schema_version_is_kept_aside(used: Path) -> None:
    with sqlite3.connect(used / "var" / "ipam.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    journal = opened(used)
    assert "schema version 99" in journal.doubt
    assert journal.rows() == ()


async def test_an_older_copy_on_the_same_boot_is_noticed_to_the_commit(used: Path) -> None:
    shutil.copytree(used / "var", used / "copy")
    journal = opened(used)
    journal.put(replace(ROW, address=ip_address("10.0.0.2")))
    journal.commit_now()
    journal.close()
    shutil.rmtree(used / "var")
    (used / "copy").rename(used / "var")
    assert "older copy" in opened(used).doubt


async def test_a_journal_that_was_replaced_by_a_new_one_is_noticed(used: Path) -> None:
    shutil.rmtree(used / "var")
    opened(used, run="run-elsewhere").close()
    assert "not the one that this machine used" in opened(used).doubt


async def test_the_instance_outlives_the_process_but_not_the_boot(used: Path) -> None:
    first = opened(used)
    instance = first.instance
    first.close()
    again = opened(used)
    assert again.instance == instance
    again.close()
    assert opened(used, run="run-after-reboot").instance != instance


async def test_two_agents_on_one_machine_are_refused(used: Path) -> None:
    keep = opened(used)
    with pytest.raises(JournalInUse, match="another tortie-agent on this machine"):
        opened(used)
    with pytest.raises(JournalInUse):
        Journal(state_dir=used / "other", run_dir=used / "run")
    keep.close()


async def test_generations_only_rise_and_are_durable(used: Path) -> None:
    journal = opened(used)
    assert [journal.next_generation(), journal.next_generation()] == [1, 2]
    journal.close()
    assert opened(used).generation() == 2
