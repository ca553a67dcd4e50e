"""The SQLite database of a store: snapshots, transactions, and the check against the commit counter.

Every page carries a checksum (SQLite's cksumvfs), verified on each read. SQLite silently drops commits from a damaged
write-ahead log; the commit counter, kept in a separate file, detects that.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import apsw

from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreError,
    StoreExistsError,
    StoreMovedError,
    StoreReadOnlyError,
)
from qwen3_rag.forking import Forked
from qwen3_rag.index.commit import KEYS, Commit, commit_of, commit_rows
from qwen3_rag.index.connections import FILE, Opener, translated
from qwen3_rag.index.folder import COUNTER, Folder
from qwen3_rag.index.pool import ConnectionPool
from qwen3_rag.index.schema import Run, create_tables, upgrade

__all__ = ["COUNTER", "FILE", "Database", "Run", "Transaction"]

WAIT = 3600.0  # seconds that a writer waits for another; compacting ten million passages takes many minutes
SHRINK_WAIT = 60.0  # seconds that `shrink` waits for other processes
LOG_EVERY = 10.0  # seconds between log lines of a waiting writer
READ_COMMIT = (
    f"SELECT key, value FROM meta WHERE key IN ('identity', {', '.join(map(repr, KEYS))}) "
    "UNION ALL SELECT NULL, max(number) FROM removed"
)
logger = logging.getLogger("qwen3_rag")


class Transaction:
    """A snapshot or write transaction of a thread.

    Attributes:
        commit: The commit that a snapshot reads or a transaction will write; assign a changed one to write that.
    """

    def __init__(self, commit: Commit) -> None:
        self.commit = commit


class _Thread(threading.local):
    """What a thread is doing."""

    transaction: Transaction | None = None


class Database(Forked):
    """An open database. Thread-safe: writers take turns, and each thread reads through a separate connection.

    Args:
        folder: The store's folder.
        opener: Opens connections to the database file.
        connection: An open, checked connection.
    """

    def __init__(self, folder: Folder, opener: Opener, connection: apsw.Connection) -> None:
        self.files, self.folder, self.path = folder, folder.path, folder.path / FILE
        self._opener, self._pool = opener, ConnectionPool(opener)
        self._pool.add(connection)
        self.close = self._pool.close
        self._write_lock, self._thread = threading.RLock(), _Thread()
        self._parsed: tuple[list[Any], Commit] = ([], Commit())  # the last commit read, and its rows
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Start with a new lock, and in no transaction."""
        self._write_lock, self._thread = threading.RLock(), _Thread()

    def initialize(self, meta: Mapping[str, Any]) -> None:
        """Create the tables in a new file, with values for `meta`, and the counter beside it.

        Raises:
            StoreExistsError: Another process has done so already.
        """
        identity = os.urandom(16)
        with self._pool.connected() as connection, self._writing(connection):
            if connection.execute("PRAGMA user_version").get:
                raise StoreExistsError(f"{self.folder} was created as a store by another process just now")
            create_tables(connection.execute, identity, meta)
            self.files.begin(identity)
        self.files.sync()

    @property
    def connection(self) -> apsw.Connection:
        """The connection of the thread's snapshot or transaction."""
        return self._pool.connection

    @property
    def run(self) -> Run:
        """Execute a statement within the thread's snapshot or transaction."""
        return self._pool.connection.execute

    @property
    def many(self) -> Run:
        """Execute a statement once for each row of values, within the thread's snapshot or transaction."""
        return self._pool.connection.executemany

    @property
    def format(self) -> int:
        """Format version, as of the thread's snapshot or transaction."""
        return int(self.run("PRAGMA user_version").get)

    @contextmanager
    def snapshot(self) -> Iterator[Commit]:
        """Run the block's reads on one commit, which is yielded; within a transaction, on what it has written so far.

        Raises:
            IndexCorruptedError: An acknowledged commit is missing, or the commit's record is damaged.
        """
        if self._thread.transaction is not None:
            yield self._thread.transaction.commit
            return
        self.files.check_path()
        # Read before the snapshot begins, so the snapshot must contain every commit acknowledged by then.
        acknowledged = self.files.acknowledged()
        with self._pool.connected() as connection:
            connection.execute("BEGIN")
            try:
                commit = self._read_commit(connection, acknowledged)
            except IndexCorruptedError:
                self._opener.check_unchanged(connection)
                raise
            with self._entered(Transaction(commit)):
                yield commit
            self._opener.check_unchanged(connection)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit the block's writes together, or none of them; its `commit` has the new number."""
        self.require_writable()
        with self._write_lock, self._pool.connected() as connection:
            with self._writing(connection):
                self.files.check_path()
                before = self._read_commit(connection, self.files.acknowledged())
                upgrade(connection.execute, self.files.identity or b"")
                number = before.number + 1
                with self._entered(Transaction(replace(before, number=number))) as transaction:
                    yield transaction
                rows = commit_rows(replace(transaction.commit, number=number), before)
                connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._acknowledge(number)

    @contextmanager
    def _entered(self, transaction: Transaction) -> Iterator[Transaction]:
        thread = self._thread
        outer, thread.transaction = thread.transaction, transaction
        try:
            yield transaction
        finally:
            thread.transaction = outer

    @contextmanager
    def _writing(self, connection: apsw.Connection) -> Iterator[None]:
        self._begin(connection)
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _acknowledge(self, commit: int) -> None:
        try:
            self.files.acknowledge(commit)
        except OSError as error:
            raise StoreError(f"{self.folder / COUNTER} cannot be written: {error}") from error

    def require_writable(self) -> None:
        """Raise StoreReadOnlyError unless this process may write the store."""
        if reason := self._opener.read_only:
            raise StoreReadOnlyError(f"{self.folder} is read-only for this process: {reason}")

    def _begin(self, connection: apsw.Connection) -> None:
        """Begin a write transaction, waiting for other processes' writes."""
        started = last_logged = time.monotonic()
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except apsw.BusyError:
                now = time.monotonic()
                if now - started > WAIT:
                    raise
                if now - last_logged > LOG_EVERY:
                    last_logged = now
                    logger.info("%s: waiting for another writer, %.0f s", self.folder, now - started)

    def _read_commit(self, connection: apsw.Connection, acknowledged: int) -> Commit:
        """The commit that a connection reads, parsed again only if it has changed.

        Raises:
            StoreMovedError: The database belongs to another store.
            IndexCorruptedError: It is older than the commit `acknowledged`, or its record is damaged.
        """
        rows: list[Any] = connection.execute(READ_COMMIT).fetchall()
        known, commit = self._parsed
        if rows != known:
            values = dict(rows)
            last_removal = values.pop(None) or 0
            identity = self.files.identity
            stored = values.pop("identity", None)
            if identity is not None and stored not in (None, "null", json.dumps(identity.hex())):
                raise StoreMovedError(self.folder)
            commit = commit_of(values, last_removal, self.path)
        if commit.number < acknowledged:
            raise IndexCorruptedError(
                f"{self.path}: the last commit is {commit.number}, but commit {acknowledged} was acknowledged; "
                f"its write-ahead log ({FILE}-wal) is damaged or missing, or the database comes from an older copy"
            )
        self._parsed = rows, commit
        return commit

    def meta(self, key: str) -> Any:
        """The stored value of a key such as "embedder", decoded from JSON; None if there is none."""
        with self.snapshot():
            row = self.run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: object) -> None:
        """Store a value under a key as JSON, in a transaction by itself."""
        with self.transaction():
            self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def shrink(self) -> None:
        """Return free space to the file system and empty the write-ahead log.

        If other processes keep the database busy, only a warning is logged, and a later call frees the space.
        """
        end = time.monotonic() + SHRINK_WAIT
        with self._write_lock, self._pool.connected() as connection:
            while True:
                # VACUUM attaches a temporary copy of the database.
                connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
                try:
                    self.files.check()
                    connection.execute("VACUUM")
                    break
                except (apsw.BusyError, apsw.LockedError):
                    if time.monotonic() > end:
                        logger.warning("%s: other processes are writing; a later optimize frees its space", self.folder)
                        return
                finally:
                    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
            with suppress(apsw.BusyError):  # another process is emptying it
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def integrity(self) -> list[str]:
        """Problems that SQLite's integrity check reports, as messages; reads every page."""
        try:
            return [row[0] for row in self.run("PRAGMA integrity_check") if row[0] != "ok"]
        except apsw.Error as error:
            return [str(translated(error, self.path))]
