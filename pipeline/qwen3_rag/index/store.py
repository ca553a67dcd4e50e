"""The one commit point: documents, passages, metadata and vectors, written together and named by one commit number.

SQLite holds everything but the vectors, which lie in a file of their own that its commits name. The indexes for search
are derived from both and can be deleted at any time.
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
from qwen3_rag.index import bits as sets
from qwen3_rag.index.bits import Bits
from qwen3_rag.index.database import FILE, Database, Run
from qwen3_rag.index.fields import Fields
from qwen3_rag.index.passages import Passage, PassageRow, Texts
from qwen3_rag.index.sources import SourceRow, Sources
from qwen3_rag.index.vectors import DTYPES, ROWS, VectorFile
from qwen3_rag.records import Document

__all__ = ["Passage", "PassageRow", "State", "Store"]

AT_ONCE = 1024  # documents written at once
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


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
        self.database, self.folder, self.files = database, database.folder, database.files
        self.snapshot, self.meta, self.set_meta = database.snapshot, database.meta, database.set_meta
        self.transaction, self.close = database.transaction, database.close
        with self.snapshot():
            keys = ("dimensions", "vectors", "fields", "titles")
            dimensions, dtype, declared, titles = (self.meta(key) for key in keys)
        self.dimensions = int(dimensions)
        self.dtype: np.dtype[Any] = DTYPES[dtype]
        self.fields = Fields(database, None if declared is None else tuple(declared))
        self.titles = titles is None or bool(titles)  # stores of format 2 do not say
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
        """Make a store in a folder that is empty or not there yet. Errors as in `Database.create`.

        Args:
            folder: Where.
            meta: Values kept beside the data, as JSON.
            dimensions: Values in a vector.
            vectors: Type in which they are kept, "float16" or "float32".
            fields: Names of the metadata fields that are indexed; None is all.
            titles: Whether title and headings stand before a passage in what is searched for words.
        """
        own = {"dimensions": dimensions, "vectors": vectors, "fields": None if fields is None else list(fields)}
        own["titles"] = titles
        return cls(Database.create(folder, {**meta, **own}))

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open the store in a folder. Errors as in `Database.open`."""
        return cls(Database.open(folder))

    @property
    def _run(self) -> Run:
        return self.database.run

    @property
    def format(self) -> int:
        """Version of the layout of the last commit."""
        with self.snapshot():
            return self.database.format

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
        """Write documents in place of those of the same ids, and remove others: one commit; its number is returned.

        Args:
            documents: The documents with their passages.
            remove: Ids of documents to remove; those that are not there are passed over.
            origins: Paths of the files that documents came from, by id; of documents that are there already as well.
            read: Files that are thereby read to their end.
            forget: Paths of files that are no more.

        Raises:
            InvalidArgumentError: A vector of other dimensions, or with NaN; nothing is written.
            StoreLockedError: Another writer holds the store.
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
                while group := list(islice(remaining, AT_ONCE)):
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
                kept = rows.astype(self.dtype)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"the vectors are not rows of numbers of one length: {error}") from None
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise InvalidArgumentError(f"a vector has shape {rows.shape[1:]}; expected ({self.dimensions},)")
        if not _finite(kept):
            raise InvalidArgumentError(f"a vector holds NaN or infinity as {self.dtype}; expected finite numbers")
        return kept

    def _insert(
        self, group: Sequence[tuple[Document, Sequence[PassageRow]]], row: int, files: Mapping[str, int]
    ) -> None:
        """Write documents, whose ids are free, with passages numbered from `row`."""
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
        """Take documents out, within a transaction; how many were there."""
        sql = "SELECT number, first, passages, metadata FROM documents WHERE id IN ({})"
        found = list(self._texts.each(sql, list(dict.fromkeys(ids))))
        for number, first, passages, metadata in found:
            self.fields.remove(json.loads(metadata), first, passages)
            gone = range(first, first + passages)
            self.database.many("INSERT INTO removed (passage) VALUES (?)", [(passage,) for passage in gone])
            self._run("DELETE FROM passages WHERE number >= ? AND number < ?", (gone.start, gone.stop))
            self._run("DELETE FROM documents WHERE number = ?", (number,))
            self._run("DELETE FROM blocks_of_text WHERE document = ?", (number,))
        if found:
            passages_now = int(self.meta("removed")) + sum(passages for _, _, passages, _ in found)
            self.database.put("removed", passages_now)
        return len(found)

    def stage(self, vectors: Mapping[bytes, Float32]) -> None:
        """Keep vectors, by the digests of what was embedded, until a document that has them is written.

        So that whoever embeds a long document does not lose everything when it is killed.
        """
        with self.transaction():
            rows = self._checked(list(vectors.values()))
            staged = [(digest, row.tobytes()) for digest, row in zip(vectors, rows, strict=True)]
            self.database.many("INSERT OR REPLACE INTO staged VALUES (?, ?)", staged)

    def unstage(self) -> None:
        """Give up vectors that no document came for."""
        with self.snapshot():
            any_staged = self.database.format > 2 and self._run("SELECT EXISTS (SELECT 1 FROM staged)").get
        if any_staged:
            with self.transaction():
                self._run("DELETE FROM staged")

    def known_vectors(self, digests: Sequence[bytes]) -> dict[bytes, Float32]:
        """Vectors of texts that are in the store already, by digest."""
        with self.snapshot():
            names = list(dict.fromkeys(digests))
            known: dict[bytes, Float32] = {}
            if self.database.format > 2:
                staged = self._texts.each("SELECT digest, vector FROM staged WHERE digest IN ({})", names)
                known = {digest: np.frombuffer(raw, self.dtype).astype(np.float32) for digest, raw in staged}
            found = dict(self._texts.each("SELECT digest, number FROM passages WHERE digest IN ({})", names))
            return known | dict(zip(found, self.vectors(list(found.values())), strict=True))

    def vectors(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Vectors (n, dimensions) of passages by number, checked against the digests of their file."""
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
        """A document's passages as they were written."""
        with self.snapshot():
            sql = (
                "SELECT p.number, p.start, p.stop, p.digest, p.page, p.heading FROM documents d "
                "JOIN passages p ON p.number BETWEEN d.first AND d.first + d.passages - 1 WHERE d.id = ? ORDER BY 1"
            )
            found = self._run(sql, (document_id,)).fetchall()
            vectors = self.vectors([row[0] for row in found])
            return [
                PassageRow(start, stop, digest, vector, page, heading)
                for (_, start, stop, digest, page, heading), vector in zip(found, vectors, strict=True)
            ]

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
                vectors, _ = file.map(state.rows)
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
        faults = list(self.sources.faults())
        held = dict(self._run("SELECT document, count(*) FROM passages GROUP BY document").fetchall())
        wanted, found = 0, int(self._run("SELECT count(*) FROM fields").get)
        for number, name, passages, first, metadata in self._run(
            "SELECT number, id, passages, first, metadata FROM documents"
        ):
            if held.get(number, 0) != passages:
                faults.append(f"document {name!r} has {held.get(number, 0)} passages; expected {passages}")
            rows = self.fields.rows_of(json.loads(metadata), first, passages, naming=False)
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


def _finite(rows: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    if rows.dtype != np.float16:
        return bool(np.isfinite(rows).all())
    # By their bits, ten times as fast: NaN and infinity have the largest exponent.
    return not rows.size or int((rows.view(np.uint16) & 0x7FFF).max()) < 0x7C00
