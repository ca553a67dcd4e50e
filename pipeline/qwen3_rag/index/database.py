"""The SQLite database of a store: schema, transactions, and the check against the commit counter.

Every page carries a checksum (SQLite's cksumvfs), verified on each read. SQLite silently drops commits from a damaged
write-ahead log; the commit counter, kept in a separate file, detects that.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreMovedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from qwen3_rag.forking import Forked
from qwen3_rag.index.connections import APPLICATION_ID, FILE, Opener, translated
from qwen3_rag.index.folder import COUNTER, Folder

__all__ = ["COUNTER", "FILE", "FORMAT", "Database"]

FORMAT = 3  # of new stores
WAIT = 3600.0  # seconds that a writer waits for another; compacting ten million passages takes many minutes
SHRINK_WAIT = 60.0  # seconds that `shrink` waits for other processes
LOG_EVERY = 10.0  # seconds between log lines of a waiting writer
QUIESCE = 5.0  # seconds that a fork waits for reads and writes of other threads to end
Run = Callable[..., Any]  # returns a cursor; its row types depend on the statement

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
# Changes from format 2 to 3. The table `sources` of format 2 was never written to.
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


logger = logging.getLogger("qwen3_rag")
_ABANDONED: list[apsw.Connection] = []
_IN_USE_AT_FORK: set[tuple[int, int]] = set()  # database files, by device and inode


class Database(Forked):
    """An open database. Thread-safe: writers take turns, and each thread reads through a separate connection.

    Args:
        folder: The store's folder.
        opener: Opens connections to the database file.
        connection: An open, checked connection.
    """

    def __init__(self, folder: Folder, opener: Opener, connection: apsw.Connection) -> None:
        self.files, self.folder, self.path = folder, folder.path, folder.path / FILE
        self._opener = opener
        self._write_lock = threading.RLock()
        self._changed = threading.Condition()
        self._idle = [connection]
        self._active: list[apsw.Connection] = []
        self._closed = self._forking = False
        self._local = threading.local()
        super().__init__()

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise StoreExistsError unless the folder is empty or does not exist."""
        if (folder / FILE).exists():
            raise StoreExistsError(f"{folder} is already a store; use Pipeline.open, or another folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreExistsError(f"{folder} is not empty and not a store; expected a new or empty folder")

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, Any]) -> "Database":
        """Create the database of a new store in a folder that is empty or does not exist yet.

        Raises:
            StoreExistsError: The folder is a store or is not empty.
            StoreError: The folder cannot be written, or its file system has no locks.
        """
        path = path.expanduser()
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = Folder(path)
            opener = Opener(folder, new=True)
            connection = opener.connect()
        except OSError as error:
            raise StoreError(f"{path} cannot be created: {error}") from error
        except StoreError:
            # Without locks no other process can be using the file, so it can be removed.
            (path / FILE).unlink(missing_ok=True)
            raise
        except apsw.Error as error:
            raise translated(error, path / FILE) from error
        database = cls(folder, opener, connection)
        opener.new = False
        identity = os.urandom(16)
        try:
            with database.transaction() as run:
                if run("PRAGMA user_version").get:
                    raise StoreExistsError(f"{path} was created as a store by another process just now")
                database._initialize(run, {"identity": identity.hex(), **meta})
                folder.begin(identity)
            folder.sync()
        except (StoreExistsError, StoreLockedError):
            database.close()
            raise
        except BaseException as error:
            database.close()
            with suppress(StoreError):
                folder.check_path()
                for file in [*folder.path.glob(f"{FILE}*"), folder.path / COUNTER]:
                    file.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise StoreError(f"{path} cannot be written: {error}") from error
            raise
        return database

    @staticmethod
    def _initialize(run: Run, meta: Mapping[str, Any]) -> None:
        run(SCHEMA + ADDITIONS)
        for key, value in {"commit": 0, "rows": 0, "removed": 0, "documents": 0, "generation": 1, **meta}.items():
            run("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))
        run(f"PRAGMA application_id = {APPLICATION_ID}")
        run(f"PRAGMA user_version = {FORMAT}")

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open the database of the store in a folder, read-only if this process may not write it.

        Raises:
            StoreNotFoundError: The folder does not exist, or is not a store.
            StoreVersionError: The store has a format that this version cannot read.
            IndexCorruptedError: The database is damaged, or has lost commits.
            StoreError: This process may not read it, or was forked while the store was in use.
        """
        path = path.expanduser()
        file = path / FILE
        try:
            is_store = file.is_file()
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}; expected read permission") from error
        if not is_store:
            reason = "no such folder" if not path.exists() else f"no {FILE} in it"
            raise StoreNotFoundError(f"{path} is not a store ({reason}); create one with Pipeline.create")
        try:
            folder = Folder(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}; expected read permission") from error
        opener = Opener(folder)
        cls._check_forks(opener)
        try:
            connection = opener.connect()
        except apsw.Error as error:
            raise translated(error, file) from error
        database = cls(folder, opener, connection)
        try:
            folder.identity, _ = folder.read()
            with database.snapshot():
                pass
        except BaseException:
            database.close()
            raise
        return database

    @staticmethod
    def _check_forks(opener: Opener) -> None:
        if _IN_USE_AT_FORK and opener.inode in _IN_USE_AT_FORK:
            raise StoreError(
                f"{opener.folder.path} was in use by another thread when this process was forked, and cannot be used "
                "here; fork while no call is running, or start the process with spawn"
            )

    def close(self) -> None:
        """Close the database. Reads already running in other threads still complete; closing twice does nothing."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            last = not self._active
        for connection in idle:
            self._opener.close(connection)
        if last:
            self.files.close()

    def before_fork(self) -> None:
        """Close the connections, because SQLite's locks do not survive a fork, and open none until it is over."""
        self._forking = True
        current = getattr(self._local, "connection", None)
        end = time.monotonic() + QUIESCE
        self._changed.acquire()
        while self._active and current is None and self._changed.wait(end - time.monotonic()):
            pass
        for connection in self._idle:
            with suppress(apsw.Error):
                self._opener.close(connection)
        self._idle = []

    def after_fork_in_parent(self) -> None:
        """Allow connections again."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Start with new locks and no connection; one that was in use belongs to the parent."""
        self._changed, self._write_lock, self._local = threading.Condition(), threading.RLock(), threading.local()
        self._forking = False
        self.files.after_fork()
        if self._active:
            # Never closed: closing them here would change files that the parent uses.
            _ABANDONED.extend(self._active)
            _IN_USE_AT_FORK.add(self._opener.inode)
            self._active = []

    def _take(self) -> apsw.Connection:
        with self._changed:
            while self._forking:
                self._changed.wait()
            if self._closed:
                raise StoreError(f"{self.folder} was closed; open it again")
            self._check_forks(self._opener)
            connection = self._idle.pop() if self._idle else None
            if connection is None or self._opener.outdated(connection):
                if connection is not None:
                    self._opener.close(connection)
                self.files.check_path()
                connection = self._opener.connect()
            self._active.append(connection)
            return connection

    def _give(self, connection: apsw.Connection) -> None:
        with self._changed:
            if connection in self._active:
                self._active.remove(connection)
            self._changed.notify_all()
            if not self._closed:
                self._idle.append(connection)
                return
            last = not self._active
        self._opener.close(connection)
        if last:
            self.files.close()

    @property
    def connection(self) -> apsw.Connection:
        """The connection of the thread's snapshot or transaction."""
        current: apsw.Connection = self._local.connection
        return current

    @property
    def run(self) -> Run:
        """Execute a statement within the thread's snapshot or transaction."""
        execute: Run = self._local.connection.execute
        return execute

    @property
    def many(self) -> Run:
        """Execute a statement once for each row of values, within the thread's snapshot or transaction."""
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
                if connection not in _ABANDONED:  # after a fork, these belong to the parent
                    if connection.in_transaction:
                        with suppress(apsw.Error):
                            connection.execute("ROLLBACK")
                    self._give(connection)

    @property
    def format(self) -> int:
        """Format version, as of the thread's snapshot or transaction."""
        return int(self.run("PRAGMA user_version").get)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Run the block's reads on one commit.

        Raises:
            IndexCorruptedError: An acknowledged commit is missing.
        """
        if getattr(self._local, "connection", None) is not None:
            yield
            return
        self.files.check_path()
        # Read before the snapshot begins, so the snapshot must contain every commit acknowledged by then.
        acknowledged = self.files.acknowledged()
        with self._connected() as connection:
            connection.execute("BEGIN")
            commit = self._checked_commit(connection)
            if commit is None or commit < acknowledged:
                self._opener.check_unchanged(connection)
                raise IndexCorruptedError(
                    f"{self.path}: the last commit is {commit}, but commit {acknowledged} was acknowledged; "
                    f"its write-ahead log ({FILE}-wal) is damaged or missing, or the database comes from an older copy"
                )
            yield
            self._opener.check_unchanged(connection)

    @contextmanager
    def transaction(self) -> Iterator[Run]:
        """Commit the block's writes together, or none of them; `meta("commit")` in the block is the new number."""
        self.require_writable()
        with self._write_lock, self._connected() as connection:
            self._begin(connection)
            try:
                before = self._checked_commit(connection)
                if before is not None:
                    self.files.check_path()
                    acknowledged = self.files.acknowledged()
                    if before < acknowledged:
                        raise IndexCorruptedError(f"{self.path}: commits {before + 1} to {acknowledged} are missing")
                    connection.execute("UPDATE meta SET value = ? WHERE key = 'commit'", (json.dumps(before + 1),))
                    if connection.execute("PRAGMA user_version").get == 2:
                        connection.execute(f"{ADDITIONS} PRAGMA user_version = {FORMAT}")
                        self.put("identity", (self.files.identity or b"").hex())
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if before is not None:
                self._acknowledge(before + 1)

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

    def _checked_commit(self, connection: apsw.Connection) -> int | None:
        """Number of the snapshot's commit; None in a database without a schema yet.

        Raises:
            StoreMovedError: The database belongs to another store.
        """
        if not connection.execute("PRAGMA user_version").get:
            return None
        sql = "SELECT key, value FROM meta WHERE key IN ('commit', 'identity')"
        values = {str(key): str(value) for key, value in connection.execute(sql)}
        identity = self.files.identity
        if identity is not None and json.loads(values.get("identity", "null")) not in (None, identity.hex()):
            raise StoreMovedError(self.folder)
        return int(values["commit"]) if "commit" in values else None

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            ours = translated(error, self.path)
            if ours is error:
                raise
            raise ours from error

    def meta(self, key: str) -> Any:
        """The stored value of a key such as "commit" or "embedder", decoded from JSON; None if there is none."""
        with self.snapshot():
            row = self.run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: object) -> None:
        """Store a value under a key as JSON, within a transaction."""
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def set_meta(self, key: str, value: object) -> None:
        """Store a value under a key as JSON, in a transaction by itself."""
        with self.transaction():
            self.put(key, value)

    def shrink(self) -> None:
        """Return free space to the file system and empty the write-ahead log.

        If other processes keep the database busy, only a warning is logged, and a later call frees the space.
        """
        end = time.monotonic() + SHRINK_WAIT
        with self._write_lock, self._connected() as connection:
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
