"""The commit point: documents, passages, metadata and vectors are written together under one commit number.

SQLite stores everything except the vectors, which are in a separate file that each commit refers to. Search indexes are
derived from both and can be deleted at any time.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING
from qwen3_rag.errors import IndexCorruptedError, InvalidArgumentError
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.database import FILE, Database, Run
from qwen3_rag.index.fields import Fields
from qwen3_rag.index.passages import Passage, PassageRow, Texts
from qwen3_rag.index.sources import SourceRow, Sources
from qwen3_rag.index.vectors import DTYPES, ROWS, VectorFile
from qwen3_rag.records import Document

__all__ = ["Passage", "PassageRow", "State", "Store"]

GROUP = 1024  # documents inserted at a time
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class State:
    """Numbers that describe a commit.

    Attributes:
        commit: Number of the commit.
        generation: Generation of the passage numbers; `optimize` starts a new one.
        rows: Passage numbers in use, including removed passages.
        removed: Number of removed passages.
        last_removal: Number of the last entry in the table of removals.
        documents: Number of documents.
    """

    commit: int
    generation: int
    rows: int
    removed: int
    last_removal: int
    documents: int

    @property
    def live(self) -> int:
        """Number of passages that are not removed."""
        return self.rows - self.removed


class Store:
    """An open store. Thread-safe.

    Args:
        database: Its open database.
    """

    def __init__(self, database: Database) -> None:
        self.database, self.folder, self.files = database, database.folder, database.files
        self.snapshot, self.meta, self.set_meta = database.snapshot, database.meta, database.set_meta
        self.transaction, self.close = database.transaction, database.close
        with self.snapshot():
            keys = ("dimensions", "vectors", "fields", "titles")
            dimensions, dtype, declared, titles = (self.meta(key) for key in keys)
        self.dimensions = int(dimensions)
        self.dtype: np.dtype[Any] = DTYPES[dtype]
        self.fields = Fields(database, None if declared is None else tuple(declared))
        self.titles = titles is None or bool(titles)  # not stored in format 2
        self._texts = Texts(database, self.titles)
        self.get, self.passages = self._texts.get, self._texts.passages
        self.searched, self.widened = self._texts.searched, self._texts.widened
        self.sources = Sources(database)
        self._file: VectorFile | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        meta: Mapping[str, Any],
        *,
        dimensions: int,
        vectors: str = "float16",
        fields: Sequence[str] | None = None,
        titles: bool = True,
    ) -> "Store":
        """Create a store in a folder that is empty or does not exist yet. Raises as `Database.create` does.

        Args:
            folder: The folder.
            meta: Values to store with the data, as JSON.
            dimensions: Values in a vector.
            vectors: Type in which vectors are stored, "float16" or "float32".
            fields: Names of the metadata fields to index; None is all.
            titles: Whether title and headings are prepended to a passage for search.
        """
        layout = {"dimensions": dimensions, "vectors": vectors, "fields": None if fields is None else list(fields)}
        layout["titles"] = titles
        return cls(Database.create(folder, {**meta, **layout}))

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open the store in a folder. Raises as `Database.open` does."""
        return cls(Database.open(folder))

    @property
    def _run(self) -> Run:
        return self.database.run

    @property
    def format(self) -> int:
        """Format version of the last commit."""
        with self.snapshot():
            return self.database.format

    def state(self) -> State:
        """State of the snapshot's commit, or outside a snapshot of the last commit."""
        keys = ("commit", "generation", "rows", "removed", "documents")
        with self.snapshot():
            values = dict(self._run("SELECT key, value FROM meta WHERE key IN (?, ?, ?, ?, ?)", keys).fetchall())
            last = self._run("SELECT max(number) FROM removed").get
        commit, generation, rows, removed, documents = (int(values[key]) for key in keys)
        return State(commit, generation, rows, removed, last or 0, documents)

    def file(self, generation: int) -> VectorFile:
        """The vector file of a generation."""
        file = self._file
        if file is None or file.generation != generation:
            file = self._file = VectorFile(self.files, generation, self.dimensions, self.dtype)
        return file

    def write(
        self,
        documents: Iterable[tuple[Document, Sequence[PassageRow]]],
        remove: Iterable[str] = (),
        *,
        origins: Mapping[str, str] = NOTHING,
        read: Sequence[SourceRow] = (),
        forget: Sequence[str] = (),
    ) -> int:
        """Insert or replace documents by id and remove others, in one commit; returns its number.

        Args:
            documents: The documents with their passages.
            remove: Ids of documents to remove; unknown ids are ignored.
            origins: Path of the file a document came from, by id; may include documents already in the store.
            read: Files that this commit completes.
            forget: Paths of files that no longer exist.

        Raises:
            InvalidArgumentError: A vector has the wrong dimensions, NaN or infinity; nothing is written.
            StoreLockedError: Another writer has locked the store.
            StoreError: The disk is full or fails; nothing is written.
        """
        with self.transaction():
            self.fields.begin()
            before = self.state()
            numbers = self.sources.numbers(origins.values())
            files = {name: numbers[path] for name, path in origins.items()}
            row, documents_now = before.rows, before.documents - self._remove(remove)
            with self.file(before.generation).appending(row, self.database) as append:
                remaining = iter(documents)
                while group := list(islice(remaining, GROUP)):
                    ids = [document.id for document, _ in group]
                    if len(set(ids)) < len(ids):
                        raise InvalidArgumentError("two of the documents have the same id; expected each id once")
                    documents_now += len(group) - self._remove(ids)
                    self._insert(group, row, files)
                    vectors = [passage.vector for _, passages in group for passage in passages]
                    if vectors:
                        append(self._checked(vectors))
                    row += len(vectors)
            self.sources.adopt(files)
            self.sources.finish(read)
            self.sources.forget(forget)
            self.database.put("rows", row)
            self.database.put("documents", documents_now)
        return before.commit

    def _checked(self, vectors: Sequence[Float32]) -> NDArray[Any]:
        try:
            rows = np.asarray(vectors)
            with np.errstate(over="ignore"):
                converted = rows.astype(self.dtype)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"the vectors are not rows of numbers of one length: {error}") from None
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise InvalidArgumentError(f"a vector has shape {rows.shape[1:]}; expected ({self.dimensions},)")
        if not _finite(converted):
            raise InvalidArgumentError(f"a vector has NaN or infinity as {self.dtype}; expected finite numbers")
        return converted

    def _insert(
        self, group: Sequence[tuple[Document, Sequence[PassageRow]]], row: int, files: Mapping[str, int]
    ) -> None:
        """Insert documents with new ids, and their passages from number `row`."""
        self._texts.insert(group, row, files)
        fields = []
        for document, passages in group:
            fields += self.fields.rows_of(document.metadata, row, len(passages))
            row += len(passages)
        self.database.many("INSERT OR IGNORE INTO fields VALUES (?, ?, ?, ?, ?, ?)", fields)
        if self._run("SELECT EXISTS (SELECT 1 FROM staged)").get:
            written = [(passage.digest,) for _, passages in group for passage in passages]
            self.database.many("DELETE FROM staged WHERE digest = ?", written)

    def _remove(self, ids: Iterable[str]) -> int:
        """Remove documents, within a transaction; returns how many existed."""
        sql = "SELECT number, first, passages, metadata FROM documents WHERE id IN ({})"
        rows = list(self._texts.select_in(sql, list(dict.fromkeys(ids))))
        for number, first, passages, metadata in rows:
            self.fields.remove(json.loads(metadata), first, passages)
            removed = range(first, first + passages)
            self.database.many("INSERT INTO removed (passage) VALUES (?)", [(passage,) for passage in removed])
            self._run("DELETE FROM passages WHERE number >= ? AND number < ?", (removed.start, removed.stop))
            self._run("DELETE FROM documents WHERE number = ?", (number,))
            self._run("DELETE FROM blocks_of_text WHERE document = ?", (number,))
        if rows:
            removed_now = int(self.meta("removed")) + sum(passages for _, _, passages, _ in rows)
            self.database.put("removed", removed_now)
        return len(rows)

    def stage(self, vectors: Mapping[bytes, Float32]) -> None:
        """Store vectors by the digest of the embedded text until a document with them is written.

        If embedding a long document is interrupted, the next run reuses them.
        """
        with self.transaction():
            rows = self._checked(list(vectors.values()))
            staged = [(digest, row.tobytes()) for digest, row in zip(vectors, rows, strict=True)]
            self.database.many("INSERT OR REPLACE INTO staged VALUES (?, ?)", staged)

    def unstage(self) -> None:
        """Delete the staged vectors of documents that were never written."""
        with self.snapshot():
            any_staged = self.database.format > 2 and self._run("SELECT EXISTS (SELECT 1 FROM staged)").get
        if any_staged:
            with self.transaction():
                self._run("DELETE FROM staged")

    def known_vectors(self, digests: Sequence[bytes]) -> dict[bytes, Float32]:
        """Vectors that the store already has, by the digest of the embedded text."""
        with self.snapshot():
            names = list(dict.fromkeys(digests))
            vectors: dict[bytes, Float32] = {}
            if self.database.format > 2:
                staged = self._texts.select_in("SELECT digest, vector FROM staged WHERE digest IN ({})", names)
                vectors = {digest: np.frombuffer(raw, self.dtype).astype(np.float32) for digest, raw in staged}
            numbers = dict(self._texts.select_in("SELECT digest, number FROM passages WHERE digest IN ({})", names))
            return vectors | dict(zip(numbers, self.vectors(list(numbers.values())), strict=True))

    def vectors(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Vectors (n, dimensions) of passages by number, checked against the file's digests."""
        if not numbers:
            return np.empty((0, self.dimensions), np.float32)
        with self.snapshot():
            state = self.state()
            file = self.file(state.generation)
            vectors, _ = file.map(state.rows)
            rows = np.array(numbers, dtype=np.int64)
            file.check(vectors, np.unique(rows // ROWS), self._run)
            return vectors[rows].astype(np.float32)

    def rows_of(self, document_id: str) -> list[PassageRow]:
        """A document's passages in order, with their vectors."""
        with self.snapshot():
            sql = (
                "SELECT p.number, p.start, p.stop, p.digest, p.page, p.heading FROM documents d "
                "JOIN passages p ON p.number BETWEEN d.first AND d.first + d.passages - 1 WHERE d.id = ? ORDER BY 1"
            )
            rows = self._run(sql, (document_id,)).fetchall()
            vectors = self.vectors([row[0] for row in rows])
            return [
                PassageRow(start, stop, digest, vector, page, heading)
                for (_, start, stop, digest, page, heading), vector in zip(rows, vectors, strict=True)
            ]

    def removed(self, after: int) -> Int64:
        """Numbers of the passages removed after the entry `after` of the table of removals."""
        rows = self._run("SELECT passage FROM removed WHERE number > ?", (after,)).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64)

    def live(self, state: State) -> Bitmap | None:
        """Passages that are not removed; None stands for all."""
        if not state.removed:
            return None
        return bitmap.full(state.rows) & ~bitmap.from_rows(self.removed(0), state.rows)

    def allowed(self, filter: Mapping[str, Any]) -> Int64:
        """Numbers of the passages whose document matches a filter.

        Raises:
            FilterError: The filter is invalid.
        """
        with self.snapshot():
            state = self.state()
            matching = self.fields.allowed(filter, state.commit, state.generation, state.rows)
            live = self.live(state)
            return bitmap.to_rows(matching if live is None else matching & live)

    def count(self) -> tuple[int, int]:
        """Numbers of documents and passages."""
        state = self.state()
        return state.documents, state.live

    def verify(self) -> list[str]:
        """Read the whole store and check it against its checksums; returns a message for each fault."""
        faults = []
        with self.snapshot():
            faults += self.database.integrity()
            state = self.state()
            file = self.file(state.generation)
            try:
                vectors, _ = file.map(state.rows)
            except IndexCorruptedError as error:
                return [*faults, str(error)]
            faults += file.faults(vectors, self._run)
            try:
                faults += self._inconsistencies(state)
            except apsw.Error as error:
                faults.append(f"{self.folder / FILE}: {error}")
        return faults

    def _inconsistencies(self, state: State) -> list[str]:
        """Rows of SQLite that contradict each other, as messages."""
        faults = list(self.sources.faults())
        passage_counts = dict(self._run("SELECT document, count(*) FROM passages GROUP BY document").fetchall())
        expected_fields, fields = 0, int(self._run("SELECT count(*) FROM fields").get)
        for number, name, passages, first, metadata in self._run(
            "SELECT number, id, passages, first, metadata FROM documents"
        ):
            if passage_counts.get(number, 0) != passages:
                faults.append(f"document {name!r} has {passage_counts.get(number, 0)} passages; expected {passages}")
            rows = self.fields.rows_of(json.loads(metadata), first, passages, assign=False)
            expected_fields += len(rows)
            faults += [
                f"the indexed fields of document {name!r} do not match its metadata"
                for row in rows
                if not self._has_field(row)
            ]
        if fields != expected_fields:
            faults.append(f"the table of fields has {fields} rows; expected {expected_fields}")
        if (documents := int(self._run("SELECT count(*) FROM documents").get)) != state.documents:
            faults.append(f"there are {documents} documents; expected {state.documents}")
        if sum(passage_counts.values()) != state.live:
            faults.append(f"there are {sum(passage_counts.values())} passages; expected {state.live}")
        return faults

    def _has_field(self, row: tuple[Any, ...]) -> bool:
        sql = (
            "SELECT EXISTS (SELECT 1 FROM fields WHERE field = ? AND item = ? AND kind = ? AND value = ? AND first = ?)"
        )
        return bool(self._run(sql, row[:5]).get)


def _finite(rows: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    if rows.dtype != np.float16:
        return bool(np.isfinite(rows).all())
    # Ten times as fast as isfinite: in float16, NaN and infinity are the values with all exponent bits set.
    return not rows.size or int((rows.view(np.uint16) & 0x7FFF).max()) < 0x7C00
