"""Files into a store as a stream: one thread reads and cuts while another embeds and a third writes.

Everything that waits between them is bounded, so memory does not grow with the folder; and every file is noted in the
commit that holds its last document, so that a run that is killed goes on where it was.
"""

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import IngestError
from qwen3_rag.index.passages import PassageRow
from qwen3_rag.index.sources import SourceRow
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.indexer import BATCH, Prepared, Vectors, prepare, vectors_of
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.planning import NOTHING_TO_READ, digest_of, row_of, still
from qwen3_rag.ingest.readers import has_reader, read, reader_of
from qwen3_rag.ingest.walking import FileEntry
from qwen3_rag.models.embedder import EmbedderProtocol
from qwen3_rag.records import Document, IndexReport, same_as_stored
from qwen3_rag.settings import Settings

__all__ = ["Stream"]

AHEAD = 4  # batches that reading may be ahead of embedding
LOOKED_UP = 64  # documents looked up in the store at once
logger = logging.getLogger("qwen3_rag")


@dataclass
class _Batch:
    """What goes into one commit, or a part of that."""

    prepared: dict[str, Prepared] = field(default_factory=dict)
    carried: dict[str, tuple[Document, list[PassageRow]]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    read: list[SourceRow] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    report: IndexReport = field(default_factory=IndexReport)

    def take(self, part: "_Batch") -> None:
        """Add a part; of documents with the same id the later one stays."""
        for name in (part.prepared | part.carried).keys() & (self.prepared | self.carried).keys():
            self.prepared.pop(name, None)
            self.carried.pop(name, None)
            logger.warning("document %r comes from more than one place; the last is kept", name)
        self.prepared |= part.prepared
        self.carried |= part.carried
        self.origins |= part.origins
        self.read += part.read
        # A document that was added again under the same id stays.
        self.remove = [name for name in self.remove + part.remove if name not in part.origins]
        self.report += part.report

    @property
    def passages(self) -> int:
        return sum(len(p.cuts) for p in self.prepared.values()) + sum(len(rows) for _, rows in self.carried.values())

    @property
    def full(self) -> bool:
        """Whether it is time to write it."""
        return self.passages >= BATCH or len(self.origins) + len(self.read) + len(self.remove) >= 4 * BATCH

    @property
    def empty(self) -> bool:
        return not (self.origins or self.read or self.remove or self.report != IndexReport())


class Stream:
    """One run over some files.

    Args:
        store: Where they go.
        embedder: What embeds them.
        settings: How they are cut.
        named: Paths passed explicitly; an unsupported kind among them is an error.
        moved: Paths that files had before, by their paths now.
        strict: Whether a file that cannot be read ends the run.
        largest: Bytes of a file that is read as a whole.
        reread: Whether documents are cut again that are as they were.
        done: Called with the files and passages finished, as they are.
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
    ) -> None:
        self.store, self.embedder, self.settings = store, embedder, settings
        self.named = frozenset(named)
        self.moved, self.strict, self.largest, self.reread, self.done = moved, strict, largest, reread, done
        self._ended = threading.Event()

    def run(self, files: Sequence[FileEntry]) -> IndexReport:
        """Read the files and write what they hold.

        Raises:
            IngestError: With `strict`, a file that cannot be read; what was read before it is written.
        """
        report = IndexReport()
        recent: Vectors = {}  # of the batch that is being written
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
        """Vectors of a batch; those of a document of many passages are kept in the store as they come."""

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
        commit = self.store.write(
            [*documents, *batch.carried.values()], batch.remove, origins=batch.origins, read=batch.read
        )
        self.done(batch.report.files + len(batch.report.skipped), batch.passages)
        return commit

    def _ahead(self, files: Sequence[FileEntry]) -> Iterator[_Batch]:
        """Batches, prepared in a separate thread."""
        waiting: queue.Queue[_Batch | BaseException | None] = queue.Queue(AHEAD)

        def put(item: _Batch | BaseException | None) -> None:
            while not self._ended.is_set():
                try:
                    waiting.put(item, timeout=0.1)
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
            except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
                put(error)

        thread = threading.Thread(target=work, name="reading", daemon=True)
        thread.start()
        try:
            while (item := waiting.get()) is not None:
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
                reason = str(error).removeprefix(f"{entry.path}: ")
                batch.report += IndexReport(skipped=((str(entry.path), reason),))
        if not batch.empty:
            yield batch

    def _file(self, entry: FileEntry) -> Iterator[_Batch]:
        """What a file brings, in parts; the last part says that it was read to its end."""
        path = str(entry.path)
        before = set(self.store.sources.documents(path))
        if self._nothing_to_read(entry):
            row = row_of(entry, NOTHING_TO_READ)
            yield _Batch(read=[row], remove=sorted(before), report=IndexReport(ignored=1, removed=len(before)))
            return
        digest = _digest(entry.path)
        documents = read(entry.path, self.largest)
        group = list(islice(documents, LOOKED_UP))
        if len(group) == LOOKED_UP:
            # Read through before anything is written, so that nothing of a file stays that breaks off in its midst.
            for _ in documents:
                pass
            documents = read(entry.path, self.largest)
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
        report = IndexReport(files=1, removed=len(before))
        yield _Batch(read=[row_of(entry, digest)], remove=sorted(before), report=report)

    def _nothing_to_read(self, entry: FileEntry) -> bool:
        """Whether a file is of no kind that is read; one that claims to be by its name is an error instead."""
        file = File(entry.path, self.largest)
        try:
            nothing = reader_of(file) is None and not has_reader(entry.path)
            return nothing and str(entry.path) not in self.named
        except OSError as error:
            raise IngestError(f"{entry.path}: cannot be read: {error.strerror or error}") from error

    def _carried(self, path: str, group: Sequence[Parsed]) -> _Batch | None:
        """A moved file's only document, with the passages and vectors that it had where it was."""
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
            carried={document.id: (document, rows)}, origins={document.id: path}, remove=before, report=report
        )

    def _compared(self, path: str, group: Sequence[Parsed]) -> _Batch:
        """Documents beside those of the store: what is new among them is cut."""
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
    """A document of many passages in parts of a batch each."""
    for start in range(0, len(whole.cuts), BATCH):
        part = slice(start, start + BATCH)
        yield Prepared(whole.document, whole.cuts[part], whole.texts[part], whole.digests[part])


def _digest(path: Path) -> bytes:
    try:
        return digest_of(path)
    except OSError as error:
        raise IngestError(f"{path}: cannot be read: {error.strerror or error}") from error
