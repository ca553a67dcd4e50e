"""What keeps a store fast: derived indexes renewed in the background of writing, and room of removed passages back."""

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
from qwen3_rag.index import bits as sets
from qwen3_rag.index.approximate import Approximate, Checkpoint, build
from qwen3_rag.index.cutting import write_beside
from qwen3_rag.index.database import Run
from qwen3_rag.index.segments import MOST_ROWS, Segment, SegmentName, merge, write_segment
from qwen3_rag.index.store import State, Store
from qwen3_rag.index.vectors import file_name

__all__ = ["INDEXES", "Upkeep"]

INDEXES = ("auto", "flat", "ivf")
LOCK = "upkeep.lock"  # one process at a time makes derived files; held by nobody who reads or writes
TAIL = 16_384  # passages without a segment that are worth one
SMALL = 2_048  # the same when the store is closed
WORTH_A_PROCESS = 16_384  # passages
SEGMENT = MOST_ROWS  # passages of a segment at most, before merging
MERGED = 8  # neighbours of like size that become one
APPROXIMATE_FROM = 200_000  # passages; below, exact search takes milliseconds
CHUNK = 65_536  # rows copied at a time
logger = logging.getLogger("qwen3_rag")


class Upkeep(Forked):
    """Makes and names the derived files of a store.

    Args:
        store: The store.
        damaged: Gives the derived files that searches found damaged.
    """

    def __init__(self, store: Store, damaged: Callable[[], frozenset[str]] = frozenset) -> None:
        self.store, self.files, self.folder, self._damaged = store, store.files, store.folder, damaged
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Begin without the parent's thread."""
        self._lock, self._stop, self._thread = threading.Lock(), threading.Event(), None

    def after_write(self) -> None:
        """Begin, in a thread, whatever has come due; returns at once."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if busy or self._stop.is_set() or not self._due(TAIL):
                return
            self._thread = threading.Thread(target=self._run, name="qwen3-rag-upkeep", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the work of the thread, then cover the tail, if it is long, so that the next opening is fast."""
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
        """Do it unless another process is at it. What fails is logged: nothing is lost, searches take longer."""
        try:
            self.files.check()
            with FileLock(str(self.folder / LOCK), timeout=0):
                work()
                self._sweep()
        except Timeout:
            pass
        except (StoreError, OSError, RuntimeError) as error:
            logger.warning("%s: the derived indexes were not renewed: %s", self.folder, error)

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
        # So many passages were tried in vain: with as many again it may be another matter.
        if policy.get("hopeless", 0) * 2 > state.live:
            return False
        dense = self.store.meta("dense")
        if dense is None or dense["file"] in self._damaged():
            return True
        return bool(state.rows - dense["rows"] > max(APPROXIMATE_FROM // 4, dense["rows"] // 5))

    def _words(self, tail: int) -> bool:
        """Write segments for a tail of at least `tail` passages, then merge neighbours; whether anything was done."""
        done = False
        while not (self._stop.is_set() and tail != SMALL):
            with self.store.snapshot():
                state, names = self.store.state(), self._names()
                first = names[-1].first + names[-1].rows if names else 0
                rows = min(SEGMENT, state.rows - first)
            if rows < tail:
                break
            name = self._segment(state, first, rows)
            if not self._name_words(state, names, [*names, name]):
                break
            done = True
        while len(run := _alike(self._names())) > 1 and not self._stop.is_set():
            with self.store.snapshot():
                state, names = self.store.state(), self._names()
                merged = merge(self.files, state.generation, [Segment(self.files, name) for name in run])
            places = [i for i, name in enumerate(names) if name in run]
            if not self._name_words(state, names, [*names[: places[0]], merged, *names[places[-1] + 1 :]]):
                break
            done = True
        return done

    def _segment(self, state: State, first: int, rows: int) -> SegmentName:
        """Write a segment, a large one in a process of its own."""
        beside = None
        if rows >= WORTH_A_PROCESS:
            beside = write_beside(self.files, state.generation, first, rows)
        if beside is not None:
            return beside
        with self.store.snapshot():
            return write_segment(self.files, state.generation, first, rows, self.store.searched(first, first + rows))

    def _names(self) -> list[SegmentName]:
        """The segments that are named and not known to be damaged; what follows a damaged one is made anew with it."""
        found: list[SegmentName] = []
        for values in self.store.meta("words") or []:
            if values["file"] in self._damaged():
                break
            found.append(SegmentName(**values))
        return found

    def _name_words(self, before: State, old: list[SegmentName], new: list[SegmentName]) -> bool:
        """Commit new segments, unless the passages were renumbered meanwhile."""
        with self.store.transaction():
            fits = self.store.state().generation == before.generation and self._names() == old
            if fits:
                self.store.database.put("words", [name.describe() for name in new])
        if not fits:
            for name in new:
                if name not in old:
                    self.files.unlink(name.file)
        return fits

    def _dense(self, recall: float, queries: NDArray[np.float32] | None, *, due: bool = False) -> bool:
        """Make the approximate index if it is due; whether it was made."""
        with self.store.snapshot():
            state = self.store.state()
            if not due and not self._dense_due(state):
                return False
            vectors = self._checked_rows(state)
            live = self.store.live(state)
        rows = state.rows // 8 * 8  # so that the tail begins at a whole byte of a set of rows
        memory = int((self.store.meta("settings") or {}).get("index_memory", 1024)) << 20
        found = build(self.files, vectors[:rows], state.generation, live, recall, queries, self._stop, memory)
        if self._stop.is_set() and found is None:
            return False
        with self.store.transaction():
            fits = self.store.state().generation == state.generation
            if fits and found is not None:
                self.store.database.put("dense", found.describe())
            elif fits:
                wanted = self.store.meta("index") or {"kind": "auto", "recall": recall}
                self.store.database.put("index", {**wanted, "hopeless": state.live})
        if not fits and found is not None:
            self.files.unlink(found.file)
        return fits and found is not None

    def _checked_rows(self, state: State) -> NDArray[Any]:
        file = self.store.file(state.generation)
        vectors, _ = file.map(state.rows)
        file.check(vectors, None, self.store.database.run)
        return vectors

    def optimize(self, index: str, recall: float, queries: NDArray[np.float32] | None) -> None:
        """Give back what removed passages take, and make the derived indexes anew.

        Args:
            index: "auto", "flat" or "ivf"; kept for later.
            recall: Least recall@100 of an approximate index; kept for later.
            queries: Unit vectors to measure it on; None makes some from passages.

        Raises:
            UnknownNameError: Another kind of index.
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
                    self._dense(recall, queries, due=True)
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
        self._name_words(state, names, [merged])

    def _compact(self) -> None:
        """Number the passages anew, without those that were removed: new files, then one commit that names them."""
        made: list[str] = []
        try:
            with self.store.transaction() as run:
                state = self.store.state()
                live = self.store.live(state)
                if live is None:
                    return
                vectors = self._checked_rows(state)
                kept = sets.places(live)
                renumbered = np.full(state.rows, -1, dtype=np.int64)
                renumbered[kept] = np.arange(len(kept))
                generation = state.generation + 1
                made.append(file_name(generation))
                run("DELETE FROM blocks")
                with self.store.file(generation).appending(0, self.store.database) as append:
                    for start in range(0, len(kept), CHUNK):
                        append(vectors[kept[start : start + CHUNK]])
                words = self._renumbered_words(generation, renumbered)
                made += [name.file for name in words]
                self._renumber(run, renumbered)
                put = self.store.database.put
                for key, value in {"generation": generation, "rows": len(kept), "removed": 0, "dense": None}.items():
                    put(key, value)
                put("words", [name.describe() for name in words])
        except BaseException:
            with suppress(StoreError, OSError):
                for name in made:
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
            # In order of rising numbers, each of which only falls: no two ever meet.
            run("UPDATE passages SET number = renumbered(number)")
            run("UPDATE documents SET first = CASE passages WHEN 0 THEN 0 ELSE renumbered(first) END")
            run("UPDATE fields SET first = renumbered(first)")
            run("DELETE FROM removed")
        finally:
            connection.create_scalar_function("renumbered", None, 1)

    def _sweep(self) -> None:
        """Delete derived files and older generations that the last commit does not name."""
        with self.store.snapshot():
            state = self.store.state()
            dense, words = self.store.meta("dense"), self.store.meta("words") or []
        named = {values["file"] for values in [*words, *([dense] if dense else [])]} | {file_name(state.generation)}
        for name in self.files.names():
            if name.startswith(("words-", "dense-", "vectors-")) and name not in named:
                with suppress(OSError):
                    self.files.unlink(name)

    def verify(self) -> list[str]:
        """Derived files that are not as they were written, in words."""
        faults = []
        for values in self.store.meta("words") or []:
            try:
                Segment(self.files, SegmentName(**values)).pieces.check_all()
            except IndexCorruptedError as error:
                faults.append(str(error))
        if values := self.store.meta("dense"):
            try:
                Approximate(self.files, Checkpoint(**values)).pieces.check_all()
            except IndexCorruptedError as error:
                faults.append(str(error))
        return faults


def _alike(names: list[SegmentName]) -> list[SegmentName]:
    """The last neighbours of like size, if there are enough of them to be merged."""
    sizes = [int(np.log(max(1, name.rows / SMALL)) / np.log(MERGED)) for name in names]
    for start in range(len(names) - MERGED, -1, -1):
        if len(set(sizes[start : start + MERGED])) == 1:
            return names[start : start + MERGED]
    return []
