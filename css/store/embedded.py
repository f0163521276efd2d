"""The embedded store: one SQLite file, for one machine. The file can be copied while css is stopped.

Exactly one connection writes and checkpoints, in exclusive locking mode: SQLite before 3.51.3 can corrupt a WAL that
two connections reset at once (sqlite.org/wal.html#walresetbug), and a second daemon on the same file must be refused.
Every commit is one transaction, synced to the disk before it returns (`synchronous=FULL`).
Never called from two threads at once: a lock of its own orders commits, pages of a snapshot and expiry.
"""

from __future__ import annotations

import functools
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from css.errors import ConfigError, Unavailable
from css.log import RevisionLog
from css.model import FORGOTTEN, TOMBSTONE_FORGOTTEN, Batch, Forget, Gone, Head, Key, Put, Receipt, Record, Write
from css.store import Retention

APPLICATION_ID = 0x63737331  # "css1": `file` and other tools can tell whose file this is
FORMAT = 1

_PAGE = 1000
# Changes that a watcher may lag behind before it must list again; each holds its body, so about 8 MB at 1.6 kB.
_WATCH_CAPACITY = 5_000

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT;
CREATE TABLE entries (
    path TEXT PRIMARY KEY,     -- model.Key.path
    revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body BLOB,                 -- NULL: a tombstone
    expires REAL               -- seconds since the epoch; NULL: never
) STRICT;
CREATE INDEX entries_expires ON entries (expires) WHERE expires IS NOT NULL;
"""

T = TypeVar("T")


class EmbeddedStore:
    """See `css.store.Store` for what it promises."""

    max_writes = 1000

    def __init__(
        self, connection: sqlite3.Connection, path: Path, retention: Retention, epoch: str, revision: int
    ) -> None:
        self._connection = connection
        self._path = path
        self._retention = retention
        self._epoch = epoch
        self._lock = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._recent: RevisionLog[Batch] = RevisionLog(
            revision, capacity=_WATCH_CAPACITY, weigh=lambda b: len(b.records)
        )
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self._path} {self._recent!r}>"

    async def commit(self, writes: Sequence[Write]) -> Receipt:
        if len(writes) > self.max_writes or len({write.change.key for write in writes}) != len(writes):
            raise ValueError("at most one write per key, and at most max_writes of them")
        async with self._lock:
            return await self._settle(functools.partial(self._apply, writes))

    async def snapshot(self, take: Callable[[Sequence[Record]], None]) -> Head:
        async with self._lock:  # held over all pages: they show one revision
            cursor = await self._run(
                lambda: self._connection.execute("SELECT path, revision, version, body FROM entries ORDER BY path")
            )
            while rows := await self._run(lambda: cursor.fetchmany(_PAGE)):
                take([_record(*row) for row in rows])
            return Head(self._epoch, self._recent.head)

    @asynccontextmanager
    async def watch(self, after: int) -> AsyncIterator[_EmbeddedWatch]:
        yield _EmbeddedWatch(self, after)

    async def compact(self, floor: int) -> None:
        self._recent.compact(floor)

    async def expire_forever(self, interval: float) -> None:
        """Every `interval` seconds let go of the entries whose time is over; a full disk only delays it."""
        while True:
            await trio.sleep(interval)
            async with self._lock:
                try:
                    while (await self._settle(self._expire)).revision:
                        await trio.lowlevel.checkpoint()
                except Unavailable:
                    continue

    async def _settle(self, work: Callable[[int], tuple[Receipt, tuple[Record, ...]]]) -> Receipt:
        """Run one transaction; publish what it changed. The transaction is never abandoned once begun."""
        receipt, records = await self._run(functools.partial(self._transact, work, self._recent.head + 1))
        if records:
            self._recent.append(Batch(receipt.revision, records))
            self._moved.set()
            self._moved = trio.Event()
        return receipt

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._thread)
        except sqlite3.OperationalError as error:
            # Full disks, I/O errors, a file system gone read-only: all may pass. A damaged file does not.
            raise Unavailable("store", f"{self._path}: {error}") from error

    def _transact(
        self, work: Callable[[int], tuple[Receipt, tuple[Record, ...]]], revision: int
    ) -> tuple[Receipt, tuple[Record, ...]]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            receipt, records = work(revision)
            if records:
                connection.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (revision,))
            connection.execute("COMMIT" if records else "ROLLBACK")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back on some errors (full disk)
                connection.execute("ROLLBACK")
            raise
        return receipt, records

    def _apply(self, writes: Sequence[Write], revision: int) -> tuple[Receipt, tuple[Record, ...]]:
        lost: list[tuple[Write, Record | None]] = []
        records: list[Record] = []
        for write in writes:
            path = write.change.key.path
            row = self._connection.execute(
                "SELECT path, revision, version, body FROM entries WHERE path = ?", (path,)
            ).fetchone()
            current = _record(*row) if row else None
            if (current.revision if current else 0) != write.expected:
                lost.append((write, current))
                continue
            if (record := self._store(write, current, revision)) is not None:
                records.append(record)
        return Receipt(revision if records else revision - 1, tuple(lost)), tuple(records)

    def _store(self, write: Write, current: Record | None, revision: int) -> Record | None:
        change = write.change
        match change:
            case Put(key, version, body):
                record = Record(key, revision, version, body)
            case Gone(key, version):
                record = Record(key, revision, version, None)
            case Forget(key):
                self._connection.execute("DELETE FROM entries WHERE path = ?", (key.path,))
                return None if current is None else _removal(key, current.body is None, revision)
        age = self._retention.of(change)
        self._connection.execute(
            "INSERT OR REPLACE INTO entries (path, revision, version, body, expires) VALUES (?, ?, ?, ?, ?)",
            (record.key.path, revision, record.version, record.body, None if age is None else time.time() + age),
        )
        return record

    def _expire(self, revision: int) -> tuple[Receipt, tuple[Record, ...]]:
        select = "SELECT path, body IS NULL FROM entries WHERE expires <= ? ORDER BY expires LIMIT ?"
        expired = self._connection.execute(select, (time.time(), self.max_writes)).fetchall()
        self._connection.executemany("DELETE FROM entries WHERE path = ?", [(path,) for path, _ in expired])
        records = tuple(_removal(_key(path), buried, revision) for path, buried in expired)
        return Receipt(revision if records else 0), records


class _EmbeddedWatch:
    def __init__(self, store: EmbeddedStore, after: int) -> None:
        self._store = store
        self._position = after

    async def receive(self) -> Sequence[Batch]:
        while True:
            moved = self._store._moved  # taken before looking: no wake-up is lost in between
            if batches := self._store._recent.read(self._position):
                self._position = batches[-1].revision
                await trio.lowlevel.checkpoint()
                return batches
            await moved.wait()


@asynccontextmanager
async def open_embedded(path: Path, retention: Retention) -> AsyncIterator[EmbeddedStore]:
    """Open (or make) the store file at `path`. Raises `ConfigError` when it is in use, newer, or no store of ours."""
    connection, epoch, revision = await trio.to_thread.run_sync(_open, path)
    store = EmbeddedStore(connection, path, retention, epoch, revision)
    shortest = min(retention.tombstone, retention.event, retention.quarantine)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.expire_forever, min(60.0, shortest / 4))
            yield store
            nursery.cancel_scope.cancel()
    finally:
        # Closing checkpoints the log: it is local, bounded by the file, and must happen even when cancelled.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(connection.close)


def _open(path: Path) -> tuple[sqlite3.Connection, str, int]:
    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=1.0, cached_statements=64
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
            _check_format(connection, path)  # before anything is changed: it may be somebody else's
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # takes the exclusive lock, which the mode then keeps
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            _create(connection)
        connection.execute("COMMIT")
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise ConfigError(_open_error(path, error)) from error
    except ConfigError:
        if connection is not None:
            connection.close()
        raise
    return connection, str(meta["epoch"]), int(meta["revision"])


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [("epoch", uuid.uuid4().hex), ("revision", 0)])


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigError(f"{path}: this SQLite file is not a store of css; name another file")
    if version > FORMAT:
        raise ConfigError(f"{path}: written by a newer css (format {version}, this one reads {FORMAT}); upgrade css")


def _open_error(path: Path, error: Exception) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"{path}: in use by another process; two daemons cannot share an embedded store (use etcd for replicas)"
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return f"{path}: this file is not a SQLite database; name another file"
    return f"{path}: cannot open the store: {error}"


def _key(path: str) -> Key:
    key = Key.from_path(path)
    if key is None:
        raise ValueError(f"not a key: {path!r}")
    return key


def _removal(key: Key, buried: bool, revision: int) -> Record:
    return Record(key, revision, TOMBSTONE_FORGOTTEN if buried else FORGOTTEN, None)


def _record(path: str, revision: int, version: int, body: bytes | None) -> Record:
    return Record(_key(path), revision, version, body)
