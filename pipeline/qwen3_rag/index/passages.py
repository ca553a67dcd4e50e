"""Writes documents and passages to SQLite, and reads them back."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index.database import FILE, Database, Run
from qwen3_rag.index.schema import PAGES
from qwen3_rag.records import Document, Entry, passage_text

__all__ = ["Passage", "PassageRow", "Texts"]

SLICE = 500  # values bound to one statement
# Text beyond a document's first block is stored in separate rows, so that reading a passage of a book stays cheap.
BLOCK = 65_536  # characters
Float32 = NDArray[np.float32]
encoded = json.JSONEncoder(ensure_ascii=False).encode


def _digest(text: str) -> int:
    """A text's XXH3 as SQLite stores it, with a sign."""
    return int(xxhash.xxh3_64_intdigest(text.encode())) - (1 << 63)


@dataclass(frozen=True)
class PassageRow:
    """A passage to write.

    Attributes:
        start: Index of its first character in the document's text.
        stop: Index after its last character.
        digest: Digest of the embedded text.
        vector: Vector (dimensions,).
        page: Page of the source, from 1.
        heading: Headings above it, prepended to its text for search.
    """

    start: int
    stop: int
    digest: bytes
    vector: Float32
    page: int | None = None
    heading: str | None = None


@dataclass(frozen=True)
class Passage:
    """A passage read back, with its document's attributes. `number` is its row in the vector file."""

    number: int
    ordinal: int
    start: int
    stop: int
    page: int | None
    heading: str | None
    document_id: str
    title: str | None
    source: str | None
    metadata: Mapping[str, Any]
    text: str

    def searched(self, titles: bool) -> str:
        """The text that is embedded, reranked and indexed: with `titles`, title and headings come first."""
        return passage_text(self.text, self.title, self.heading, titles)


