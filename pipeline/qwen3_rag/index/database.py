"""The SQLite database of a store: its layout, how it is opened, transactions, and the commit counter beside it.

Every page carries a checksum (SQLite's own cksumvfs), compared whenever it is read. A damaged write-ahead log makes
SQLite drop commits silently; the counter in a file of its own notices.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra

from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from qwen3_rag.index.counter import CommitCounter, sync_folder

__all__ = ["COUNTER", "FILE", "FORMAT", "Database"]

FORMAT = 3  # what is written
READS = (2, 3)  # what is read; a store of format 2 becomes one of format 3 at its first write
APPLICATION_ID = 0x51335247  # "Q3RG", so that `file` and we can tell a store from any other database
FILE = "store.sqlite3"
COUNTER = "commit"
WAIT = 5_000  # milliseconds that a writer waits for another
PAGE = 16_384
CACHE = 16 << 20  # bytes of pages that a connection keeps
CHECKSUM = 8  # bytes of each page that cksumvfs takes
VFS = "cksmvfs"
Run = Callable[..., Any]  # a cursor, whose rows have whatever types were asked for

# A passage's number is its row in the file of vectors; a document's passages have consecutive numbers.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT, source TEXT, text TEXT NOT NULL,
    metadata TEXT NOT NULL, first INTEGER NOT NULL, passages INTEGER NOT NULL) STRICT;
CREATE TABLE passages (
    number INTEGER PRIMARY KEY, document INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, page INTEGER, heading TEXT, digest BLOB NOT NULL) STRICT;
CREATE INDEX passages_by_digest ON passages (digest);
CREATE TABLE field_names (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE fields (
    field INTEGER NOT NULL, item INTEGER NOT NULL, kind INTEGER NOT NULL, value ANY NOT NULL,
    first INTEGER NOT NULL, passages INTEGER NOT NULL,
    PRIMARY KEY (field, item, kind, value, first)) STRICT, WITHOUT ROWID;
CREATE TABLE removed (number INTEGER PRIMARY KEY, passage INTEGER NOT NULL) STRICT;
CREATE TABLE blocks (block INTEGER PRIMARY KEY, digest INTEGER NOT NULL) STRICT;
"""
# What format 3 adds. The table `sources` of format 2 was never filled.
ADDITIONS = """
DROP INDEX IF EXISTS documents_by_source;
DROP TABLE IF EXISTS sources;
ALTER TABLE documents ADD COLUMN origin INTEGER;
CREATE INDEX documents_by_origin ON documents (origin) WHERE origin IS NOT NULL;
CREATE TABLE blocks_of_text (
    document INTEGER NOT NULL, block INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (document, block)) STRICT, WITHOUT ROWID;
CREATE TABLE sources (
    number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, changed INTEGER NOT NULL,
    digest BLOB NOT NULL) STRICT;
CREATE TABLE staged (digest BLOB PRIMARY KEY, vector BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""


class Database:
    """An open database. Thread-safe: writers take turns, and each thread reads by a connection of its own.

    Args:
        folder: The store's folder.
        connection: An open, checked connection to its file.
    """

    def __init__(self, folder: Path, connection: apsw.Connection) -> None:
        self.folder, self.path = folder, folder / FILE
        self.counter = CommitCounter(folder / COUNTER)
        self._write_lock = threading.RLock()
        self._lock = threading.Lock()
        self._idle = [connection]
        self._closed = False
        self._local = threading.local()

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise StoreExistsError unless the folder is empty or not there."""
        if (folder / FILE).exists():
            raise StoreExistsError(f"{folder} is a store already; use Pipeline.open, or another folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreExistsError(f"{folder} is not empty and no store; expected a new or empty folder")

    @classmethod
    def create(cls, folder: Path, meta: Mapping[str, Any]) -> "Database":
        """Make the database of a new store in a folder that is empty or not there yet.

        Raises:
            StoreExistsError: Something is there already.
            StoreError: The folder cannot be written, or its file system has no locks.
        """
        cls.check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            connection = _connect(folder / FILE, new=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error}") from error
        except StoreError:
            # No locks here, so no other process can be at work on it either.
            (folder / FILE).unlink(missing_ok=True)
            raise
        except apsw.Error as error:
            raise _translated(error, folder / FILE) from error
        database = cls(folder, connection)
        try:
            with database.transaction() as run:
                if run("PRAGMA user_version").get:
                    raise StoreExistsError(f"{folder} became a store just now, made by another process")
                database._fill(run, meta)
                database.counter.create(0)
            sync_folder(folder)
        except (StoreExistsError, StoreLockedError):
            database.close()
            raise
        except BaseException as error:
            database.close()
            for file in [*folder.glob(f"{FILE}*"), folder / COUNTER]:
                file.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise StoreError(f"{folder} cannot be written: {error}") from error
            raise
        return database

    @staticmethod
    def _fill(run: Run, meta: Mapping[str, Any]) -> None:
        run(SCHEMA + ADDITIONS)
        for key, value in {"commit": 0, "rows": 0, "removed": 0, "documents": 0, "generation": 1, **meta}.items():
            run("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))
        run(f"PRAGMA application_id = {APPLICATION_ID}")
        run(f"PRAGMA user_version = {FORMAT}")

    @classmethod
    def open(cls, folder: Path) -> "Database":
        """Open the database of the store in a folder.

        Raises:
            StoreNotFoundError: No folder, or no store in it.
            StoreVersionError: Written in another version of the format.
            IndexCorruptedError: The database cannot be read, or has lost commits.
        """
        path = folder / FILE
        if not path.is_file():
            what = "no such folder" if not folder.exists() else f"no {FILE} in it"
            raise StoreNotFoundError(f"{folder} is not a store ({what}); make one with Pipeline.create")
        application, version = _identity(path)
        if application != APPLICATION_ID:
            raise StoreNotFoundError(f"{path} is not a store of this package")
        if version not in READS:
            raise StoreVersionError(f"{folder} is in format {version}; this version reads formats 2 and 3")
        try:
            database = cls(folder, _connect(path))
        except apsw.Error as error:
            raise _translated(error, path) from error
        try:
            with database.snapshot():
                pass
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close it; closing twice does nothing. What other threads are reading, they read to the end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> apsw.Connection:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.folder} was closed; open it anew")
            if self._idle:
                return self._idle.pop()
        if not self.path.is_file():
            raise StoreNotFoundError(f"{self.folder} has vanished")
        return _connect(self.path)

    def _give(self, connection: apsw.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    @property
    def connection(self) -> apsw.Connection:
        """The connection of the thread's snapshot or transaction."""
        found: apsw.Connection = self._local.connection
        return found

    @property
    def run(self) -> Run:
        """Execute a statement within the thread's snapshot or transaction."""
        execute: Run = self._local.connection.execute
        return execute

    @property
    def many(self) -> Run:
        """Execute a statement for each of several rows of values."""
        executemany: Run = self._local.connection.executemany
        return executemany

    @contextmanager
    def _connected(self) -> Iterator[apsw.Connection]:
        with self._guarded():
            connection = self._take()
            outer = getattr(self._local, "connection", None)
            self._local.connection = connection
            try:
                yield connection
            finally:
                self._local.connection = outer
                if connection.in_transaction:
                    with suppress(apsw.Error):
                        connection.execute("ROLLBACK")
                self._give(connection)

    @property
    def format(self) -> int:
        """Version of the layout, as of the thread's snapshot or transaction."""
        return int(self.run("PRAGMA user_version").get)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read everything within from one commit.

        Raises:
            IndexCorruptedError: A commit that was acknowledged is missing.
        """
        if getattr(self._local, "connection", None) is not None:
            yield
            return
        # Read before the snapshot is taken: what was acknowledged by then must be in it.
        acknowledged = self.counter.read()
        with self._connected() as connection:
            connection.execute("BEGIN")
            commit = self.meta("commit")
            if commit is None or commit < acknowledged:
                raise IndexCorruptedError(
                    f"{self.path}: the last commit is {commit}, but commit {acknowledged} was acknowledged; "
                    f"its write-ahead log ({FILE}-wal) is damaged or missing, or the file was put back from a copy"
                )
            yield

    @contextmanager
    def transaction(self) -> Iterator[Run]:
        """Write everything within as one commit, or nothing; the commit's number is `meta("commit")` within."""
        with self._write_lock, self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                before = self._commit_number(connection)
                if before is not None:
                    acknowledged = self.counter.read()
                    if before < acknowledged:
                        raise IndexCorruptedError(f"{self.path}: commits {before + 1} to {acknowledged} are missing")
                    connection.execute("UPDATE meta SET value = ? WHERE key = 'commit'", (json.dumps(before + 1),))
                    if connection.execute("PRAGMA user_version").get == 2:
                        connection.execute(f"{ADDITIONS} PRAGMA user_version = {FORMAT}")
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if before is not None:
                self.counter.write(before + 1)

    @staticmethod
    def _commit_number(connection: apsw.Connection) -> int | None:
        if not connection.execute("PRAGMA user_version").get:
            return None
        return int(connection.execute("SELECT value FROM meta WHERE key = 'commit'").get)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            translated = _translated(error, self.path)
            if translated is error:
                raise
            raise translated from error

    def meta(self, key: str) -> Any:
        """A value kept beside the data, such as "commit" or "embedder"; None if there is none."""
        with self.snapshot():
            row = self.run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: object) -> None:
        """Keep a value beside the data, within a transaction."""
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def set_meta(self, key: str, value: object) -> None:
        """Keep a value beside the data."""
        with self.transaction():
            self.put(key, value)

    def shrink(self) -> None:
        """Give the space of what was removed back to the file system, and empty the write-ahead log."""
        with self._write_lock, self._connected() as connection:
            # SQLite itself attaches the copy that it makes.
            connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
            try:
                connection.execute("VACUUM")
            finally:
                connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with its own structure, in words; every page is read."""
        try:
            return [row[0] for row in self.run("PRAGMA integrity_check") if row[0] != "ok"]
        except apsw.Error as error:
            return [str(_translated(error, self.path))]


@functools.cache
def _checksums() -> None:
    """Make the checksumming file layer known to this process; the connection keeps it loaded."""
    keeper = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(keeper, "cksumvfs")
    _KEEPERS.append(keeper)


_KEEPERS: list[apsw.Connection] = []


def _identity(path: Path) -> tuple[int, int]:
    """Application and format of a database file."""
    _checksums()
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=VFS)
        try:
            return connection.execute("PRAGMA application_id").get, connection.execute("PRAGMA user_version").get
        finally:
            connection.close()
    except apsw.NotADBError as error:
        raise IndexCorruptedError(f"{path} is not a database that SQLite reads: {error}") from error
    except apsw.Error as error:
        raise _translated(error, path) from error


def _connect(path: Path, *, new: bool = False) -> apsw.Connection:
    _checksums()
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if new else 0)
    connection = apsw.Connection(str(path), flags=flags, vfs=VFS)
    try:
        connection.set_busy_timeout(WAIT)
        if new:
            connection.reserve_bytes(None, CHECKSUM)
            connection.execute(f"PRAGMA page_size = {PAGE}")
        mode = connection.execute("PRAGMA journal_mode = WAL").get
        if mode != "wal":
            raise StoreError(f"{path}: the file system offers no shared memory or locks (journal mode {mode})")
        for pragma in ("synchronous = FULL", "trusted_schema = OFF", f"cache_size = {-CACHE // 1024}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _translated(error: apsw.Error, path: Path) -> Exception:
    """Our error for one of SQLite's; the same error if it is a mistake of ours."""
    text = f"{path}: {error}"
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreLockedError(f"{path.parent}: another writer holds the store ({error})")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return IndexCorruptedError(text)
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return IndexCorruptedError(f"{path}: a page does not match its checksum")
    if isinstance(error, apsw.FullError):
        return StoreError(f"{path}: no room left on the disk")
    known = apsw.IOError | apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError | apsw.NoLFSError
    return StoreError(text) if isinstance(error, known) else error
