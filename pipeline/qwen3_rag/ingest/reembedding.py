"""Fills a new store from the texts of another: with another embedder, or cut differently."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from qwen3_rag.index.passages import PassageRow
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.chunking import Cut
from qwen3_rag.ingest.indexer import Prepared, Vectors, prepare, prepared_as, vectors_of
from qwen3_rag.ingest.parsed import Parsed, Section
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.progress import progress
from qwen3_rag.records import Document, IndexReport, headings_of, row_of_path, same_as_stored
from qwen3_rag.settings import Settings

__all__ = ["CUTTING", "Reembedding", "sections_of"]

TOGETHER = 32  # documents of one commit
CUTTING = ("chunk_tokens", "chunk_overlap", "titles", "tables")  # settings that decide what a passage is


@dataclass(frozen=True)
class Reembedding:
    """A store to read and one to fill. Running it again continues where it stopped.

    Attributes:
        source: The store to read; it is not changed.
        target: The store to fill.
        embedder: Embedder of the target.
        before: Settings of the source.
        settings: Settings of the target.
        same_embedder: Whether the source's vectors can be used.
    """

    source: Store
    target: Store
    embedder: EmbedderProtocol
    before: Settings
    settings: Settings
    same_embedder: bool

    def run(self, show_progress: bool) -> IndexReport:
        """Write every document that the target lacks, and remove those that the source no longer has."""
        report = IndexReport()
        with progress("embedding again", self.source.count()[0], show_progress) as count:
            for ids in self._ids(self.source):
                report += self._copy(ids)
                count(len(ids))
        for ids in self._ids(self.target):
            gone = [name for name, document in zip(ids, self.source.get(ids), strict=True) if document is None]
            if gone:
                self.target.write([], remove=gone)
                report += IndexReport(removed=len(gone))
        self.target.write([], read=self.source.sources.finished())
        return report

    @staticmethod
    def _ids(store: Store) -> Iterator[list[str]]:
        last: str | None = None
        while entries := store.entries("", last, TOGETHER):
            yield [entry.id for entry in entries]
            last = entries[-1].id

    def _copy(self, ids: list[str]) -> IndexReport:
        documents = [document for document in self.source.get(ids) if document is not None]
        stored = self.target.get([document.id for document in documents])
        new = [d for d, known in zip(documents, stored, strict=True) if not same_as_stored(d, known)]
        if not new:
            return IndexReport(unchanged=len(documents))
        prepared = [self._prepared(document) for document in new]
        known: Vectors = {}
        if self.same_embedder:
            known = self.source.known_vectors([digest for each in prepared for digest in each.digests])
        vectors, embedded = vectors_of(prepared, self.target, self.embedder, self.embedder.encode_document, known)
        self.target.write(
            [(each.document, each.rows(vectors)) for each in prepared],
            origins=self.source.sources.origins([document.id for document in new]),
            pages={each.document.id: each.pages for each in prepared},
        )
        passages = sum(len(each.cuts) for each in prepared)
        return IndexReport(len(new), len(documents) - len(new), passages, embedded)

    def _prepared(self, document: Document) -> Prepared:
        """The document with its old passages, or cut again along its headings if settings have changed."""
        rows, pages = self.source.rows_of(document.id), self.source.pages(document)
        if all(getattr(self.before, name) == getattr(self.settings, name) for name in CUTTING):
            cuts = [Cut(r.start, r.stop, headings_of(r.heading), r.page, row_of_path(r.heading)) for r in rows]
            return prepared_as(document, pages, cuts, self.settings)
        return prepare(Parsed(document, tuple(sections_of(rows)), pages), self.embedder, self.settings)


def sections_of(rows: list[PassageRow]) -> Iterator[Section]:
    """Sections as far as passages tell: one for each run of passages under the same headings."""
    reached = 0
    for (path, is_table), run in itertools.groupby(rows, lambda row: (headings_of(row.heading), _is_table(row))):
        passages = list(run)
        start, stop = max(passages[0].start, reached), passages[-1].stop
        if start < stop:
            yield Section(start, stop, path, "table" if is_table else "prose")
        reached = max(reached, stop)


def _is_table(row: PassageRow) -> bool:
    return row_of_path(row.heading) is not None
