"""The SQLite database of a store: its layout, how it is opened, transactions, and values kept beside the data."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from qwen3_rag.index.text import TextIndex

__all__ = ["FILE", "FORMAT", "Database"]

FORMAT = 1
APPLICATION_ID = 0x51335247  # "Q3RG", so that `file` and we can tell a store from any other database
FILE = "store.sqlite3"
Run = Callable[..., sqlite3.Cursor]

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, title TEXT, source TEXT, text TEXT NOT NULL,
    metadata TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
CREATE INDEX documents_by_source ON documents (source);
CREATE TABLE passages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, page INTEGER, digest BLOB NOT NULL, vector BLOB NOT NULL,
    checksum INTEGER NOT NULL) STRICT;
CREATE INDEX passages_by_document ON passages (document, ordinal);
CREATE INDEX passages_by_digest ON passages (digest);
CREATE TABLE fields (
    document INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, value ANY, item INTEGER NOT NULL) STRICT;
CREATE INDEX fields_by_value ON fields (key, item, kind, value, document);
CREATE INDEX fields_by_document ON fields (document);
CREATE TABLE removed (made_in INTEGER NOT NULL, passage INTEGER NOT NULL) STRICT;
CREATE INDEX removed_by_commit ON removed (made_in);
{TextIndex.SCHEMA};
"""


class Database:
    """An open database. Thread-safe: calls take turns.

    Args:
        folder: The store's folder.
        connection: An open, checked connection to its file.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self.connection = folder, connection
        self.lock = threading.RLock()

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
        """
        cls.check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        database = cls(folder, _connect(folder / FILE))
        try:
            with database.transaction() as run:
                if run("PRAGMA user_version").fetchone()[0]:
                    raise StoreExistsError(f"{folder} became a store just now, made by another process")
                database._fill(run, meta)
        except (StoreExistsError, StoreLockedError):
            database.close()
            raise
        except BaseException:
            database.close()
            for file in folder.glob(f"{FILE}*"):
                file.unlink()
            raise
        return database

    @staticmethod
    def _fill(run: Run, meta: Mapping[str, Any]) -> None:
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                run(statement)
        for key, value in {"commit": 1, **meta}.items():
            run("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))
        run(f"PRAGMA application_id = {APPLICATION_ID}")
        run(f"PRAGMA user_version = {FORMAT}")

    @classmethod
    def open(cls, folder: Path) -> "Database":
        """Open the database of the store in a folder.

        Raises:
            StoreNotFoundError: No folder, or no store in it.
            StoreVersionError: Written in another version of the format.
            IndexCorruptedError: The database cannot be read.
        """
        path = folder / FILE
        if not path.is_file():
            what = "no such folder" if not folder.exists() else f"no {FILE} in it"
            raise StoreNotFoundError(f"{folder} is not a store ({what}); make one with Pipeline.create")
        try:
            connection = _connect(path)
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            raise IndexCorruptedError(f"{path} is not a database that SQLite reads: {error}") from error
        if application != APPLICATION_ID or version != FORMAT:
            connection.close()
            if application != APPLICATION_ID:
                raise StoreNotFoundError(f"{path} is an SQLite database, but not a store of this package")
            raise StoreVersionError(f"{folder} is in format {version}; this version reads format {FORMAT}")
        return cls(folder, connection)

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read everything within from one commit."""
        with self.lock, self._guarded():
            if self.connection.in_transaction:
                yield
                return
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                if self.connection.in_transaction:
                    self.connection.rollback()

    @contextmanager
    def transaction(self) -> Iterator[Run]:
        """Write everything within as one commit, or nothing."""
        with self.lock, self._guarded():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection.execute
                self.connection.commit()
            except BaseException:
                self.connection.rollback()
                raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StoreLockedError(f"{self.folder}: another writer holds the store ({error})") from error
            raise StoreError(f"{self.folder / FILE}: {error}") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
                raise StoreError(f"{self.folder} was closed; open it anew") from error
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise IndexCorruptedError(f"{self.folder / FILE}: {error}") from error

    def meta(self, key: str) -> Any:
        """A value kept beside the data, such as "commit" or "embedder"; None if there is none."""
        with self.lock, self._guarded():
            row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: object) -> None:
        """Keep a value beside the data."""
        with self.transaction() as run:
            run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def compact(self) -> None:
        """Give back the space of what was removed."""
        with self.transaction() as run:
            run("DELETE FROM removed")
            run("INSERT OR REPLACE INTO meta SELECT 'removals_kept_since', value FROM meta WHERE key = 'commit'")
            run("INSERT INTO terms (terms) VALUES ('optimize')")
        with self.lock, self._guarded():
            # SQLite itself attaches the copy that it makes.
            self.connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
            try:
                self.connection.execute("VACUUM")
            finally:
                self.connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        # A page of the default size would leave half of its room empty beside a vector.
        for pragma in ("page_size = 16384", "journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    except BaseException:
        connection.close()
        raise
    return connection
