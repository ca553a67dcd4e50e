"""Cuts the documents of a store into other passages, in place."""

from dataclasses import dataclass

from qwen3_rag.index.passages import PassageRow
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.indexer import Prepared, prepare, vectors_of
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.reembedding import sections_of
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.progress import progress
from qwen3_rag.records import Document, IndexReport
from qwen3_rag.settings import Settings

__all__ = ["RECUT", "Recutting"]

RECUT = "recut"  # the store's key of an unfinished run: the id of its last document, "" before the first
TOGETHER = 32  # documents of one commit


@dataclass(frozen=True)
class Recutting:
    """A store whose documents are cut again along their headings. Running it again continues where it stopped.

    Attributes:
        store: The store.
        embedder: Its embedder.
        settings: How documents are cut from now on.
    """

    store: Store
    embedder: EmbedderProtocol
    settings: Settings

    def run(self, show_progress: bool) -> IndexReport:
        """Cut every document again; write those whose passages change."""
        report, last = IndexReport(), self.store.meta(RECUT) or None
        with progress("cutting", self.store.count()[0], show_progress) as count:
            while entries := self.store.entries("", last, TOGETHER):
                ids = [entry.id for entry in entries]
                report += self._cut([document for document in self.store.get(ids) if document is not None])
                last = ids[-1]
                self.store.set_meta(RECUT, last)
                count(len(ids))
        self.store.set_meta(RECUT, None)
        return report

    def _cut(self, documents: list[Document]) -> IndexReport:
        rows = [self.store.rows_of(document.id) for document in documents]
        both = [(self._prepared(d, old), old) for d, old in zip(documents, rows, strict=True)]
        changed = [new for new, old in both if not _same(new, old)]
        if not changed:
            return IndexReport(unchanged=len(documents))
        vectors, embedded = vectors_of(changed, self.store, self.embedder, self.embedder.encode_document)
        self.store.write(
            [(each.document, each.rows(vectors)) for each in changed],
            origins=self.store.sources.origins([each.document.id for each in changed]),
            pages={each.document.id: each.pages for each in changed},
        )
        passages = sum(len(each.cuts) for each in changed)
        return IndexReport(len(changed), len(documents) - len(changed), passages, embedded)

    def _prepared(self, document: Document, rows: list[PassageRow]) -> Prepared:
        pages = self.store.pages(document)
        return prepare(Parsed(document, tuple(sections_of(rows)), pages), self.embedder, self.settings)


def _same(new: Prepared, old: list[PassageRow]) -> bool:
    places = [(cut.start, cut.stop, digest) for cut, digest in zip(new.cuts, new.digests, strict=True)]
    return places == [(row.start, row.stop, row.digest) for row in old]
