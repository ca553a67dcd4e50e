"""Synchronize a store with files and folders."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.index.sources import BY_HAND
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.files import LARGEST, SECONDS, imported
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
QUIET = 2.0  # seconds that a file in a watched folder has not changed before it is read
LOOK = 1.0  # seconds between looks at whether a watched folder was replaced, or waiting files are quiet
SWEEP = 60.0  # seconds between syncs of a watched folder without a change
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
        force: Whether to remove the documents of a root of which most files are gone.
        reread: Whether to read and split unchanged files again, for example after a reader changed.
        retry: Whether to read files again whose content could not be read.
        quiet: Seconds for which a file has to be unchanged before it is read; younger ones wait for a later run.
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
    force: bool = False
    reread: bool = False
    retry: bool = False
    quiet: float = 0.0
    written: Callable[[], None] = lambda: None
    _said: set[tuple[str, str]] = field(default_factory=set)  # so that watching does not repeat what it skips

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
        plan = look(
            self.roots, self.selection, known, self.remove, force=self.force, reread=self.reread, retry=self.retry
        )
        plan.wait(self.quiet)
        unreadable = [each for each in plan.skipped if Path(each[0]) not in plan.withheld and BY_HAND not in each[1]]
        if self.strict and unreadable:
            path, reason = unreadable[0]
            raise IngestError(f"{path}: {reason}")
        return plan

    def run(self, show_progress: bool, plan: Plan | None = None) -> IndexReport:
        """Synchronize once.

        Args:
            show_progress: A bar on a terminal, log lines elsewhere.
            plan: What to do; None looks at the files first.

        Raises:
            IngestError: With `strict`, a file or folder that cannot be read; files before it are still written.
        """
        plan = self.plan() if plan is None else plan
        withheld = sum(gone for gone, _ in plan.withheld.values())
        report = IndexReport(files_unchanged=plan.unchanged, skipped=tuple(plan.skipped), withheld=withheld)
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
            if (path, reason) not in self._said:
                self._said.add((path, reason))
                logger.warning("skipped %s: %s", path, reason)
        return report

    def _forget(self, gone: Sequence[str]) -> IndexReport:
        removed = 0
        for start in range(0, len(gone), FORGOTTEN_AT_ONCE):
            paths = gone[start : start + FORGOTTEN_AT_ONCE]
            vanished = {name: path for path in paths for name in self.store.sources.documents(path)}
            self.store.write([], vanished=vanished, forget=paths)
            self.written()
            removed += len(vanished)
        return IndexReport(removed=removed)

    def watch(self, show_progress: bool) -> Iterator[IndexReport]:
        """Synchronize now and after every change until interrupted; yield the first report and each with changes.

        Files that are being written wait until they have not changed for a while. A folder that is replaced, or is
        missing for a time, is watched again.
        """
        watchfiles = imported(lambda: __import__("watchfiles"), "watchfiles", "folders as they change")
        following = replace(self, quiet=QUIET)
        plan = following.plan()
        yield following.run(show_progress, plan)
        swept = time.monotonic()
        while True:
            identities = [_identity(root) for root in self.roots]
            changes = watchfiles.watch(
                *(root for root in self.roots if root.exists()),
                watch_filter=None,
                debounce=int(SETTLING * 1000),
                rust_timeout=int(LOOK * 1000),
                yield_on_timeout=True,
                raise_interrupt=False,
            )
            ended = True
            for change in changes:
                # A sweep catches missed changes, such as on a network drive, within a minute.
                if change or plan.waiting or time.monotonic() - swept > SWEEP:
                    swept, plan = time.monotonic(), following.plan()
                    report = following.run(show_progress, plan)
                    if report.documents or report.removed:
                        yield report
                if identities != [_identity(root) for root in self.roots]:
                    ended, swept = False, float("-inf")  # what is there now has not been looked at
                    break
            if ended:
                return


def _identity(root: Path) -> tuple[int, int] | None:
    """What tells a folder from another one at the same path; None if it is not there."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
