"""Index files as a stream: one thread reads and splits, another embeds, a third writes.

The queues between them are bounded, so memory use does not depend on the size of the folder. A file is recorded as
read in the commit that contains its last document, so a killed run resumes where it stopped.
"""

import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index.store import Store
from qwen3_rag.ingest.batches import Batch, Batches
from qwen3_rag.ingest.files import SECONDS
from qwen3_rag.ingest.indexer import Vectors, vectors_of
from qwen3_rag.ingest.walking import FileEntry
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.records import IndexReport
from qwen3_rag.settings import Settings

__all__ = ["Stream"]

AHEAD = 4  # batches that the reading thread may be ahead of embedding


class Stream:
    """One indexing run over a list of files.

    Args:
        store: The store to write to.
        embedder: Embeds the passages.
        settings: How documents are split.
        named: Paths passed explicitly; an unsupported format among them is an error.
        moved: Previous paths of moved files, by current path.
        strict: Whether a file that cannot be read ends the run.
        largest: Maximum size in bytes of a file that is read into memory.
        seconds: Maximum time that parsing a PDF, HTML, Word or EPUB file may take.
        reread: Whether unchanged documents are split and written again.
        done: Called after each commit with the number of files and passages in it, and the files' size in bytes.
    """

    def __init__(
        self,
        store: Store,
        embedder: EmbedderProtocol,
        settings: Settings,
        *,
        named: Collection[str],
        moved: Mapping[str, str],
        strict: bool,
        largest: int,
        reread: bool,
        done: Callable[[int, int, int], None],
        seconds: float = SECONDS,
    ) -> None:
        self.store, self.embedder, self.done = store, embedder, done
        self.batches = Batches(
            store, embedder, settings, frozenset(named), moved, strict, largest, seconds=seconds, reread=reread
        )
        self._ended = threading.Event()

    def run(self, files: Sequence[FileEntry]) -> IndexReport:
        """Read the files and write their documents.

        Raises:
            IngestError: With `strict`, a file that cannot be read; files before it are still written.
        """
        report = IndexReport()
        recent: Vectors = {}  # vectors of the batch being written, not in the store yet
        with ThreadPoolExecutor(1, "writing") as writer:
            writing: Future[int] | None = None
            try:
                for batch in self._ahead(files):
                    vectors, embedded = self._embedded(batch, recent)
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(self._write, batch, vectors)
                    recent = vectors
                    report += replace(batch.report, passages=batch.passages, embedded=embedded)
                if writing is not None:
                    writing.result()
            finally:
                self._ended.set()
        return report

    def _embedded(self, batch: Batch, recent: Vectors) -> tuple[Vectors, int]:
        """Vectors of a batch and how many were embedded; all but the last group are staged as they are computed."""

        def embed(texts: list[str]) -> NDArray[np.float32]:
            return self.embedder.encode_document(texts)

        embedded_vectors: Vectors = {}
        count = 0
        groups = list(batch.groups())
        for number, group in enumerate(groups, start=1):
            digests = {digest for part in group for digest in part.digests}
            vectors, embedded = vectors_of(group, self.store, self.embedder, embed, recent | embedded_vectors)
            if embedded and number < len(groups):
                self.store.stage({digest: vectors[digest] for digest in digests})
            embedded_vectors |= {digest: vectors[digest] for digest in digests}
            count += embedded
        return embedded_vectors, count

    def _write(self, batch: Batch, vectors: Vectors) -> int:
        documents = ((each.document, each.rows(vectors)) for each in batch.prepared.values())
        pages = batch.pages | {name: each.pages for name, each in batch.prepared.items()}
        commit = self.store.write(
            [*documents, *batch.carried.values()],
            vanished=batch.vanished,
            origins=batch.origins,
            pages=pages,
            read=batch.read,
            losers=batch.losers,
        )
        self.done(batch.report.files + batch.failed, batch.passages, sum(row.size for row in batch.read))
        return commit

    def _ahead(self, files: Sequence[FileEntry]) -> Iterator[Batch]:
        """Yield batches, which a separate thread prepares."""
        batches: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)

        def put(item: Batch | BaseException | None) -> None:
            while not self._ended.is_set():
                try:
                    batches.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for batch in self.batches.of(files):
                    put(batch)
                    if self._ended.is_set():
                        return
                put(None)
            except BaseException as error:  # noqa: BLE001  # re-raised in the consuming thread
                put(error)

        thread = threading.Thread(target=work, name="reading", daemon=True)
        thread.start()
        try:
            while (item := batches.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._ended.set()
            thread.join()
