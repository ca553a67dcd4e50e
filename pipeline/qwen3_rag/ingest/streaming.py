"""Index files as a stream: one thread reads and splits, another embeds, a third writes.

The queues between them are bounded, so memory use does not depend on the size of the folder. A file is recorded as
read in the commit that contains its last document, so a killed run resumes where it stopped.
"""

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import IngestError
from qwen3_rag.index.passages import PassageRow
from qwen3_rag.index.sources import SourceRow
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.files import SECONDS, ContentError, File
from qwen3_rag.ingest.indexer import BATCH, Prepared, Vectors, prepare, vectors_of
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.planning import NOTHING_TO_READ, digest_of, row_of, still
from qwen3_rag.ingest.readers import has_reader, read, reader_of
from qwen3_rag.ingest.walking import FileEntry
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.records import Document, IndexReport, same_as_stored
from qwen3_rag.settings import Settings

__all__ = ["Stream"]

AHEAD = 4  # batches that the reading thread may be ahead of embedding
LOOKED_UP = 64  # documents compared with the store at once
logger = logging.getLogger("qwen3_rag")


@dataclass
class _Batch:
    """The content of one commit, or a part of it."""

    prepared: dict[str, Prepared] = field(default_factory=dict)
    carried: dict[str, tuple[Document, list[PassageRow]]] = field(default_factory=dict)
    pages: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the carried documents
    origins: dict[str, str] = field(default_factory=dict)
    read: list[SourceRow] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    report: IndexReport = field(default_factory=IndexReport)

    def take(self, part: "_Batch") -> None:
        """Add a part; of documents with the same id, the later one is kept."""
        for name in (part.prepared | part.carried).keys() & (self.prepared | self.carried).keys():
            self.prepared.pop(name, None)
            self.carried.pop(name, None)
            logger.warning("document %r comes from more than one place; the last is kept", name)
        self.prepared |= part.prepared
        self.carried |= part.carried
        self.pages |= part.pages
        self.origins |= part.origins
        self.read += part.read
        # Do not remove a document that this part adds again under the same id.
        self.remove = [name for name in self.remove + part.remove if name not in part.origins]
        self.report += part.report

    @property
    def failed(self) -> int:
        """How many files are skipped and not read in part."""
        return len({path for path, _ in self.report.skipped} - set(self.origins.values()))

    @property
    def passages(self) -> int:
        return sum(len(p.cuts) for p in self.prepared.values()) + sum(len(rows) for _, rows in self.carried.values())

    @property
    def full(self) -> bool:
        """Whether the batch is large enough to write."""
        return self.passages >= BATCH or len(self.origins) + len(self.read) + len(self.remove) >= 4 * BATCH

    @property
    def empty(self) -> bool:
        return not (self.origins or self.read or self.remove or self.report != IndexReport())


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
        done: Called after each commit with the number of files and passages in it.
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
        done: Callable[[int, int], None],
        seconds: float = SECONDS,
    ) -> None:
        self.store, self.embedder, self.settings = store, embedder, settings
        self.named = frozenset(named)
        self.moved, self.strict, self.largest, self.reread, self.done = moved, strict, largest, reread, done
        self.seconds = seconds
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

    def _embedded(self, batch: _Batch, recent: Vectors) -> tuple[Vectors, int]:
        """Vectors of a batch and how many were embedded; all but the last group are staged as they are computed."""

        def embed(texts: list[str]) -> NDArray[np.float32]:
            return self.embedder.encode_document(texts)

        embedded_vectors: Vectors = {}
        count = 0
        parts = [part for each in batch.prepared.values() for part in _slices(each)]
        group: list[Prepared] = []
        for number, part in enumerate(parts):
            group.append(part)
            last = number == len(parts) - 1
            if last or sum(len(p.cuts) for p in group) >= BATCH:
                vectors, embedded = vectors_of(group, self.store, self.embedder, embed, recent | embedded_vectors)
                if embedded and not last:
                    self.store.stage({digest: vectors[digest] for p in group for digest in p.digests})
                digests = {digest for p in group for digest in p.digests}
                embedded_vectors |= {digest: vectors[digest] for digest in digests}
                count += embedded
                group = []
        return embedded_vectors, count

    def _write(self, batch: _Batch, vectors: Vectors) -> int:
        documents = ((each.document, each.rows(vectors)) for each in batch.prepared.values())
        pages = batch.pages | {name: each.pages for name, each in batch.prepared.items()}
        commit = self.store.write(
            [*documents, *batch.carried.values()], batch.remove, origins=batch.origins, pages=pages, read=batch.read
        )
        self.done(batch.report.files + batch.failed, batch.passages)
        return commit

    def _ahead(self, files: Sequence[FileEntry]) -> Iterator[_Batch]:
        """Yield batches, which a separate thread prepares."""
        batches: queue.Queue[_Batch | BaseException | None] = queue.Queue(AHEAD)

        def put(item: _Batch | BaseException | None) -> None:
            while not self._ended.is_set():
                try:
                    batches.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for batch in self._batches(files):
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

    def _batches(self, files: Sequence[FileEntry]) -> Iterator[_Batch]:
        batch = _Batch()
        for entry in files:
            try:
                for part in self._file(entry):
                    batch.take(part)
                    if batch.full:
                        yield batch
                        batch = _Batch()
            except IngestError as error:
                if self.strict:
                    yield batch
                    raise
                batch.take(self._failed(entry, error))
        if not batch.empty:
            yield batch

    def _failed(self, entry: FileEntry, error: IngestError) -> _Batch:
        """The report of a file that cannot be read; if its content is to blame, it is recorded as read."""
        reason = str(error).removeprefix(f"{entry.path}: ")
        batch = _Batch(report=IndexReport(skipped=((str(entry.path), reason),)))
        if isinstance(error, ContentError):
            with suppress(IngestError):  # gone meanwhile
                digest = _digest(entry.path)
                batch.read += [row_of(entry, digest, reason)] if still(entry) else []
        return batch

    def _file(self, entry: FileEntry) -> Iterator[_Batch]:
        """A file's documents in parts; the last part records the file as read."""
        path = str(entry.path)
        before = set(self.store.sources.documents(path))
        if self._nothing_to_read(entry):
            row = row_of(entry, NOTHING_TO_READ)
            yield _Batch(
                read=[row],
                remove=sorted(before),
                report=IndexReport(ignored={entry.path.suffix.lower(): 1}, removed=len(before)),
            )
            return
        digest = _digest(entry.path)
        documents = read(entry.path, self.largest, self.seconds)
        group = list(islice(documents, LOOKED_UP))
        partial = self._partial(entry, group)
        if len(group) == LOOKED_UP:
            # Read the whole file once before writing, so that an error further on leaves nothing of it in the store.
            for _ in documents:
                pass
            documents = read(entry.path, self.largest, self.seconds)
            group = list(islice(documents, LOOKED_UP))
        elif (carried := self._carried(path, group)) is not None:
            yield carried
            group = []
        while group:
            yield self._compared(path, group)
            before -= {parsed.document.id for parsed in group}
            group = list(islice(documents, LOOKED_UP))
        if not still(entry):
            raise IngestError(f"{path}: changed while it was read; the next run reads it again")
        skipped = ((path, partial),) if partial else ()
        report = IndexReport(files=1, removed=len(before), skipped=skipped)
        yield _Batch(read=[row_of(entry, digest, partial)], remove=sorted(before), report=report)

    def _partial(self, entry: FileEntry, documents: Sequence[Parsed]) -> str:
        """Why only a part of a file could be read; "" if all of it was. With `strict` this is an error."""
        reason = next((parsed.partial for parsed in documents if parsed.partial), "")
        if reason and self.strict:
            raise ContentError(entry.path, reason)
        return reason

    def _nothing_to_read(self, entry: FileEntry) -> bool:
        """Whether no reader supports a file; False if its extension is supported or its path was passed explicitly."""
        file = File(entry.path, self.largest)
        try:
            nothing = reader_of(file) is None and not has_reader(entry.path)
            return nothing and str(entry.path) not in self.named
        except OSError as error:
            raise IngestError(f"{entry.path}: cannot be read: {error.strerror or error}") from error

    def _carried(self, path: str, group: Sequence[Parsed]) -> _Batch | None:
        """The document of a moved one-document file, with the passages and vectors stored under its previous path."""
        before = self.store.sources.documents(self.moved[path]) if path in self.moved else []
        if len(group) != 1 or len(before) != 1 or before[0] == group[0].document.id:
            return None
        document = group[0].document
        (stored,) = self.store.get(before)
        if stored is None or stored.text != document.text:
            return None
        report = IndexReport(documents=1, moved=1)
        rows = self.store.rows_of(before[0])
        return _Batch(
            carried={document.id: (document, rows)},
            pages={document.id: group[0].pages},
            origins={document.id: path},
            remove=before,
            report=report,
        )

    def _compared(self, path: str, group: Sequence[Parsed]) -> _Batch:
        """Compare documents with the stored ones; split those that are new or changed."""
        names = [parsed.document.id for parsed in group]
        stored = dict(zip(names, self.store.get(names), strict=True))
        new = {
            parsed.document.id: parsed
            for parsed in group
            if self.reread or not same_as_stored(parsed.document, stored[parsed.document.id])
        }
        prepared = {name: prepare(parsed, self.embedder, self.settings) for name, parsed in new.items()}
        report = IndexReport(documents=len(new), unchanged=len(stored) - len(new))
        return _Batch(prepared=prepared, origins=dict.fromkeys(names, path), report=report)


def _slices(whole: Prepared) -> Iterator[Prepared]:
    """Split a document's passages into parts of at most one batch."""
    for start in range(0, len(whole.cuts), BATCH):
        part = slice(start, start + BATCH)
        yield Prepared(whole.document, whole.pages, whole.cuts[part], whole.texts[part], whole.digests[part])


def _digest(path: Path) -> bytes:
    try:
        return digest_of(path)
    except OSError as error:
        raise IngestError(f"{path}: cannot be read: {error.strerror or error}") from error
