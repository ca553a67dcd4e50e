"""The one commit point: documents, passages, metadata and vectors, written together and named by one commit number.

SQLite holds everything but the vectors, which lie in a file of their own that its commits name. The indexes for search
are derived from both and can be deleted at any time.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, InvalidArgumentError
from qwen3_rag.index import bits as sets
from qwen3_rag.index.bits import Bits
from qwen3_rag.index.database import FILE, Database, Run
from qwen3_rag.index.fields import Fields
from qwen3_rag.index.vectors import DTYPES, ROWS, VectorFile, file_name
from qwen3_rag.records import Document, titled

__all__ = ["Passage", "PassageRow", "State", "Store"]

SLICE = 500  # values bound at once
AT_ONCE = 1024  # documents written at once
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
encoded = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class PassageRow:
    """A passage to be written.

    Attributes:
        start: First character in the document's text.
        stop: The one after the last.
        digest: Of what was embedded.
        vector: (dimensions,).
        page: Page of the source, from 1.
        heading: Headings above it, which stand before its text in what is searched.
    """

    start: int
    stop: int
    digest: bytes
    vector: Float32
    page: int | None = None
    heading: str | None = None


@dataclass(frozen=True)
class Passage:
    """A passage read back, with its document."""

    number: int
    ordinal: int
    start: int
    stop: int
    page: int | None
    heading: str | None
    document: Document

    @property
    def text(self) -> str:
        """The passage as it stands in the document."""
        return self.document.text[self.start : self.stop]


@dataclass(frozen=True)
class State:
    """What a commit consists of, beside the rows of SQLite.

    Attributes:
        commit: Its number.
        generation: Of the passages' numbers; `optimize` begins a new one.
        rows: Numbers given so far, those of removed passages included.
        removed: Passages removed.
        last_removal: Number of the last entry in the table of removals.
        documents: Documents in the store.
    """

    commit: int
    generation: int
    rows: int
    removed: int
    last_removal: int
    documents: int

    @property
    def live(self) -> int:
        """Passages that can be found."""
        return self.rows - self.removed


class Store:
    """An open store. Thread-safe.

    Args:
        database: Its open database.
    """

    def __init__(self, database: Database) -> None:
        self.database, self.folder = database, database.folder
        self.snapshot, self.meta, self.set_meta = database.snapshot, database.meta, database.set_meta
        self.transaction, self.close = database.transaction, database.close
        with self.snapshot():
            dimensions, dtype, declared = (self.meta(key) for key in ("dimensions", "vectors", "fields"))
        self.dimensions = int(dimensions)
        self.dtype: np.dtype[Any] = DTYPES[dtype]
        self.fields = Fields(database, None if declared is None else tuple(declared))
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
    ) -> "Store":
        """Make a store in a folder that is empty or not there yet. Errors as in `Database.create`.

        Args:
            folder: Where.
            meta: Values kept beside the data, as JSON.
            dimensions: Values in a vector.
            vectors: Type in which they are kept, "float16" or "float32".
            fields: Names of the metadata fields that are indexed; None is all.
        """
        own = {"dimensions": dimensions, "vectors": vectors, "fields": None if fields is None else list(fields)}
        return cls(Database.create(folder, {**meta, **own}))

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open the store in a folder. Errors as in `Database.open`."""
        return cls(Database.open(folder))

    @property
    def _run(self) -> Run:
        return self.database.run

    def state(self) -> State:
        """What the snapshot's commit consists of, or outside a snapshot the last one."""
        keys = ("commit", "generation", "rows", "removed", "documents")
        with self.snapshot():
            values = dict(self._run("SELECT key, value FROM meta WHERE key IN (?, ?, ?, ?, ?)", keys).fetchall())
            last = self._run("SELECT max(number) FROM removed").get
        commit, generation, rows, removed, documents = (int(values[key]) for key in keys)
        return State(commit, generation, rows, removed, last or 0, documents)

    def file(self, generation: int) -> VectorFile:
        """The file of a generation's vectors."""
        path = self.folder / file_name(generation)
        found = self._file
        if found is None or found.path != path:
            found = self._file = VectorFile(path, self.dimensions, self.dtype)
        return found

    def write(self, documents: Iterable[tuple[Document, Sequence[PassageRow]]], remove: Iterable[str] = ()) -> int:
        """Write documents in place of those of the same ids, and remove others: one commit; its number is returned.

        Raises:
            InvalidArgumentError: A vector of other dimensions, or with NaN; nothing is written.
            StoreLockedError: Another writer holds the store.
            StoreError: The disk is full or fails; nothing is written.
        """
        with self.transaction():
            self.fields.begin()
            before = self.state()
            row, documents_now = before.rows, before.documents - self._remove(remove)
            with self.file(before.generation).appending(row, self.database) as append:
                remaining = iter(documents)
                while group := list(islice(remaining, AT_ONCE)):
                    ids = [document.id for document, _ in group]
                    if len(set(ids)) < len(ids):
                        raise InvalidArgumentError("two of the documents have the same id; expected each id once")
                    documents_now += len(group) - self._remove(ids)
                    self._insert(group, row)
                    vectors = [passage.vector for _, passages in group for passage in passages]
                    if vectors:
                        append(self._checked(vectors))
                    row += len(vectors)
            self.database.put("rows", row)
            self.database.put("documents", documents_now)
        return before.commit

    def _checked(self, vectors: Sequence[Float32]) -> NDArray[Any]:
        try:
            rows = np.asarray(vectors)
            with np.errstate(over="ignore"):
                kept = rows.astype(self.dtype)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"the vectors are not rows of numbers of one length: {error}") from None
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise InvalidArgumentError(f"a vector has shape {rows.shape[1:]}; expected ({self.dimensions},)")
        if not np.isfinite(kept).all():
            raise InvalidArgumentError(f"a vector holds NaN or infinity as {self.dtype}; expected finite numbers")
        return kept

    def _insert(self, group: Sequence[tuple[Document, Sequence[PassageRow]]], row: int) -> None:
        """Write documents, whose ids are free, with passages numbered from `row`."""
        number = self._run("SELECT coalesce(max(number), 0) FROM documents").get
        documents, fields, rows = [], [], []
        for document, passages in group:
            number += 1
            metadata = encoded(dict(document.metadata)) if document.metadata else "{}"
            values = (document.id, document.title, document.source, document.text, metadata, row, len(passages))
            documents.append((number, *values))
            fields += self.fields.rows_of(document.metadata, row, len(passages))
            for ordinal, passage in enumerate(passages):
                place = (passage.start, passage.stop, passage.page, passage.heading)
                rows.append((row, number, ordinal, *place, passage.digest))
                row += 1
        many = self.database.many
        many("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)", documents)
        many("INSERT OR IGNORE INTO fields VALUES (?, ?, ?, ?, ?, ?)", fields)
        many("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _remove(self, ids: Iterable[str]) -> int:
        """Take documents out, within a transaction; how many were there."""
        sql = "SELECT number, first, passages, metadata FROM documents WHERE id IN ({})"
        found = list(self._each(sql, list(dict.fromkeys(ids))))
        for number, first, passages, metadata in found:
            self.fields.remove(json.loads(metadata), first, passages)
            gone = range(first, first + passages)
            self.database.many("INSERT INTO removed (passage) VALUES (?)", [(passage,) for passage in gone])
            self._run("DELETE FROM passages WHERE number >= ? AND number < ?", (gone.start, gone.stop))
            self._run("DELETE FROM documents WHERE number = ?", (number,))
        if found:
            passages_now = int(self.meta("removed")) + sum(passages for _, _, passages, _ in found)
            self.database.put("removed", passages_now)
        return len(found)

    def _each(self, sql: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query whose `{}` takes many bound values, a slice at a time."""
        for start in range(0, len(values), SLICE):
            part = values[start : start + SLICE]
            yield from self._run(sql.format(",".join("?" * len(part))), part)

    def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Documents by id, in the order asked; None where there is none."""
        with self.snapshot():
            sql = "SELECT id, title, source, text, metadata FROM documents WHERE id IN ({})"
            found = {row[0]: _document(row) for row in self._each(sql, list(dict.fromkeys(ids)))}
        return [found.get(name) for name in ids]

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number, with their documents; those that are not there are left out."""
        with self.snapshot():
            sql = (
                "SELECT p.number, p.ordinal, p.start, p.stop, p.page, p.heading, "
                "d.id, d.title, d.source, d.text, d.metadata "
                "FROM passages p JOIN documents d ON d.number = p.document WHERE p.number IN ({})"
            )
            rows = self._each(sql, [int(n) for n in numbers])
            return {r[0]: Passage(r[0], r[1], r[2], r[3], r[4], r[5], _document(r[6:])) for r in rows}

    def texts(self, first: int, stop: int) -> Iterator[tuple[int, str]]:
        """Numbers and texts, titles and headings before them, of the passages from one number to another, in order."""
        sql = (
            "SELECT number, document, start, stop, heading FROM passages "
            "WHERE number >= ? AND number < ? ORDER BY number"
        )
        held: int | None = None
        title, text = None, ""
        for number, document, start, end, heading in self._run(sql, (first, stop)):
            if document != held:
                found = self._run("SELECT title, text FROM documents WHERE number = ?", (document,)).fetchone()
                if found is None:
                    raise IndexCorruptedError(f"{self.folder / FILE}: passage {number} has no document")
                held, (title, text) = document, found
            yield number, titled(title, titled(heading, text[start:end]))

    def extent(self, passage: Passage, neighbours: int) -> tuple[int, int]:
        """First and last character of a passage together with so many before and after it in its document."""
        with self.snapshot():
            found = self._run(
                "SELECT min(p.start), max(p.stop) FROM passages own JOIN documents d ON d.number = own.document "
                "JOIN passages p ON p.number BETWEEN max(d.first, own.number - ?) "
                "AND min(d.first + d.passages - 1, own.number + ?) WHERE own.number = ? AND d.id = ?",
                (neighbours, neighbours, passage.number, passage.document.id),
            ).fetchone()
        return (found[0], found[1]) if found and found[0] is not None else (passage.start, passage.stop)

    def known_vectors(self, digests: Sequence[bytes]) -> dict[bytes, Float32]:
        """Vectors of texts that are in the store already, by digest."""
        with self.snapshot():
            sql = "SELECT digest, number FROM passages WHERE digest IN ({})"
            found = dict(self._each(sql, list(dict.fromkeys(digests))))
            if not found:
                return {}
            state = self.state()
            file = self.file(state.generation)
            vectors = file.map(state.rows)
            numbers = np.array(list(found.values()), dtype=np.int64)
            file.check(vectors, np.unique(numbers // ROWS), self._run)
            return dict(zip(found, vectors[numbers].astype(np.float32), strict=True))

    def removed(self, after: int) -> Int64:
        """Numbers of the passages in the entries of removals past one."""
        rows = self._run("SELECT passage FROM removed WHERE number > ?", (after,)).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64)

    def live(self, state: State) -> Bits | None:
        """Passages that were not removed; None if none was."""
        if not state.removed:
            return None
        return sets.every(state.rows) & ~sets.of_rows(self.removed(0), state.rows)

    def allowed(self, filter: Mapping[str, Any]) -> Int64:
        """Numbers of the passages whose document meets a filter.

        Raises:
            FilterError: The filter cannot be understood.
        """
        with self.snapshot():
            state = self.state()
            found = self.fields.allowed(filter, state.commit, state.generation, state.rows)
            live = self.live(state)
            return sets.places(found if live is None else found & live)

    def ids_with_source(self) -> list[tuple[str, str]]:
        """Ids and sources of the documents that have a source."""
        with self.snapshot():
            found: list[tuple[str, str]] = self._run(
                "SELECT id, source FROM documents WHERE source IS NOT NULL"
            ).fetchall()
            return found

    def count(self) -> tuple[int, int]:
        """Documents and passages."""
        state = self.state()
        return state.documents, state.live

    def verify(self) -> list[str]:
        """Read everything back and compare checksums; what is wrong, in words."""
        faults = []
        with self.snapshot():
            faults += self.database.integrity()
            state = self.state()
            file = self.file(state.generation)
            try:
                vectors = file.map(state.rows)
            except IndexCorruptedError as error:
                return [*faults, str(error)]
            faults += file.faults(vectors, self._run)
            try:
                faults += self._disagreements(state)
            except apsw.Error as error:
                faults.append(f"{self.folder / FILE}: {error}")
        return faults

    def _disagreements(self, state: State) -> list[str]:
        """Rows of SQLite that do not fit each other."""
        faults = []
        held = dict(self._run("SELECT document, count(*) FROM passages GROUP BY document").fetchall())
        wanted, found = 0, int(self._run("SELECT count(*) FROM fields").get)
        for number, name, passages, first, metadata in self._run(
            "SELECT number, id, passages, first, metadata FROM documents"
        ):
            if held.get(number, 0) != passages:
                faults.append(f"document {name!r} has {held.get(number, 0)} passages; expected {passages}")
            rows = self.fields.rows_of(json.loads(metadata), first, passages)
            wanted += len(rows)
            faults += [f"fields of document {name!r}" for row in rows if not self._there(row)]
        if found != wanted:
            faults.append(f"the table of fields has {found} rows; expected {wanted}")
        if (there := int(self._run("SELECT count(*) FROM documents").get)) != state.documents:
            faults.append(f"there are {there} documents; expected {state.documents}")
        if sum(held.values()) != state.live:
            faults.append(f"there are {sum(held.values())} passages; expected {state.live}")
        return faults

    def _there(self, row: tuple[Any, ...]) -> bool:
        sql = (
            "SELECT EXISTS (SELECT 1 FROM fields WHERE field = ? AND item = ? AND kind = ? AND value = ? AND first = ?)"
        )
        return bool(self._run(sql, row[:5]).get)


def _document(row: Sequence[Any]) -> Document:
    name, title, source, text, metadata = row
    return Document(text, name, title, source, json.loads(metadata))
