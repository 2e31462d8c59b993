"""The node's own durable record of its allocations: SQLite, fsynced before a pod is told its address.

Theory. Answers to the CNI come from here, the API is written behind it. A row says that an address is `held` by a
handle, or was `freed` by it and the API does not show that yet (a tombstone; it goes when block and handle objects
have caught up). An address can have one holder and tombstones of earlier ones.

Group commit. `put` and `drop` write into one open transaction; `commit` waits for the fsync that ends it. All who ask
in one turn of the event loop share one fsync (0.1 to 0.6 ms), which runs in the loop's own thread: a hop to another
thread and back costs as much. An ADD has work to do meanwhile, so it asks for `commit_beside`: the disk works in a
thread, and all who ask until it is done share the next fsync. SQLite itself only writes (synchronous=NORMAL: it syncs
its log before it empties it); the sync of the log after a commit, which makes an answer durable, is ours.

Is it the right record? A journal is trusted unless it is
* new (lost, first start), corrupt (kept aside as *.corrupt), or of another schema version;
* an older copy put back. Two witnesses tell: the commit counter, mirrored in a small file under /run after each
  commit (same boot), and the generation, mirrored in the agent's Lease at each renewal (any boot; see fence.py).
An untrusted journal is not used as it stands: recovery rebuilds it from the API and the kernel (see recovery.py).

A failed fsync is final: what the file holds is unknown then, so nothing more is written until the agent starts anew.

Invariants: at most one process has a journal open (flock, held for life). The witness never runs ahead of the file.
Called by node, recovery, writer and fence; tortiectl reads it with `read_rows`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import sqlite3
import struct
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path

import msgspec

from crds.values import HandleID
from ipam.blocks import Attributes
from ipam.requests import IPAddress

SCHEMA_VERSION = 1
"""Raised with each change of the tables; a journal of any other version is rebuilt, which is always safe."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS allocations (
    address TEXT NOT NULL, handle TEXT NOT NULL, attributes BLOB NOT NULL,
    sequence INTEGER NOT NULL, state TEXT NOT NULL, at_s REAL NOT NULL, PRIMARY KEY (address, handle)
) WITHOUT ROWID;
"""
BUSY_S = 0.5
"""For somebody who looks into the journal and locks it: the loop stands still meanwhile, so less than SQLite's 5 s."""
_WITNESS = struct.Struct("<32s32sQ")  # instance id, journal id, commit counter


class RowState(Enum):
    """Whether a row says "in use" or "no longer in use, and the API must still learn it"."""

    HELD = "held"
    FREED = "freed"


@dataclass(frozen=True, slots=True)
class Row:
    """What the journal knows of one address. `at_s`: when it got into this state, wall clock."""

    address: IPAddress
    handle: HandleID
    attributes: Attributes
    sequence: int
    state: RowState
    at_s: float


class JournalError(Exception):
    """The journal could not be written (disk full, I/O error): what was put since the last commit is not durable."""


class JournalInUse(Exception):
    """Another process has this journal, or this run directory, open: two agents on one machine."""


