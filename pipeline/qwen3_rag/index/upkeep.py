"""Maintenance of a store: rebuilds derived indexes in the background, and compacts removed passages."""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, StoreError, UnknownNameError
from qwen3_rag.forking import Forked
from qwen3_rag.index.approximate import build
from qwen3_rag.index.commit import Commit, IndexKind, IndexPolicy, SegmentName
from qwen3_rag.index.lists import Lists
from qwen3_rag.index.segment_worker import write_in_process
from qwen3_rag.index.segments import MAX_ROWS, Segment, merge, write_segment
from qwen3_rag.index.store import Store
from qwen3_rag.index.vectors import file_name

__all__ = ["INDEXES", "Upkeep"]

INDEXES: tuple[IndexKind, ...] = get_args(IndexKind)
LOCK = "upkeep.lock"  # held by the one process that builds derived files; readers and writers do not take it
TAIL = 16_384  # passages without a segment before one is written
SMALL = 2_048  # the same when the store is closed
WORTH_A_PROCESS = 16_384  # passages of a segment that is written in a separate process
SEGMENT = MAX_ROWS  # passages of a segment before merging
MERGED = 8  # adjacent segments of similar size that are merged into one
APPROXIMATE_FROM = 200_000  # passages; below, exact search takes milliseconds
INDEX_MEMORY = 1024  # MiB to build an index in, unless the store's settings say otherwise
Names = tuple[SegmentName, ...]
logger = logging.getLogger("qwen3_rag")


