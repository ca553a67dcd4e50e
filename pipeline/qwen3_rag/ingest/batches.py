"""Files as batches of documents: each is read, compared with the store, and split if it is new or changed."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from qwen3_rag.errors import IngestError
from qwen3_rag.index.passages import PassageRow
from qwen3_rag.index.sources import BY_HAND, SourceRow
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.files import ContentError, File, NotInstalledError
from qwen3_rag.ingest.indexer import BATCH, Prepared, prepare
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.planning import NOTHING_TO_READ, digest_of, row_of, still
from qwen3_rag.ingest.readers import has_reader, read, reader_of
from qwen3_rag.ingest.walking import FileEntry
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.records import Document, IndexReport, same_as_stored
from qwen3_rag.settings import Settings

__all__ = ["Batch", "Batches"]

LOOKED_UP = 64  # documents compared with the store at once
logger = logging.getLogger("qwen3_rag")


@dataclass
class Batch:
    """The content of one commit, or a part of it."""

    prepared: dict[str, Prepared] = field(default_factory=dict)
    carried: dict[str, tuple[Document, list[PassageRow]]] = field(default_factory=dict)
    pages: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the carried documents
    origins: dict[str, str] = field(default_factory=dict)
    read: list[SourceRow] = field(default_factory=list)
    losers: set[str] = field(default_factory=set)  # files with documents that a later file has too
    vanished: dict[str, str] = field(default_factory=dict)  # id to the file that no longer has it
    report: IndexReport = field(default_factory=IndexReport)

    def take(self, part: "Batch") -> None:
        """Add a part; of documents with the same id, the later one is kept."""
        for name in (part.prepared | part.carried).keys() & (self.prepared | self.carried).keys():
            self.prepared.pop(name, None)
            self.carried.pop(name, None)
            logger.warning("document %r comes from more than one place; the last is kept", name)
        self.prepared |= part.prepared
        self.carried |= part.carried
        self.pages |= part.pages
        both = self.origins.keys() & part.origins.keys()
        self.losers |= part.losers | {self.origins[n] for n in both if self.origins[n] != part.origins[n]}
        self.origins |= part.origins
        self.read += part.read
        # Do not remove a document that this part adds again under the same id.
        self.vanished = {n: path for n, path in (self.vanished | part.vanished).items() if n not in part.origins}
        self.report += part.report

    @property
    def failed(self) -> int:
        """How many files are skipped and not read in part."""
        return len({path for path, _ in self.report.skipped} - set(self.origins.values()))

    @property
    def passages(self) -> int:
        """Number of its passages."""
        return sum(len(p.cuts) for p in self.prepared.values()) + sum(len(rows) for _, rows in self.carried.values())

    @property
    def full(self) -> bool:
        """Whether the batch is large enough to write."""
        return self.passages >= BATCH or len(self.origins) + len(self.read) + len(self.vanished) >= 4 * BATCH

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write or to report."""
        return not (self.origins or self.read or self.vanished or self.report != IndexReport())

    def groups(self) -> Iterator[list[Prepared]]:
        """Its documents, long ones in parts, in groups of about `BATCH` passages to embed at once."""
        group: list[Prepared] = []
        for part in (part for each in self.prepared.values() for part in _slices(each)):
            group.append(part)
            if sum(len(each.cuts) for each in group) >= BATCH:
                yield group
                group = []
        if group:
            yield group


def _slices(whole: Prepared) -> Iterator[Prepared]:
    """Split a document's passages into parts of at most one batch."""
    for start in range(0, len(whole.cuts), BATCH):
        part = slice(start, start + BATCH)
        yield Prepared(whole.document, whole.pages, whole.cuts[part], whole.texts[part], whole.digests[part])


