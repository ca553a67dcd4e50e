"""The one commit point: documents, passages, metadata and vectors in one SQLite file.

Everything that belongs to a version of the store is written in one transaction and named by one commit number. FAISS'
index is derived from it and can be deleted at any time. Rows carry checksums of our own, compared whenever they are
read back: SQLite does not notice a flipped bit.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from qwen3_rag.index.filters import compile_filter, field_rows
from qwen3_rag.index.text import TextIndex
from qwen3_rag.records import Document, titled

__all__ = ["FORMAT", "Passage", "PassageRow", "Store"]

FORMAT = 1
APPLICATION_ID = 0x51335247  # "Q3RG", so that `file` and we can tell a store from any other database
FILE = "store.sqlite3"
SLICE = 500  # values bound at once
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

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


@dataclass(frozen=True)
class PassageRow:
    """A passage to be written: its place in the document's text, a digest of what was embedded, and the vector."""

    start: int
    stop: int
    digest: bytes
    vector: Float32
    page: int | None = None


@dataclass(frozen=True)
class Passage:
    """A passage read back, with its document."""

    number: int
    ordinal: int
    start: int
    stop: int
    page: int | None
    document: Document

    @property
    def text(self) -> str:
        """The passage as it stands in the document."""
        return self.document.text[self.start : self.stop]


def _checksum(*parts: object) -> int:
    value = 0
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode()
        value = zlib.crc32(raw + b"\0", value)
    return value