class Upkeep(Forked):
    """Builds and commits the derived files of a store.

    Args:
        store: The store.
        damaged: Returns the names of derived files that searches detected as damaged.
    """

    def __init__(self, store: Store, damaged: Callable[[], frozenset[str]] = frozenset) -> None:
        self.store, self.files, self.folder, self._damaged = store, store.files, store.folder, damaged
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Start without the parent's thread."""
        self._lock, self._stop, self._thread = threading.Lock(), threading.Event(), None

    def after_write(self) -> None:
        """Start whatever work is due in a background thread; returns immediately."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if busy or self._stop.is_set() or not self._due(TAIL):
                return
            self._thread = threading.Thread(target=self._run, name="qwen3-rag-upkeep", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the background thread, then write a segment for a long tail, so that the store opens fast next time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._guarded(lambda: self._words(SMALL))

    def _run(self) -> None:
        def work() -> None:
            while not self._stop.is_set() and self._due(TAIL):
                if not self._words(TAIL) and not self._dense(None):
                    return

        self._guarded(work)

    def _guarded(self, work: Callable[[], object]) -> None:
        """Run `work` unless another process is doing it. Failures are logged: no data is lost, search is slower."""
        try:
            self.files.check()
            with FileLock(str(self.folder / LOCK), timeout=0):
                work()
                self._sweep()
        except Timeout:
            pass
        except (StoreError, OSError, RuntimeError) as error:
            logger.warning("%s: the derived indexes were not rebuilt: %s", self.folder, error)

    def _due(self, tail: int) -> bool:
        commit = self.store.last_commit()
        return commit.rows - commit.covered >= tail or self._dense_due(commit)

    def _dense_due(self, commit: Commit) -> bool:
        policy = commit.policy
        if policy.kind == "flat" or (policy.kind == "auto" and commit.live < APPROXIMATE_FROM):
            return False
        # The last build missed the recall at this many passages; try again at twice as many.
        if policy.missed_at * 2 > commit.live:
            return False
        dense = commit.dense
        if dense is None or dense.file in self._damaged():
            return True
        return commit.rows - dense.rows > max(APPROXIMATE_FROM // 4, dense.rows // 5)

    def _words(self, tail: int) -> bool:
        """Write segments while the tail has `tail` passages, then merge; returns whether anything changed."""
        changed = False
        while not (self._stop.is_set() and tail != SMALL):
            commit = self.store.last_commit()
            names = self._intact(commit)
            first = names[-1].stop if names else 0
            rows = min(SEGMENT, commit.rows - first)
            if rows < tail:
                break
            name = self._segment(commit, first, rows)
            if not self._commit_words(commit, names, (*names, name)):
                break
            changed = True
        while not self._stop.is_set():
            commit = self.store.last_commit()
            names = self._intact(commit)
            if not (run := _mergeable(names)):
                break
            start = names.index(run[0])
            merged = self._merged(commit, run)
            if not self._commit_words(commit, names, (*names[:start], merged, *names[start + len(run) :])):
                break
            changed = True
        return changed

    def _segment(self, commit: Commit, first: int, rows: int) -> SegmentName:
        """Write a segment, in a separate process if it is large."""
        name = None
        if rows >= WORTH_A_PROCESS:
            name = write_in_process(self.files, commit.generation, first, rows)
        if name is not None:
            return name
        with self.store.snapshot():
            return write_segment(self.files, commit.generation, first, rows, self.store.searched(first, first + rows))

    def _merged(self, commit: Commit, names: Names) -> SegmentName:
        with self.store.snapshot():
            return merge(self.files, commit.generation, [Segment(self.files, name) for name in names])

    def _intact(self, commit: Commit) -> Names:
        """The commit's segments up to the first damaged one, which is rebuilt together with those after it."""
        damaged = self._damaged()
        return tuple(itertools.takewhile(lambda name: name.file not in damaged, commit.words))

    def _commit_words(self, before: Commit, old: Names, new: Names) -> bool:
        """Commit new segments, unless the passages were renumbered meanwhile."""
        with self.store.transaction() as transaction:
            commit = transaction.commit
            current = commit.generation == before.generation and self._intact(commit) == old
            if current:
                transaction.commit = replace(commit, words=new)
        if not current:
            for name in new:
                if name not in old:
                    self.files.unlink(name.file)
        return current

    def _dense(self, queries: NDArray[np.float32] | None, *, force: bool = False) -> bool:
        """Build the approximate index if it is due, or with `force`; returns whether it was committed."""
        with self.store.snapshot() as before:
            if not force and not self._dense_due(before):
                return False
            rows, live = self.store.rows(before), self.store.live(before)
            rows.check_all()
        count = before.rows // 8 * 8  # so that the tail starts at a whole byte of a bitmap
        memory = int((self.store.meta("settings") or {}).get("index_memory", INDEX_MEMORY)) << 20
        recall = before.policy.recall
        checkpoint = build(
            self.files, rows.values[:count], before.generation, live, recall, queries, self._stop, memory
        )
        if self._stop.is_set() and checkpoint is None:
            return False
        with self.store.transaction() as transaction:
            commit = transaction.commit
            current = commit.generation == before.generation
            if current and checkpoint is not None:
                transaction.commit = replace(commit, dense=checkpoint)
            elif current:
                transaction.commit = replace(commit, policy=replace(commit.policy, missed_at=before.live))
        if not current and checkpoint is not None:
            self.files.unlink(checkpoint.file)
        return current and checkpoint is not None

    def optimize(self, index: str, recall: float, queries: NDArray[np.float32] | None) -> None:
        """Free the space of removed passages, and rebuild the derived indexes.

        Args:
            index: "auto", "flat" or "ivf"; stored for later builds.
            recall: Required recall@100 of an approximate index; stored for later builds.
            queries: Unit vectors (n, dimensions) to measure recall on; None derives them from passages.

        Raises:
            UnknownNameError: `index` is another value.
            StoreLockedError: Another process writes for more than an hour.
            StoreReadOnlyError: This process may not write the store.
        """
        if index not in INDEXES:
            raise UnknownNameError("index", index, list(INDEXES))
        policy = IndexPolicy(index, recall)
        self.store.require_writable()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._stop.clear()
        self.files.check()
        with FileLock(str(self.folder / LOCK)):
            try:
                self._set(policy)
                self.store.compact(self._renumbered_words)
                self._words(1)
                self._merge_all()
                if index == "ivf" or (index == "auto" and self.store.last_commit().live >= APPROXIMATE_FROM):
                    self._dense(queries, force=True)
                self.store.shrink()
            finally:
                with suppress(StoreError, OSError):
                    self._sweep()

    def _set(self, policy: IndexPolicy) -> None:
        with self.store.transaction() as transaction:
            commit = replace(transaction.commit, policy=policy)
            transaction.commit = replace(commit, dense=None) if policy.kind == "flat" else commit

    def _merge_all(self) -> None:
        commit = self.store.last_commit()
        names = self._intact(commit)
        if len(names) > 1:
            self._commit_words(commit, names, (self._merged(commit, names),))

    def _renumbered_words(self, generation: int, renumbered: NDArray[np.int64]) -> Sequence[SegmentName]:
        """Merge the segments into one of a new generation, within its transaction."""
        with suppress(IndexCorruptedError):
            segments = [Segment(self.files, name) for name in self._intact(self.store.last_commit())]
            if segments:
                return [merge(self.files, generation, segments, renumbered)]
        return []

    def _sweep(self) -> None:
        """Delete derived and vector files that the last commit does not refer to."""
        commit = self.store.last_commit()
        in_use = commit.derived | {file_name(commit.generation)}
        for name in self.files.names():
            if name.startswith(("words-", "dense-", "vectors-")) and name not in in_use:
                with suppress(OSError):
                    self.files.unlink(name)

    def verify(self) -> list[str]:
        """Check every derived file; returns a message for each damaged one."""
        commit, faults = self.store.last_commit(), []
        opened: list[Callable[[], Segment | Lists]] = [partial(Segment, self.files, name) for name in commit.words]
        if commit.dense is not None:
            opened.append(partial(Lists, self.files, commit.dense))
        for open_file in opened:
            try:
                open_file().checksums.check_all()
            except IndexCorruptedError as error:
                faults.append(str(error))
        return faults


def _mergeable(names: Names) -> Names:
    """The last MERGED adjacent segments of similar size; empty if there are none."""
    sizes = [int(np.log(max(1, name.rows / SMALL)) / np.log(MERGED)) for name in names]
    for start in range(len(names) - MERGED, -1, -1):
        if len(set(sizes[start : start + MERGED])) == 1:
            return names[start : start + MERGED]
    return ()