class Texts:
    """The documents and passages of a store.

    Args:
        database: Its open database.
        titles: Whether title and headings are prepended to a passage for search.
    """

    def __init__(self, database: Database, titles: bool) -> None:
        self.database, self.titles = database, titles
        self.snapshot = database.snapshot

    @property
    def _run(self) -> Run:
        return self.database.run

    def insert(
        self, group: Sequence[tuple[Document, Sequence[PassageRow]]], row: int, origins: Mapping[str, int]
    ) -> None:
        """Insert documents with new ids, and their passages from number `row`; `origins` maps ids to file numbers."""
        number = self._run("SELECT coalesce(max(number), 0) FROM documents").get
        documents, blocks, rows = [], [], []
        for document, passages in group:
            number += 1
            metadata = encoded(dict(document.metadata)) if document.metadata else "{}"
            text, span = document.text, (row, len(passages), origins.get(document.id))
            documents.append((number, document.id, document.title, document.source, text[:BLOCK], metadata, *span))
            blocks += [(number, at // BLOCK, text[at : at + BLOCK]) for at in range(BLOCK, len(text), BLOCK)]
            for ordinal, p in enumerate(passages):
                rows.append((row, number, ordinal, p.start, p.stop, p.page, p.heading, p.digest))
                row += 1
        many = self.database.many
        many("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", documents)
        if blocks:
            many("INSERT INTO blocks_of_text VALUES (?, ?, ?)", blocks)
        many("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def insert_pages(self, documents: Sequence[Document], pages: Mapping[str, Sequence[int]]) -> None:
        """Record where the pages of documents start, by document id; offsets of their first characters."""
        rows = [
            (document.id, _digest(document.text), np.array(pages[document.id], dtype="<u4").tobytes())
            for document in documents
            if pages.get(document.id)
        ]
        if rows:
            self._run(PAGES)
            self.database.many("INSERT OR REPLACE INTO pages VALUES (?, ?, ?)", rows)

    def remove_pages(self, ids: Sequence[str]) -> None:
        """Forget where the pages of documents start."""
        if self._has_pages():
            self.database.many("DELETE FROM pages WHERE id = ?", [(name,) for name in ids])

    def pages(self, document: Document) -> tuple[int, ...]:
        """Offsets at which a document's pages start; none if it has no pages."""
        with self.snapshot():
            if not self._has_pages():
                return ()
            row = self._run("SELECT digest, starts FROM pages WHERE id = ?", (document.id,)).fetchone()
        known = row is not None and row[0] == _digest(document.text)
        return tuple(np.frombuffer(row[1], dtype="<u4").tolist()) if known else ()

    def _has_pages(self) -> bool:
        return bool(self._run("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'pages')").get)

    def entries(self, prefix: str, after: str | None, limit: int) -> list[Entry]:
        """Documents whose ids start with `prefix`, in order of their ids, from the first after `after`."""
        sql = (
            "SELECT id, title, source, passages FROM documents "
            "WHERE id >= ? AND substr(id, 1, ?) = ? AND (? IS NULL OR id > ?) ORDER BY id LIMIT ?"
        )
        with self.snapshot():
            rows = self._run(sql, (max(prefix, after or ""), len(prefix), prefix, after, after, limit)).fetchall()
        return [Entry(*row) for row in rows]

    def select_in(self, sql: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query whose `{}` stands for many bound values, run for a slice of them at a time."""
        for start in range(0, len(values), SLICE):
            part = values[start : start + SLICE]
            yield from self._run(sql.format(",".join("?" * len(part))), part)

    def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Documents in the order of `ids`; None where there is none."""
        with self.snapshot():
            sql = "SELECT number, text, id, title, source, metadata FROM documents WHERE id IN ({})"
            rows = list(self.select_in(sql, list(dict.fromkeys(ids))))
            documents = {
                name: Document(self._full_text(number, text), name, title, source, json.loads(metadata))
                for number, text, name, title, source, metadata in rows
            }
        return [documents.get(name) for name in ids]

    def _full_text(self, document: int, first: str) -> str:
        """A document's text, given its first block."""
        if len(first) != BLOCK or self.database.format == 2:  # format 2 has no blocks: `first` is the whole text
            return first
        sql = "SELECT text FROM blocks_of_text WHERE document = ? ORDER BY block"
        return "".join([first, *(text for (text,) in self._run(sql, (document,)))])

    def _slice(self, document: int, start: int, stop: int, first: str) -> str:
        """Characters from `start` to `stop` of a document's text, given its first block."""
        if stop <= max(BLOCK, len(first)):
            return first[start:stop]
        sql = "SELECT text FROM blocks_of_text WHERE document = ? AND block BETWEEN ? AND ? ORDER BY block"
        begin = start // BLOCK
        parts = [text for (text,) in self._run(sql, (document, begin, (stop - 1) // BLOCK))]
        return "".join([first, *parts] if begin == 0 else parts)[start - begin * BLOCK : stop - begin * BLOCK]

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number; missing ones are left out."""
        sql = (
            "SELECT p.number, p.ordinal, p.start, p.stop, p.page, p.heading, d.id, d.title, d.source, d.metadata, "
            "p.document, iif(p.start < {BLOCK} OR length(d.text) != {BLOCK}, d.text, '') "
            "FROM passages p JOIN documents d ON d.number = p.document WHERE p.number IN ({})"
        ).replace("{BLOCK}", str(BLOCK))
        with self.snapshot():
            rows = list(self.select_in(sql, [int(n) for n in numbers]))
            return {r[0]: Passage(*r[:9], json.loads(r[9]), self._slice(r[10], r[2], r[3], r[11])) for r in rows}  # type: ignore[call-arg]

    def searched(self, first: int, stop: int) -> Iterator[tuple[int, str]]:
        """Number and searched text of each passage from `first` to `stop`, in order."""
        sql = (
            "SELECT number, document, start, stop, heading FROM passages "
            "WHERE number >= ? AND number < ? ORDER BY number"
        )
        current: int | None = None
        title, text = None, ""
        for number, document, start, end, heading in self._run(sql, (first, stop)):
            if document != current:
                row = self._run("SELECT title, text FROM documents WHERE number = ?", (document,)).fetchone()
                if row is None:
                    raise IndexCorruptedError(f"{self.database.folder / FILE}: passage {number} has no document")
                current, (title, text) = document, row
            passage = self._slice(document, start, end, text)
            yield number, passage_text(passage, title, heading, self.titles)

    def widened(self, passage: Passage, neighbours: int) -> tuple[int, int, str]:
        """Start, end and text of a passage together with up to `neighbours` passages on either side of it."""
        with self.snapshot():
            row = self._run(
                "SELECT min(p.start), max(p.stop), d.number, d.text "
                "FROM passages hit JOIN documents d ON d.number = hit.document "
                "JOIN passages p ON p.number BETWEEN max(d.first, hit.number - ?) "
                "AND min(d.first + d.passages - 1, hit.number + ?) WHERE hit.number = ? AND d.id = ?",
                (neighbours, neighbours, passage.number, passage.document_id),
            ).fetchone()
            if not row or row[0] is None:  # the document was replaced meanwhile
                return passage.start, passage.stop, passage.text
            start, stop, document, first = row
            return start, stop, self._slice(document, start, stop, first)
