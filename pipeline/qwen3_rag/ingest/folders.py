"""Synchronize a store with files and folders."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.files import LARGEST, SECONDS
from qwen3_rag.ingest.planning import Plan, look
from qwen3_rag.ingest.streaming import Stream
from qwen3_rag.ingest.walking import Selection, Walk
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.progress import progress
from qwen3_rag.records import IndexReport
from qwen3_rag.settings import Settings

__all__ = ["Folders", "Paths"]

FORGOTTEN_AT_ONCE = 64  # deleted files removed in one commit
SETTLING = 0.5  # seconds without a change before a watched folder is read
Paths = str | Path | Sequence[str | Path]
logger = logging.getLogger("qwen3_rag")


@dataclass(frozen=True)
class Folders:
    """Files and folders with which a store is synchronized.

    Attributes:
        store: The store.
        embedder: Embeds the passages.
        settings: How documents are split.
        roots: Absolute paths of the files and folders.
        selection: Which files of the folders to read.
        remove: Whether to remove documents whose files no longer exist.
        strict: Whether a file that cannot be read ends the run.
        largest: Maximum size in bytes of a file read into memory; formats with one document per line are streamed.
        seconds: Maximum time that parsing a PDF, HTML, Word or EPUB file may take; a longer one is skipped.
        emptied: Whether to remove the documents of a root that is now empty.
        reread: Whether to read and split unchanged files again, for example after a reader changed.
        written: Called after each commit.
    """

    store: Store
    embedder: EmbedderProtocol
    settings: Settings
    roots: Sequence[Path]
    selection: Selection = field(default_factory=Selection)
    remove: bool = True
    strict: bool = False
    largest: int = LARGEST
    seconds: float = SECONDS
    emptied: bool = False
    reread: bool = False
    written: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        at_least(self.largest, 1, "largest")

    @staticmethod
    def roots_of(paths: Paths) -> list[Path]:
        """Absolute paths of a path or a list of paths.

        Raises:
            IngestError: A path does not exist.
            InvalidArgumentError: `paths` is neither a path nor a list.
        """
        if not isinstance(paths, str | Path | Sequence):
            raise InvalidArgumentError(f"paths is {paths!r}; expected a path or a list of paths")
        return Walk.roots_of([paths] if isinstance(paths, str | Path) else paths)

    def plan(self) -> Plan:
        """Compare the files with the store, without changing anything.

        Raises:
            IngestError: With `strict`, a file or folder that cannot be read.
        """
        known = self.store.sources.all([str(root) for root in self.roots])
        plan = look(self.roots, self.selection, known, self.remove, self.emptied, self.reread)
        if self.strict and plan.skipped:
            path, reason = plan.skipped[0]
            raise IngestError(f"{path}: {reason}")
        return plan

    def run(self, show_progress: bool) -> IndexReport:
        """Synchronize once.

        Raises:
            IngestError: With `strict`, a file or folder that cannot be read; files before it are still written.
        """
        plan = self.plan()
        report = IndexReport(files_unchanged=plan.unchanged, skipped=tuple(plan.skipped))
        if plan.touched:
            self.store.write([], read=plan.touched)
        if plan.to_read:
            size = sum(entry.size for entry in plan.to_read)
            with progress("indexing", len(plan.to_read), show_progress, "files", "passages", size) as count:

                def done(files: int, passages: int, size: int) -> None:
                    self.written()
                    count(files, passages, size)

                stream = Stream(
                    self.store,
                    self.embedder,
                    self.settings,
                    named=[str(root) for root in self.roots],
                    moved=plan.moved,
                    strict=self.strict,
                    largest=self.largest,
                    seconds=self.seconds,
                    reread=self.reread,
                    done=done,
                )
                report += stream.run(plan.to_read)
        report += self._forget(plan.gone)
        self.store.unstage()
        for path, reason in report.skipped:
            logger.warning("skipped %s: %s", path, reason)
        return report

    def _forget(self, gone: Sequence[str]) -> IndexReport:
        removed = 0
        for start in range(0, len(gone), FORGOTTEN_AT_ONCE):
            paths = gone[start : start + FORGOTTEN_AT_ONCE]
            ids = [name for path in paths for name in self.store.sources.documents(path)]
            self.store.write([], remove=ids, forget=paths)
            self.written()
            removed += len(ids)
        return IndexReport(removed=removed)

    def watch(self, show_progress: bool) -> Iterator[IndexReport]:
        """Synchronize now and after every change until interrupted; yield the first report and each with changes."""
        from qwen3_rag.ingest.files import imported

        watchfiles = imported(lambda: __import__("watchfiles"), "watchfiles", "folders as they change")
        yield self.run(show_progress)
        changes = watchfiles.watch(
            *self.roots,
            watch_filter=None,
            debounce=int(SETTLING * 1000),
            rust_timeout=60_000,
            yield_on_timeout=True,  # catches missed changes, such as on a network drive, within a minute
            raise_interrupt=False,
        )
        for _ in changes:
            report = self.run(show_progress)
            if report.documents or report.removed:
                yield report