@dataclass(frozen=True)
class Batches:
    """Reads files, compares their documents with the store, and splits those that are new or changed.

    Attributes:
        store: The store to compare with.
        embedder: Its tokens measure passages.
        settings: How documents are split.
        named: Paths passed explicitly; an unsupported format among them is an error.
        moved: Previous paths of moved files, by current path.
        strict: Whether a file that cannot be read ends the run.
        largest: Maximum size in bytes of a file that is read into memory.
        seconds: Maximum time that parsing a file in another process may take.
        reread: Whether unchanged documents are split and written again.
    """

    store: Store
    embedder: EmbedderProtocol
    settings: Settings
    named: frozenset[str]
    moved: Mapping[str, str]
    strict: bool
    largest: int
    seconds: float
    reread: bool
    _missing: set[str] = field(default_factory=set)  # packages that are not installed, and were named

    def of(self, files: Sequence[FileEntry]) -> Iterator[Batch]:
        """Yield batches that are large enough to write.

        Raises:
            IngestError: With `strict`, a file that cannot be read; the batch before it is yielded.
        """
        batch = Batch()
        for entry in files:
            try:
                for part in self._file(entry):
                    batch.take(part)
                    if batch.full:
                        yield batch
                        batch = Batch()
            except IngestError as error:
                if self.strict:
                    yield batch
                    raise
                batch.take(self._failed(entry, error))
        if not batch.empty:
            yield batch

    def _failed(self, entry: FileEntry, error: IngestError) -> Batch:
        """The report of a file that cannot be read; if its content is to blame, it is recorded as read."""
        reason = self._once(str(error).removeprefix(f"{entry.path}: "), error)
        batch = Batch(report=IndexReport(skipped=((str(entry.path), reason),)))
        with suppress(IngestError):  # gone meanwhile
            if isinstance(error, ContentError):
                row = row_of(entry, _digest(entry.path), reason)
                batch.read += [row] if still(entry) else []
        return batch

    def _once(self, reason: str, error: IngestError) -> str:
        """The reason; of a missing package, the command that installs it is named once."""
        if not isinstance(error, NotInstalledError):
            return reason
        package = reason.partition(", which is not installed")[0]
        named = package in self._missing
        self._missing.add(package)
        return package if named else reason

    def _file(self, entry: FileEntry) -> Iterator[Batch]:
        """A file's documents in parts; the last part records the file as read."""
        path = str(entry.path)
        before = set(self.store.sources.documents(path))
        if self._nothing_to_read(entry):
            yield Batch(
                read=[row_of(entry, NOTHING_TO_READ)],
                vanished=dict.fromkeys(sorted(before), path),
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
            compared = self._compared(path, group)
            partial = partial or next((reason for _, reason in compared.report.skipped), "")
            yield compared
            before -= {parsed.document.id for parsed in group}
            group = list(islice(documents, LOOKED_UP))
        if not still(entry):
            raise IngestError(f"{path}: changed while it was read; the next run reads it again")
        skipped = ((path, partial),) if partial and BY_HAND not in partial else ()
        report = IndexReport(files=1, removed=len(before), skipped=skipped)
        yield Batch(read=[row_of(entry, digest, partial)], vanished=dict.fromkeys(sorted(before), path), report=report)

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

    def _carried(self, path: str, group: Sequence[Parsed]) -> Batch | None:
        """The document of a moved one-document file, with the passages and vectors stored under its previous path."""
        before = self.store.sources.documents(self.moved[path]) if path in self.moved else []
        if len(group) != 1 or len(before) != 1 or before[0] == group[0].document.id:
            return None
        if self.store.sources.by_hand([group[0].document.id]):
            return None
        document = group[0].document
        (stored,) = self.store.get(before)
        if stored is None or stored.text != document.text:
            return None
        return Batch(
            carried={document.id: (document, self.store.rows_of(before[0]))},
            pages={document.id: group[0].pages},
            origins={document.id: path},
            vanished=dict.fromkeys(before, self.moved[path]),
            report=IndexReport(documents=1, moved=1),
        )

    def _compared(self, path: str, group: Sequence[Parsed]) -> Batch:
        """Compare documents with the stored ones; split those that are new or changed."""
        by_hand = set(self.store.sources.by_hand([parsed.document.id for parsed in group]))
        group = [parsed for parsed in group if parsed.document.id not in by_hand]
        names = [parsed.document.id for parsed in group]
        stored = dict(zip(names, self.store.get(names), strict=True))
        new = {
            parsed.document.id: parsed
            for parsed in group
            if self.reread or not same_as_stored(parsed.document, stored[parsed.document.id])
        }
        prepared = {name: prepare(parsed, self.embedder, self.settings) for name, parsed in new.items()}
        reason = f"documents such as {min(by_hand)!r} {BY_HAND}; these stay" if by_hand else ""
        skipped = ((path, reason),) if reason else ()
        report = IndexReport(documents=len(new), unchanged=len(stored) - len(new), skipped=skipped)
        return Batch(prepared=prepared, origins=dict.fromkeys(names, path), report=report)


def _digest(path: Path) -> bytes:
    try:
        return digest_of(path)
    except OSError as error:
        raise IngestError(f"{path}: cannot be read: {error.strerror or error}") from error