class Store:
    """An open store. Thread-safe: calls take turns.

    Args:
        folder: The store's folder.
        connection: An open, checked connection to its database.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self._connection = folder, connection
        self.lock = threading.RLock()
        self.text = TextIndex(connection)

    @classmethod
    def create(cls, folder: Path, meta: Mapping[str, Any]) -> "Store":
        """Make a store in a folder that is empty or not there yet.

        Raises:
            StoreExistsError: Something is there already.
        """
        cls.check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        store = cls(folder, _connect(folder / FILE))
        with store._transaction() as run:
            for statement in SCHEMA.split(";\n"):
                if statement.strip():
                    run(statement)
            rows = {"commit": 1, **meta}
            store._connection.executemany(
                "INSERT INTO meta VALUES (?, ?)", [(key, json.dumps(value)) for key, value in rows.items()]
            )
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(f"PRAGMA user_version = {FORMAT}")
        return store

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise StoreExistsError unless the folder is empty or not there."""
        if (folder / FILE).exists():
            raise StoreExistsError(f"{folder} is a store already; use Pipeline.open, or another folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreExistsError(f"{folder} is not empty and no store; expected a new or empty folder")

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open the store in a folder.

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
        except sqlite3.DatabaseError as error:
            raise IndexCorruptedError(f"{path} is not a database that SQLite reads: {error}") from error
        if application != APPLICATION_ID or version != FORMAT:
            connection.close()
            if application != APPLICATION_ID:
                raise StoreNotFoundError(f"{path} is an SQLite database, but not a store of this package")
            raise StoreVersionError(f"{folder} is in format {version}; this version reads format {FORMAT}")
        return cls(folder, connection)

    def close(self) -> None:
        """Close the database; closing twice does nothing."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read everything within from one commit."""
        with self.lock, self._guarded():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.rollback()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self.lock, self._guarded():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StoreLockedError(f"{self.folder}: another writer holds the store ({error})") from error
            raise
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise IndexCorruptedError(f"{self.folder / FILE}: {error}") from error

    def meta(self, key: str) -> Any:
        """A value kept beside the data, such as "commit" or "embedder"; None if there is none."""
        with self.lock, self._guarded():
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: object) -> None:
        """Keep a value beside the data."""
        with self._transaction() as run:
            run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def write(self, documents: Iterable[tuple[Document, Sequence[PassageRow]]], remove: Iterable[str] = ()) -> int:
        """Write documents in place of those of the same ids, and remove others: one commit; its number is returned."""
        with self._transaction() as run:
            commit: int = json.loads(run("SELECT value FROM meta WHERE key = 'commit'").fetchone()[0]) + 1
            for name in remove:
                self._remove(run, name, commit)
            for document, rows in documents:
                self._remove(run, document.id, commit)
                self._insert(run, document, rows)
            run("UPDATE meta SET value = ? WHERE key = 'commit'", (json.dumps(commit),))
        return commit

    def _insert(self, run: Any, document: Document, rows: Sequence[PassageRow]) -> None:
        metadata = json.dumps(dict(document.metadata), ensure_ascii=False)
        values = (document.id, document.title, document.source, document.text, metadata)
        number = run(
            "INSERT INTO documents (id, title, source, text, metadata, checksum) VALUES (?, ?, ?, ?, ?, ?)",
            (*values, _checksum(*values)),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO fields VALUES (?, ?, ?, ?, ?)", [(number, *row) for row in field_rows(document.metadata)]
        )
        for ordinal, row in enumerate(rows):
            vector = row.vector.astype("<f4").tobytes()
            place = (number, ordinal, row.start, row.stop, row.page, row.digest, vector)
            passage = run(
                "INSERT INTO passages (document, ordinal, start, stop, page, digest, vector, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*place, _checksum(*place)),
            ).lastrowid
            self.text.add([(passage, titled(document.title, document.text[row.start : row.stop]))])

    def _remove(self, run: Any, name: str, commit: int) -> None:
        found = run("SELECT number FROM documents WHERE id = ?", (name,)).fetchone()
        if found is None:
            return
        passages = [row[0] for row in run("SELECT number FROM passages WHERE document = ?", found)]
        self.text.remove(passages)
        self._connection.executemany("INSERT INTO removed VALUES (?, ?)", [(commit, p) for p in passages])
        for table, column in (("passages", "document"), ("fields", "document"), ("documents", "number")):
            run(f"DELETE FROM {table} WHERE {column} = ?", found)

    def _each(self, sql: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query whose `{}` takes many bound values, a slice at a time."""
        for start in range(0, len(values), SLICE):
            part = values[start : start + SLICE]
            yield from self._connection.execute(sql.format(",".join("?" * len(part))), part)

    def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Documents by id, in the order asked; None where there is none."""
        with self.snapshot():
            sql = "SELECT id, title, source, text, metadata, checksum FROM documents WHERE id IN ({})"
            found = {row[0]: self._document(row) for row in self._each(sql, list(dict.fromkeys(ids)))}
        return [found.get(name) for name in ids]

    def _document(self, row: Sequence[Any]) -> Document:
        *values, checksum = row
        if _checksum(*values) != checksum:
            raise IndexCorruptedError(f"{self.folder / FILE}: document {values[0]!r} is not as it was written")
        name, title, source, text, metadata = values
        return Document(text, name, title, source, json.loads(metadata))

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number, with their documents; those that are not there are left out."""
        with self.snapshot():
            sql = (
                "SELECT p.number, p.document, p.ordinal, p.start, p.stop, p.page, p.digest, p.vector, p.checksum, "
                "d.id, d.title, d.source, d.text, d.metadata, d.checksum "
                "FROM passages p JOIN documents d ON d.number = p.document WHERE p.number IN ({})"
            )
            found = {}
            for row in self._each(sql, [int(n) for n in numbers]):
                self._check_passage(row[0], row[1:8], row[8])
                found[row[0]] = Passage(row[0], row[2], row[3], row[4], row[5], self._document(row[9:]))
            return found

    def _check_passage(self, number: int, values: Sequence[Any], checksum: int) -> None:
        if _checksum(*values) != checksum:
            raise IndexCorruptedError(f"{self.folder / FILE}: passage {number} is not as it was written")

    def extent(self, passage: Passage, neighbours: int) -> tuple[int, int]:
        """First and last character of a passage together with so many before and after it in its document."""
        with self.snapshot():
            row = self._connection.execute(
                "SELECT min(start), max(stop) FROM passages WHERE ordinal BETWEEN ? AND ? AND document = "
                "(SELECT document FROM passages WHERE number = ?)",
                (passage.ordinal - neighbours, passage.ordinal + neighbours, passage.number),
            ).fetchone()
        return row[0], row[1]

    def known_vectors(self, digests: Sequence[bytes]) -> dict[bytes, Float32]:
        """Vectors of texts that are in the store already, by digest."""
        with self.snapshot():
            sql = (
                "SELECT number, document, ordinal, start, stop, page, digest, vector, checksum FROM passages "
                "WHERE digest IN ({})"
            )
            found = {}
            for row in self._each(sql, list(dict.fromkeys(digests))):
                self._check_passage(row[0], row[1:8], row[8])
                found[row[6]] = np.frombuffer(row[7], dtype="<f4")
            return found

    def vectors_after(self, number: int) -> Iterator[tuple[Int64, Float32]]:
        """Numbers and vectors of the passages past a number, in order, some thousand at a time."""
        cursor = self._connection.execute(
            "SELECT number, document, ordinal, start, stop, page, digest, vector, checksum FROM passages "
            "WHERE number > ? ORDER BY number",
            (number,),
        )
        while rows := cursor.fetchmany(4096):
            for row in rows:
                self._check_passage(row[0], row[1:8], row[8])
            vectors = np.frombuffer(b"".join(row[7] for row in rows), dtype="<f4").reshape(len(rows), -1)
            yield np.array([row[0] for row in rows], dtype=np.int64), vectors

    def removed_after(self, commit: int) -> Int64:
        """Numbers of the passages removed since a commit."""
        rows = self._connection.execute("SELECT passage FROM removed WHERE made_in > ?", (commit,)).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64)

    def allowed(self, filter: Mapping[str, Any]) -> Int64:
        """Numbers of the passages whose document meets a filter.

        Raises:
            FilterError: The filter cannot be understood.
        """
        condition, values = compile_filter(filter)
        sql = f"SELECT p.number FROM documents d JOIN passages p ON p.document = d.number WHERE {condition}"
        with self.snapshot():
            rows = self._connection.execute(sql, values).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64)

    def ids_with_source(self) -> list[tuple[str, str]]:
        """Ids and sources of the documents that have a source."""
        with self.snapshot():
            return self._connection.execute("SELECT id, source FROM documents WHERE source IS NOT NULL").fetchall()

    def count(self) -> tuple[int, int]:
        """Documents and passages."""
        with self.snapshot():
            documents, passages = (
                self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("documents", "passages")
            )
        return documents, passages

    def verify(self) -> list[str]:
        """Read everything back and compare checksums; what is wrong, in words."""
        faults = []
        with self.snapshot():
            faults += [r[0] for r in self._connection.execute("PRAGMA integrity_check") if r[0] != "ok"]
            sql = "SELECT id, title, source, text, metadata, checksum FROM documents"
            faults += [
                f"document {row[0]!r}" for row in self._connection.execute(sql) if _checksum(*row[:-1]) != row[-1]
            ]
            sql = "SELECT number, document, ordinal, start, stop, page, digest, vector, checksum FROM passages"
            faults += [f"passage {r[0]}" for r in self._connection.execute(sql) if _checksum(*r[1:8]) != r[8]]
        return faults

    def compact(self) -> None:
        """Give back the space of what was removed."""
        with self._transaction() as run:
            run("DELETE FROM removed")
            run("INSERT OR REPLACE INTO meta SELECT 'removals_kept_since', value FROM meta WHERE key = 'commit'")
            run("INSERT INTO terms (terms) VALUES ('optimize')")
        with self.lock, self._guarded():
            # SQLite itself attaches the copy that it makes.
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
            try:
                self._connection.execute("VACUUM")
            finally:
                self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    # A page of the default size would leave half of its room empty beside a vector.
    for pragma in ("page_size = 16384", "journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return connection
