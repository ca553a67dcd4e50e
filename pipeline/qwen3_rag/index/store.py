"""The one commit point: documents, passages, metadata and vectors in one SQLite file.

Everything that belongs to a version of the store is written in one transaction and named by one commit number. FAISS'
index is derived from it and can be deleted at any time. Rows carry checksums of our own, compared whenever they are
read back: SQLite does not notice a flipped bit.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index.database import FILE, Database, Run
from qwen3_rag.index.filters import compile_filter, field_rows
from qwen3_rag.index.text import TextIndex
from qwen3_rag.records import Document, titled

__all__ = ["Passage", "PassageRow", "Store"]

SLICE = 500  # values bound at once
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


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
        database: Its open database.
    """

    def __init__(self, database: Database) -> None:
        self.database, self.folder = database, database.folder
        self.text = TextIndex(database.connection)
        self.snapshot, self.meta, self.set_meta = database.snapshot, database.meta, database.set_meta
        self.compact, self.close = database.compact, database.close

    @classmethod
    def create(cls, folder: Path, meta: Mapping[str, Any]) -> "Store":
        """Make a store in a folder that is empty or not there yet. Errors as in `Database.create`."""
        return cls(Database.create(folder, meta))

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open the store in a folder. Errors as in `Database.open`."""
        return cls(Database.open(folder))

    def write(self, documents: Iterable[tuple[Document, Sequence[PassageRow]]], remove: Iterable[str] = ()) -> int:
        """Write documents in place of those of the same ids, and remove others: one commit; its number is returned."""
        with self.database.transaction() as run:
            commit: int = json.loads(run("SELECT value FROM meta WHERE key = 'commit'").fetchone()[0]) + 1
            for name in remove:
                self._remove(run, name, commit)
            for document, rows in documents:
                self._remove(run, document.id, commit)
                self._insert(run, document, rows)
            run("UPDATE meta SET value = ? WHERE key = 'commit'", (json.dumps(commit),))
        return commit

    def _insert(self, run: Run, document: Document, rows: Sequence[PassageRow]) -> None:
        metadata = json.dumps(dict(document.metadata), ensure_ascii=False)
        values = (document.id, document.title, document.source, document.text, metadata)
        number = run(
            "INSERT INTO documents (id, title, source, text, metadata, checksum) VALUES (?, ?, ?, ?, ?, ?)",
            (*values, _checksum(*values)),
        ).lastrowid
        self.database.connection.executemany(
            "INSERT INTO fields VALUES (?, ?, ?, ?, ?)", [(number, *row) for row in field_rows(document.metadata)]
        )
        for ordinal, row in enumerate(rows):
            vector = row.vector.astype("<f4").tobytes()
            place = (number, ordinal, row.start, row.stop, row.page, row.digest, vector)
            passage: Any = run(
                "INSERT INTO passages (document, ordinal, start, stop, page, digest, vector, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*place, _checksum(*place)),
            ).lastrowid
            self.text.add([(passage, titled(document.title, document.text[row.start : row.stop]))])

    def _remove(self, run: Run, name: str, commit: int) -> None:
        found = run("SELECT number FROM documents WHERE id = ?", (name,)).fetchone()
        if found is None:
            return
        passages = [row[0] for row in run("SELECT number FROM passages WHERE document = ?", found)]
        self.text.remove(passages)
        self.database.connection.executemany("INSERT INTO removed VALUES (?, ?)", [(commit, p) for p in passages])
        for table, column in (("passages", "document"), ("fields", "document"), ("documents", "number")):
            run(f"DELETE FROM {table} WHERE {column} = ?", found)

    @property
    def _run(self) -> Run:
        return self.database.connection.execute

    def _each(self, sql: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query whose `{}` takes many bound values, a slice at a time."""
        for start in range(0, len(values), SLICE):
            part = values[start : start + SLICE]
            yield from self._run(sql.format(",".join("?" * len(part))), part)

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
            row = self._run(
                "SELECT min(start), max(stop) FROM passages WHERE ordinal BETWEEN ? AND ? AND document = "
                "(SELECT document FROM passages WHERE number = ?)",
                (passage.ordinal - neighbours, passage.ordinal + neighbours, passage.number),
            ).fetchone()
        return (row[0], row[1]) if row[0] is not None else (passage.start, passage.stop)

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
        cursor = self._run(
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
        rows = self._run("SELECT passage FROM removed WHERE made_in > ?", (commit,)).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64)

    def allowed(self, filter: Mapping[str, Any]) -> Int64:
        """Numbers of the passages whose document meets a filter.

        Raises:
            FilterError: The filter cannot be understood.
        """
        condition, values = compile_filter(filter)
        sql = f"SELECT p.number FROM documents d JOIN passages p ON p.document = d.number WHERE {condition}"
        with self.snapshot():
            rows = self._run(sql, values).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64)

    def ids_with_source(self) -> list[tuple[str, str]]:
        """Ids and sources of the documents that have a source."""
        with self.snapshot():
            return self._run("SELECT id, source FROM documents WHERE source IS NOT NULL").fetchall()

    def count(self) -> tuple[int, int]:
        """Documents and passages."""
        with self.snapshot():
            documents, passages = (
                self._run(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("documents", "passages")
            )
        return documents, passages

    def verify(self) -> list[str]:
        """Read everything back and compare checksums; what is wrong, in words."""
        faults = []
        with self.snapshot():
            faults += [r[0] for r in self._run("PRAGMA integrity_check") if r[0] != "ok"]
            for row in self._run("SELECT number, id, title, source, text, metadata, checksum FROM documents"):
                if _checksum(*row[1:-1]) != row[-1]:
                    faults.append(f"document {row[1]!r}")
                elif not self._fields_hold(row[0], row[5]):
                    faults.append(f"fields of document {row[1]!r}")
            sql = "SELECT number, document, ordinal, start, stop, page, digest, vector, checksum FROM passages"
            faults += [f"passage {r[0]}" for r in self._run(sql) if _checksum(*r[1:8]) != r[8]]
        return faults

    def _fields_hold(self, number: int, metadata: str) -> bool:
        rows = self._run("SELECT key, kind, value, item FROM fields WHERE document = ?", (number,)).fetchall()
        return sorted(map(repr, rows)) == sorted(map(repr, field_rows(json.loads(metadata))))
