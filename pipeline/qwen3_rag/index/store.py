"""The commit point: documents, passages, metadata and vectors are written together under one commit number.

SQLite stores everything except the vectors, which are in a separate file that each commit refers to. Search indexes are
derived from both and can be deleted at any time.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING
from qwen3_rag.errors import IndexCorruptedError, InvalidArgumentError
from qwen3_rag.index import bitmap
from qwen3_rag.index.backup import copy_commit, into_free_folder
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.commit import Commit
from qwen3_rag.index.compaction import SegmentWriter, compact
from qwen3_rag.index.consistency import inconsistencies
from qwen3_rag.index.database import FILE, Database, Run, Transaction
from qwen3_rag.index.fields import Fields
from qwen3_rag.index.opening import check_free, create_database, open_database
from qwen3_rag.index.passages import Passage, PassageRow, Texts
from qwen3_rag.index.sources import SourceRow, Sources
from qwen3_rag.index.vectors import DTYPES, Rows, VectorFile, as_rows
from qwen3_rag.records import Document

__all__ = ["Passage", "PassageRow", "Store"]

GROUP = 1024  # documents inserted at a time
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


class Store:
    """An open store. Thread-safe.

    Args:
        database: Its open database.
    """

    def __init__(self, database: Database) -> None:
        self.database, self.folder, self.files = database, database.folder, database.files
        self.snapshot, self.meta, self.set_meta = database.snapshot, database.meta, database.set_meta
        self.transaction, self.close = database.transaction, database.close
        self.shrink, self.require_writable = database.shrink, database.require_writable
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
        self.pages, self.entries, self.select_in = self._texts.pages, self._texts.entries, self._texts.select_in
        self.sources = Sources(database)
        self._file: VectorFile | None = None

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise StoreExistsError unless the folder is empty or does not exist."""
        check_free(folder)

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
        """Create a store in a folder that is empty or does not exist yet. Raises as `create_database` does.

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
        return cls(create_database(folder, {**meta, **layout}))

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open the store in a folder. Raises as `open_database` does."""
        return cls(open_database(folder))

    @property
    def _run(self) -> Run:
        return self.database.run

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a store in a folder."""
        return (folder / FILE).is_file()

    @property
    def identity(self) -> str:
        """The store's random name, which it keeps when it is moved."""
        return (self.files.identity or b"").hex()

    @property
    def format(self) -> int:
        """Format version of the last commit."""
        with self.snapshot():
            return self.database.format

    def last_commit(self) -> Commit:
        """The snapshot's commit, or outside a snapshot the last one."""
        with self.snapshot() as commit:
            return commit

    def _file_of(self, generation: int) -> VectorFile:
        """The vector file of a generation."""
        file = self._file
        if file is None or file.generation != generation:
            file = self._file = VectorFile(self.files, generation, self.dimensions, self.dtype)
        return file

    def rows(self, commit: Commit) -> Rows:
        """The rows of the snapshot's commit, mapped; checking them needs that snapshot.

        Raises:
            IndexCorruptedError: The file of vectors is missing or too short.
        """
        file = self._file_of(commit.generation)
        vectors, file_map = file.map(commit.rows)
        return Rows(vectors, file_map, lambda blocks: file.check(vectors, blocks, self._run))

    def write(
        self,
        documents: Iterable[tuple[Document, Sequence[PassageRow]]],
        remove: Iterable[str] = (),
        *,
        origins: Mapping[str, str] = NOTHING,
        pages: Mapping[str, Sequence[int]] = NOTHING,
        read: Sequence[SourceRow] = (),
        forget: Sequence[str] = (),
        vanished: Mapping[str, str] = NOTHING,
        losers: Iterable[str] = (),
    ) -> int:
        """Insert or replace documents by id and remove others, in one commit; returns its number.

        Args:
            documents: The documents with their passages.
            remove: Ids of documents to remove; unknown ids are ignored.
            origins: Path of the file a document came from, by id; may include documents already in the store.
            pages: Offsets at which a document's pages start, by id.
            read: Files that this commit completes.
            forget: Paths of files that no longer exist.
            vanished: Documents that a file no longer has, by id the file's path; those that belong to another file by
                now, or were added by hand, stay.
            losers: Paths of files with documents that other files have too, which are kept.

        Raises:
            InvalidArgumentError: A vector has the wrong dimensions, NaN or infinity; nothing is written.
            StoreLockedError: Another writer has locked the store.
            StoreError: The disk is full or fails; nothing is written.
        """
        with self.transaction() as transaction:
            self.fields.begin()
            before = transaction.commit
            numbers = self.sources.numbers(origins.values())
            files = {name: numbers[path] for name, path in origins.items()}
            gone = [*remove, *self.sources.owned({n: path for n, path in vanished.items() if n not in origins})]
            displaced = {*losers, *self.sources.displaced(files)}
            if gone:
                self.sources.unblock()
            row, documents_now = before.rows, before.documents - self._remove(transaction, gone)
            with self._file_of(before.generation).appending(row, self.database) as append:
                remaining = iter(documents)
                while group := list(islice(remaining, GROUP)):
                    ids = [document.id for document, _ in group]
                    if len(set(ids)) < len(ids):
                        raise InvalidArgumentError("two of the documents have the same id; expected each id once")
                    documents_now += len(group) - self._remove(transaction, ids)
                    self._insert(group, row, files)
                    self._texts.insert_pages([document for document, _ in group], pages)
                    vectors = [passage.vector for _, passages in group for passage in passages]
                    if vectors:
                        append(as_rows(vectors, self.dimensions, self.dtype))
                    row += len(vectors)
            self.sources.adopt(files)
            self.sources.finish(read)
            self.sources.mark_shared(displaced)
            self.sources.forget(forget)
            transaction.commit = replace(transaction.commit, rows=row, documents=documents_now)
        return before.number

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

    def _remove(self, transaction: Transaction, ids: Iterable[str]) -> int:
        """Remove documents, within a transaction; returns how many existed."""
        sql = "SELECT number, first, passages, metadata FROM documents WHERE id IN ({})"
        names = list(dict.fromkeys(ids))
        rows = list(self._texts.select_in(sql, names))
        if rows:
            self._texts.remove_pages(names)
        for number, first, passages, metadata in rows:
            self.fields.remove(json.loads(metadata), first, passages)
            removed = range(first, first + passages)
            self.database.many("INSERT INTO removed (passage) VALUES (?)", [(passage,) for passage in removed])
            self._run("DELETE FROM passages WHERE number >= ? AND number < ?", (removed.start, removed.stop))
            self._run("DELETE FROM documents WHERE number = ?", (number,))
            self._run("DELETE FROM blocks_of_text WHERE document = ?", (number,))
        removed_now = transaction.commit.removed + sum(passages for _, _, passages, _ in rows)
        transaction.commit = replace(transaction.commit, removed=removed_now)
        return len(rows)

    def stage(self, vectors: Mapping[bytes, Float32]) -> None:
        """Store vectors by the digest of the embedded text until a document with them is written.

        If embedding a long document is interrupted, the next run reuses them.
        """
        with self.transaction():
            rows = as_rows(list(vectors.values()), self.dimensions, self.dtype)
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
        with self.snapshot() as commit:
            rows, wanted = self.rows(commit), np.array(numbers, dtype=np.int64)
            rows.check(wanted)
            return rows.values[wanted].astype(np.float32)

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

    def live(self, commit: Commit) -> Bitmap | None:
        """Passages of the snapshot's commit that are not removed; None stands for all."""
        if not commit.removed:
            return None
        return bitmap.full(commit.rows) & ~bitmap.from_rows(self.removed(0), commit.rows)

    def allowed(self, filter: Mapping[str, Any]) -> Int64:
        """Numbers of the passages whose document matches a filter.

        Raises:
            FilterError: The filter is invalid.
        """
        with self.snapshot() as commit:
            matching = self.fields.allowed(filter, commit)
            live = self.live(commit)
            return bitmap.to_rows(matching if live is None else matching & live)

    def matching(self, filter: Mapping[str, Any]) -> list[str]:
        """Ids of the documents that match a filter, in order; one without passages matches none.

        Raises:
            FilterError: The filter is invalid.
        """
        sql = "SELECT d.id FROM passages p JOIN documents d ON d.number = p.document WHERE p.number IN ({})"
        with self.snapshot():
            return sorted({name for (name,) in self.select_in(sql, self.allowed(filter).tolist())})

    def backup(self, to: Path) -> Commit:
        """Copy the last commit into a folder that is empty or does not exist yet, while others read and write.

        Raises:
            StoreExistsError: Something is at `to` already.
            IndexCorruptedError: What is copied does not match its checksums.
            StoreError: The folder cannot be written. As after any error, nothing is left behind.
        """
        while True:
            with self.snapshot() as commit:
                try:
                    with into_free_folder(to) as folder:
                        copy_commit(self.database, self.rows(commit), commit, folder)
                    return commit
                except IndexCorruptedError:
                    if self.files.acknowledged() == commit.number:
                        raise
            # A newer commit has replaced files before they were opened.

    def count(self) -> tuple[int, int]:
        """Numbers of documents and passages."""
        commit = self.last_commit()
        return commit.documents, commit.live

    def compact(self, write: SegmentWriter) -> None:
        """Renumber the passages without the removed ones, in one commit; `write` makes the new segments.

        Raises:
            IndexCorruptedError: A row does not match its checksum; the store is unchanged.
            StoreError: The disk is full or fails; the store is unchanged.
        """
        with self.transaction() as transaction:
            before = transaction.commit
            if (live := self.live(before)) is not None:
                rows, file = self.rows(before), self._file_of(before.generation + 1)
                compact(self.database, transaction, rows, live, file, write)

    def verify(self) -> list[str]:
        """Read the whole store and check it against its checksums; returns a message for each fault."""
        with self.snapshot() as commit:
            faults = self.database.integrity()
            file = self._file_of(commit.generation)
            try:
                vectors, _ = file.map(commit.rows)
            except IndexCorruptedError as error:
                return [*faults, str(error)]
            faults += file.faults(vectors, self._run)
            try:
                faults += [*self.sources.faults(), *inconsistencies(self.database, self.fields, commit)]
            except apsw.Error as error:
                faults.append(f"{self.folder / FILE}: {error}")
        return faults
