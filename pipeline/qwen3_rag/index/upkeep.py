"""Maintenance of a store: rebuilds derived indexes in the background, and compacts removed passages."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, StoreError, UnknownNameError
from qwen3_rag.forking import Forked
from qwen3_rag.index import bitmap
from qwen3_rag.index.approximate import Approximate, Checkpoint, build
from qwen3_rag.index.database import Run
from qwen3_rag.index.segment_worker import write_in_process
from qwen3_rag.index.segments import MAX_ROWS, Segment, SegmentName, merge, write_segment
from qwen3_rag.index.store import State, Store
from qwen3_rag.index.vectors import file_name

__all__ = ["INDEXES", "Upkeep"]

INDEXES = ("auto", "flat", "ivf")
LOCK = "upkeep.lock"  # held by the one process that builds derived files; readers and writers do not take it
TAIL = 16_384  # passages without a segment before one is written
SMALL = 2_048  # the same when the store is closed
WORTH_A_PROCESS = 16_384  # passages of a segment that is written in a separate process
SEGMENT = MAX_ROWS  # passages of a segment before merging
MERGED = 8  # adjacent segments of similar size that are merged into one
APPROXIMATE_FROM = 200_000  # passages; below, exact search takes milliseconds
CHUNK = 65_536  # rows copied at a time
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
                if not self._words(TAIL) and not self._dense(self._recall(), None):
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

    def _recall(self) -> float:
        return float((self.store.meta("index") or {}).get("recall", 0.99))

    def _due(self, tail: int) -> bool:
        with self.store.snapshot():
            state = self.store.state()
            if state.rows - self._covered() >= tail:
                return True
            return self._dense_due(state)

    def _covered(self) -> int:
        words = self.store.meta("words") or []
        return int(words[-1]["first"] + words[-1]["rows"]) if words else 0

    def _dense_due(self, state: State) -> bool:
        policy = self.store.meta("index") or {"kind": "auto"}
        if policy["kind"] == "flat" or (policy["kind"] == "auto" and state.live < APPROXIMATE_FROM):
            return False
        # The last build missed the recall at this many passages; try again at twice as many.
        if policy.get("hopeless", 0) * 2 > state.live:
            return False
        dense = self.store.meta("dense")
        if dense is None or dense["file"] in self._damaged():
            return True
        return bool(state.rows - dense["rows"] > max(APPROXIMATE_FROM // 4, dense["rows"] // 5))

    def _words(self, tail: int) -> bool:
        """Write segments while the tail has `tail` passages, then merge; returns whether anything changed."""
        changed = False
        while not (self._stop.is_set() and tail != SMALL):
            with self.store.snapshot():
                state, names = self.store.state(), self._names()
                first = names[-1].first + names[-1].rows if names else 0
                rows = min(SEGMENT, state.rows - first)
            if rows < tail:
                break
            name = self._segment(state, first, rows)
            if not self._commit_words(state, names, [*names, name]):
                break
            changed = True
        while len(run := _mergeable(self._names())) > 1 and not self._stop.is_set():
            with self.store.snapshot():
                state, names = self.store.state(), self._names()
                merged = merge(self.files, state.generation, [Segment(self.files, name) for name in run])
            positions = [i for i, name in enumerate(names) if name in run]
            if not self._commit_words(state, names, [*names[: positions[0]], merged, *names[positions[-1] + 1 :]]):
                break
            changed = True
        return changed

    def _segment(self, state: State, first: int, rows: int) -> SegmentName:
        """Write a segment, in a separate process if it is large."""
        name = None
        if rows >= WORTH_A_PROCESS:
            name = write_in_process(self.files, state.generation, first, rows)
        if name is not None:
            return name
        with self.store.snapshot():
            return write_segment(self.files, state.generation, first, rows, self.store.searched(first, first + rows))

    def _names(self) -> list[SegmentName]:
        """The commit's segments up to the first damaged one, which is rebuilt together with those after it."""
        names: list[SegmentName] = []
        for values in self.store.meta("words") or []:
            if values["file"] in self._damaged():
                break
            names.append(SegmentName(**values))
        return names

    def _commit_words(self, before: State, old: list[SegmentName], new: list[SegmentName]) -> bool:
        """Commit new segments, unless the passages were renumbered meanwhile."""
        with self.store.transaction():
            current = self.store.state().generation == before.generation and self._names() == old
            if current:
                self.store.database.put("words", [name.describe() for name in new])
        if not current:
            for name in new:
                if name not in old:
                    self.files.unlink(name.file)
        return current

    def _dense(self, recall: float, queries: NDArray[np.float32] | None, *, force: bool = False) -> bool:
        """Build the approximate index if it is due, or with `force`; returns whether it was committed."""
        with self.store.snapshot():
            state = self.store.state()
            if not force and not self._dense_due(state):
                return False
            vectors = self._checked_rows(state)
            live = self.store.live(state)
        rows = state.rows // 8 * 8  # so that the tail starts at a whole byte of a bitmap
        memory = int((self.store.meta("settings") or {}).get("index_memory", 1024)) << 20
        checkpoint = build(self.files, vectors[:rows], state.generation, live, recall, queries, self._stop, memory)
        if self._stop.is_set() and checkpoint is None:
            return False
        with self.store.transaction():
            current = self.store.state().generation == state.generation
            if current and checkpoint is not None:
                self.store.database.put("dense", checkpoint.describe())
            elif current:
                policy = self.store.meta("index") or {"kind": "auto", "recall": recall}
                self.store.database.put("index", {**policy, "hopeless": state.live})
        if not current and checkpoint is not None:
            self.files.unlink(checkpoint.file)
        return current and checkpoint is not None

    def _checked_rows(self, state: State) -> NDArray[Any]:
        file = self.store.file(state.generation)
        vectors, _ = file.map(state.rows)
        file.check(vectors, None, self.store.database.run)
        return vectors

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
        self.store.database.require_writable()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._stop.clear()
        self.files.check()
        with FileLock(str(self.folder / LOCK)):
            try:
                with self.store.transaction():
                    self.store.database.put("index", {"kind": index, "recall": recall})
                    if index == "flat":
                        self.store.database.put("dense", None)
                self._compact()
                self._words(1)
                self._merge_all()
                if index == "ivf" or (index == "auto" and self.store.state().live >= APPROXIMATE_FROM):
                    self._dense(recall, queries, force=True)
                self.store.database.shrink()
            finally:
                with suppress(StoreError, OSError):
                    self._sweep()

    def _merge_all(self) -> None:
        with self.store.snapshot():
            state, names = self.store.state(), self._names()
            if len(names) < 2:
                return
            merged = merge(self.files, state.generation, [Segment(self.files, name) for name in names])
        self._commit_words(state, names, [merged])

    def _compact(self) -> None:
        """Renumber the passages without the removed ones: write new files, then commit them."""
        new_files: list[str] = []
        try:
            with self.store.transaction() as run:
                state = self.store.state()
                live = self.store.live(state)
                if live is None:
                    return
                vectors = self._checked_rows(state)
                rows = bitmap.to_rows(live)
                renumbered = np.full(state.rows, -1, dtype=np.int64)
                renumbered[rows] = np.arange(len(rows))
                generation = state.generation + 1
                new_files.append(file_name(generation))
                run("DELETE FROM blocks")
                with self.store.file(generation).appending(0, self.store.database) as append:
                    for start in range(0, len(rows), CHUNK):
                        append(vectors[rows[start : start + CHUNK]])
                words = self._renumbered_words(generation, renumbered)
                new_files += [name.file for name in words]
                self._renumber(run, renumbered)
                put = self.store.database.put
                for key, value in {"generation": generation, "rows": len(rows), "removed": 0, "dense": None}.items():
                    put(key, value)
                put("words", [name.describe() for name in words])
        except BaseException:
            with suppress(StoreError, OSError):
                for name in new_files:
                    self.files.unlink(name)
            raise

    def _renumbered_words(self, generation: int, renumbered: NDArray[np.int64]) -> list[SegmentName]:
        with suppress(IndexCorruptedError):
            segments = [Segment(self.files, name) for name in self._names()]
            if segments:
                return [merge(self.files, generation, segments, renumbered)]
        return []

    def _renumber(self, run: Run, renumbered: NDArray[np.int64]) -> None:
        numbers = renumbered.tolist()
        connection = self.store.database.connection
        renumber: Callable[..., int] = numbers.__getitem__
        connection.create_scalar_function("renumbered", renumber, 1, deterministic=True)
        try:
            # Ascending, and no number ever grows, so that two rows never have the same number.
            run("UPDATE passages SET number = renumbered(number)")
            run("UPDATE documents SET first = CASE passages WHEN 0 THEN 0 ELSE renumbered(first) END")
            run("UPDATE fields SET first = renumbered(first)")
            run("DELETE FROM removed")
        finally:
            connection.create_scalar_function("renumbered", None, 1)

    def _sweep(self) -> None:
        """Delete derived and vector files that the last commit does not refer to."""
        with self.store.snapshot():
            state = self.store.state()
            dense, words = self.store.meta("dense"), self.store.meta("words") or []
        in_use = {values["file"] for values in [*words, *([dense] if dense else [])]} | {file_name(state.generation)}
        for name in self.files.names():
            if name.startswith(("words-", "dense-", "vectors-")) and name not in in_use:
                with suppress(OSError):
                    self.files.unlink(name)

    def verify(self) -> list[str]:
        """Check every derived file; returns a message for each damaged one."""
        faults = []
        for values in self.store.meta("words") or []:
            try:
                Segment(self.files, SegmentName(**values)).checksums.check_all()
            except IndexCorruptedError as error:
                faults.append(str(error))
        if values := self.store.meta("dense"):
            try:
                Approximate(self.files, Checkpoint(**values)).checksums.check_all()
            except IndexCorruptedError as error:
                faults.append(str(error))
        return faults


def _mergeable(names: list[SegmentName]) -> list[SegmentName]:
    """The last MERGED adjacent segments of similar size; empty if there are none."""
    sizes = [int(np.log(max(1, name.rows / SMALL)) / np.log(MERGED)) for name in names]
    for start in range(len(names) - MERGED, -1, -1):
        if len(set(sizes[start : start + MERGED])) == 1:
            return names[start : start + MERGED]
    return []