class Journal:
    """An open journal. Not thread-safe: it belongs to the event loop that awaits `commit`."""

    def __init__(self, *, state_dir: Path, run_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.path = state_dir / "ipam.db"
        self._locks = [_lock(state_dir / "ipam.lock"), _lock(run_dir / "ipam-witness")]
        self._waiting: asyncio.Future[None] | None = None
        self._beside = False
        self._syncing = False
        self._broken = ""
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._log = -1
        self.doubt = ""
        """Why this journal must be rebuilt before it is used; "" if it can be trusted as it stands."""
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise JournalError(str(error)) from error
            self.doubt = f"the journal was corrupt ({error}), it is kept as {self._set_aside('corrupt')}"
            self._db = self._open()
        self._check_version()
        self.journal_id = self._identity("journal_id")
        commits = self.meta("commits")
        self._commits = commits if isinstance(commits, int) else 0
        self._witness = self._open_witness(self._locks[1])
        self._write()
        self._log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._sync()
        self._testify(self._commits)

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            if (verdict := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(verdict)
            db.executescript(_TABLES)
        except sqlite3.DatabaseError:
            db.close()
            raise
        if is_new and not self.doubt:
            self.doubt = "there was no journal"
        return db

    def _set_aside(self, why: str) -> Path:
        """Keep an unusable file for a person to look at; its WAL must not be replayed into the new one."""
        aside = self.path.with_name(f"{self.path.name}.{why}")
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        return aside

    def _check_version(self) -> None:
        version = self.meta("schema")
        if version is not None and version != SCHEMA_VERSION:
            self._db.close()
            self.doubt = f"the journal has schema version {version}, it is kept as {self._set_aside('other-version')}"
            self._db = self._open()
        self.set_meta("schema", SCHEMA_VERSION)

    def _identity(self, key: str) -> str:
        known = self.meta(key)
        if isinstance(known, str):
            return known
        fresh = uuid.uuid4().hex
        self.set_meta(key, fresh)
        return fresh

    def _open_witness(self, fd: int) -> mmap.mmap:
        """Map the file under /run that outlives the process but not the boot, and compare it with the journal."""
        known = os.pread(fd, _WITNESS.size, 0)
        os.ftruncate(fd, _WITNESS.size)
        witness = mmap.mmap(fd, _WITNESS.size)
        self.instance = uuid.uuid4().hex
        """Names the agent of this machine and boot: kept over restarts, different on any other machine."""
        if len(known) == _WITNESS.size and known[:32].strip(b"\0"):
            instance, journal_id, commits = _WITNESS.unpack(known)
            self.instance = instance.decode()
            if not self.doubt and journal_id.decode() != self.journal_id:
                self.doubt = "the journal is not the one that this machine used since it booted"
            elif not self.doubt and commits > self._commits:
                self.doubt = f"the journal is an older copy ({commits - self._commits} commits are missing)"
        return witness

    def close(self) -> None:
        """Give the journal up. What was put and not committed is lost."""
        self._disk.shutdown()
        self._db.close()
        os.close(self._log)
        self._witness.close()
        for fd in self._locks:
            os.close(fd)

    # -- reading ----------------------------------------------------------------------------------------------------

    def rows(self) -> tuple[Row, ...]:
        """All rows, in address order."""
        return tuple(_rows(self._db))

    def meta(self, key: str) -> object:
        """A remembered value, or None."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else msgspec.json.decode(found[0])

    def metas(self, prefix: str) -> tuple[object, ...]:
        """All remembered values whose key begins so."""
        query = "SELECT value FROM meta WHERE substr(key, 1, ?) = ? ORDER BY key"
        return tuple(msgspec.json.decode(value) for (value,) in self._db.execute(query, (len(prefix), prefix)))

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, row: Row) -> None:
        """Write a row into the open transaction."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO allocations VALUES (?, ?, ?, ?, ?, ?)",
                (
                    str(row.address),
                    row.handle,
                    msgspec.json.encode(dict(row.attributes)),
                    row.sequence,
                    row.state.value,
                    row.at_s,
                ),
            )

    def drop(self, row: Row) -> None:
        """Forget what this handle had to do with this address, in the open transaction."""
        with self._transaction() as db:
            db.execute("DELETE FROM allocations WHERE address = ? AND handle = ?", (str(row.address), row.handle))

    def set_meta(self, key: str, value: object) -> None:
        """Remember a JSON value, in the open transaction; it is durable with the next commit, whoever asks for it."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, msgspec.json.encode(value)))

    def unset_meta(self, key: str) -> None:
        """Forget a value, in the open transaction."""
        with self._transaction() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (key,))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._broken:
            raise JournalError(self._broken)
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            yield self._db
        except sqlite3.Error as error:
            raise JournalError(str(error)) from error

    async def commit(self) -> None:
        """Make everything put so far durable; all who ask in this turn of the loop share one fsync, and its failure."""
        if self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            if not self._syncing:
                loop.call_soon(self._commit_group)
        await asyncio.shield(self._waiting)  # one who gives up must not take the others along

    async def commit_beside(self) -> None:
        """As `commit`, for one who has other work to do while the disk works: the fsync runs in a thread."""
        self._beside = True
        await self.commit()

    def _commit_group(self) -> None:
        group, self._waiting = self._waiting, None
        beside, self._beside = self._beside, False
        try:
            if not beside:
                self.commit_now()
            elif self._write():
                self._syncing = True
                commits = self._commits
                syncing = asyncio.get_running_loop().run_in_executor(self._disk, self._sync)
                syncing.add_done_callback(lambda done: self._synced(done, group=group, commits=commits))
                return
        except JournalError as error:
            _tell(group, error)
        else:
            _tell(group, None)

    def _synced(self, done: asyncio.Future[None], *, group: asyncio.Future[None] | None, commits: int) -> None:
        self._syncing = False
        error = None if done.cancelled() else done.exception()
        if error is None:
            self._testify(commits)
        _tell(group, JournalError(str(error)) if error is not None else None)
        if self._waiting is not None:
            self._commit_group()

    def commit_now(self) -> None:
        """Commit and fsync. On JournalError all that was put since the last commit is rolled back."""
        if self._write():
            self._sync()
            self._testify(self._commits)

    def _write(self) -> bool:
        """End the transaction; False if there was none. Not durable yet."""
        if not self._db.in_transaction:
            return False
        try:
            self._commits += 1
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('commits', ?)", (b"%d" % self._commits,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise JournalError(str(error)) from error
        return True

    def _sync(self) -> None:
        """Any thread."""
        try:
            os.fdatasync(self._log)
        except OSError as error:
            self._broken = f"the disk could not keep it ({error.strerror}); restart the agent"
            raise JournalError(self._broken) from error

    def _testify(self, commits: int) -> None:
        _WITNESS.pack_into(self._witness, 0, self.instance.encode(), self.journal_id.encode(), commits)

    def next_generation(self) -> int:
        """Raise the generation, durably, before it is told to the Lease: the Lease must never be ahead of it."""
        generation = self.generation() + 1
        self.set_meta("generation", generation)
        self.commit_now()
        return generation

    def generation(self) -> int:
        """The generation this journal last told the Lease, or was about to tell it."""
        known = self.meta("generation")
        return known if isinstance(known, int) else 0

    def believe(self) -> None:
        """The journal has been rebuilt: from now on it is the truth."""
        self.doubt = ""


def _tell(group: asyncio.Future[None] | None, error: JournalError | None) -> None:
    if group is None or group.done():
        return
    if error is None:
        group.set_result(None)
    else:
        group.set_exception(error)
        group.exception()  # marks it as seen, should everybody have given up


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a journal that another process may have open."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return tuple(_rows(db))


def _rows(db: sqlite3.Connection) -> Iterator[Row]:
    query: Iterable[tuple[str, str, bytes, int, str, float]] = db.execute("SELECT * FROM allocations ORDER BY address")
    for address, handle, attributes, sequence, state, at_s in query:
        pairs = tuple(sorted(msgspec.json.decode(attributes, type=dict[str, str]).items()))
        yield Row(ip_address(address), HandleID(handle), pairs, sequence, RowState(state), at_s)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad. One that is locked, or on a full or read-only disk, is as good as before."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise JournalInUse(f"another tortie-agent on this machine holds {path}") from error
    return fd
