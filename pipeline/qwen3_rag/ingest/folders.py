"""Bringing a store in step with files and folders."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.files import LARGEST
from qwen3_rag.ingest.planning import Plan, look
from qwen3_rag.ingest.streaming import Stream
from qwen3_rag.ingest.walking import Selection, Walk
from qwen3_rag.models.embedder import EmbedderProtocol
from qwen3_rag.progress import progress
from qwen3_rag.records import IndexReport
from qwen3_rag.settings import Settings

__all__ = ["Folders", "Paths"]

FORGOTTEN_AT_ONCE = 64  # files that are gone, in one commit
SETTLING = 0.5  # seconds without a change after which a watched folder is read
Paths = str | Path | Sequence[str | Path]
logger = logging.getLogger("qwen3_rag")


@dataclass(frozen=True)
class Folders:
    """Files and folders that a store is kept in step with.

    Attributes:
        store: The store.
        embedder: What embeds their passages.
        settings: How they are cut.
        roots: Full paths.
        selection: Which files of the folders to read.
        remove: Whether documents are removed whose files are gone.
        strict: Whether a file that cannot be read ends the run.
        largest: Bytes of a file that is read as a whole; formats with a document each line are streamed.
        emptied: Whether documents are removed even where a root has no entry left at all.
        reread: Whether files are read and cut again that are as they were, as after a change of their reader.
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
    emptied: bool = False
    reread: bool = False
    written: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        at_least(self.largest, 1, "largest")

    @staticmethod
    def roots_of(paths: Paths) -> list[Path]:
        """Full paths of a path or a list of paths.

        Raises:
            IngestError: One is not there.
        """
        if not isinstance(paths, str | Path | Sequence):
            raise InvalidArgumentError(f"paths is {paths!r}; expected a path or a list of paths")
        return Walk.roots_of([paths] if isinstance(paths, str | Path) else paths)

    def plan(self) -> Plan:
        """What has to be done; nothing is changed.

        Raises:
            IngestError: With `strict`, a folder that cannot be read.
        """
        known = self.store.sources.all([str(root) for root in self.roots])
        plan = look(self.roots, self.selection, known, self.remove, self.emptied, self.reread)
        if self.strict and plan.skipped:
            path, reason = plan.skipped[0]
            raise IngestError(f"{path}: {reason}")
        return plan

    def run(self, show_progress: bool) -> IndexReport:
        """Do it.

        Raises:
            IngestError: With `strict`, something that cannot be read; what came before it is written.
        """
        plan = self.plan()
        report = IndexReport(files_unchanged=plan.unchanged, skipped=tuple(plan.skipped))
        if plan.touched:
            self.store.write([], read=plan.touched)
        if plan.to_read:
            with progress("indexing", len(plan.to_read), show_progress, unit="files", part="passages") as count:

                def done(files: int, passages: int) -> None:
                    self.written()
                    count(files, passages)

                stream = Stream(
                    self.store,
                    self.embedder,
                    self.settings,
                    named=[str(root) for root in self.roots],
                    moved=plan.moved,
                    strict=self.strict,
                    largest=self.largest,
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
        """Do it now, and again whenever something changes, until interrupted; a report each time something was done."""
        from qwen3_rag.ingest.files import imported

        watchfiles = imported(lambda: __import__("watchfiles"), "watchfiles", "folders as they change")
        yield self.run(show_progress)
        changes = watchfiles.watch(
            *self.roots,
            watch_filter=None,
            debounce=int(SETTLING * 1000),
            rust_timeout=60_000,
            yield_on_timeout=True,  # a change missed, on a network drive for instance, is noticed a minute later
            raise_interrupt=False,
        )
        for _ in changes:
            report = self.run(show_progress)
            if report.documents or report.removed:
                yield report
