"""The first stage: dense, lexical or both, over what the filter allows, always as of the last commit."""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, InvalidArgumentError
from qwen3_rag.forking import Forked
from qwen3_rag.index import bits as sets
from qwen3_rag.index.approximate import REFINE, Approximate, Checkpoint
from qwen3_rag.index.bits import Bits
from qwen3_rag.index.exact import Found, best, scan, scores_of
from qwen3_rag.index.folder import Mapped
from qwen3_rag.index.gpu import GpuLists, GpuRows, search_device
from qwen3_rag.index.lexical import Tail, search
from qwen3_rag.index.pieces import DerivedFileError
from qwen3_rag.index.segments import Segment, SegmentName
from qwen3_rag.index.store import Passage, State, Store
from qwen3_rag.index.vectors import ROWS

__all__ = ["MODES", "Candidate", "Mode", "Retriever", "View", "fuse"]

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
LEXICAL = 0.3  # weight of BM25 in hybrid search; measured by benchmarks/fusion.py
SPREAD = 1.5
NARROW = 0.1  # share of the passages below which a filter's are searched exactly
TRIES = 20
Candidate = tuple[Passage, float]
Float32 = NDArray[np.float32]
logger = logging.getLogger("qwen3_rag")


def fuse(dense: Found, lexical: Found, k: int) -> Found:
    """Numbers and scores, 0 to 1, of the k best of two findings, by the weighted sum of their normalised scores.

    Each half's best candidate has 1. Its last has 0, unless it is a lexical one that no other was cut off after: those
    count from BM25's own 0.
    """
    lows = [dense[1].min(initial=1), lexical[1].min(initial=np.inf) if len(lexical[1]) >= k else 0]
    numbers, places = np.unique(np.concatenate([dense[0], lexical[0]]), return_inverse=True)
    scores = np.zeros(len(numbers), dtype=np.float32)
    mine = np.split(places, [len(dense[0])])
    for found, low, weight, own in zip((dense[1], lexical[1]), lows, (1 - LEXICAL, LEXICAL), mine, strict=True):
        if len(found):
            span = float(found.max() - low)
            scores[own] += weight * ((found - low) / span if span > 0 else np.ones_like(found))
    order = np.lexsort((numbers, -scores))[:k]
    return numbers[order], scores[order]


class _StaleError(Exception):
    """The snapshot's commit is older than what this object has moved on to, or than the files that are left."""


@dataclass(frozen=True)
class View:
    """One commit, ready to be searched; shared by threads, replaced as a whole."""

    state: State
    vectors: NDArray[Any]
    map: Mapped | None  # where the vectors lie
    live: Bits | None
    dense: Approximate | None
    words: tuple[Segment, ...]
    tail: Tail
    lists_wanted: bool  # approximate search even where exact search has a GPU

    def check_lengths(self) -> None:
        """Compare the lengths of the mapped files, so that none that was cut short ends the process.

        Raises:
            IndexCorruptedError: The vectors' file was cut short.
            DerivedFileError: A derived file was cut short.
        """
        if self.map is not None:
            self.map.check_length()
        derived = [segment.map for segment in self.words] + ([self.dense.map] if self.dense else [])
        for whole in derived:
            try:
                whole.check_length()
            except IndexCorruptedError as error:
                raise DerivedFileError(whole.path, "was cut short") from error


class Retriever(Forked):
    """Finds candidates in a store.

    Args:
        store: The store; what the retriever knows of it is brought forward whenever its commit number has changed.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.dimensions = store, store.dimensions
        self.device = search_device()
        self._gpu: GpuRows | None = None
        self._gpu_lists: tuple[Checkpoint, GpuLists] | None = None
        self._view: View | None = None
        self._damaged: set[str] = set()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Begin with new locks, no threads and a view of its own; a GPU's memory belongs to the parent."""
        self._lock, self._pool, self._view = threading.Lock(), None, None
        if self._gpu is not None or self._gpu_lists is not None:
            self.device, self._gpu, self._gpu_lists = "cpu", None, None
            logger.warning("the index on the GPU does not survive a fork; searching on the CPU")

    def search(
        self, query: str, vector: Float32 | None, k: int, mode: Mode, filter: Mapping[str, Any] | None
    ) -> list[Candidate]:
        """The k best passages with their scores, best first.

        Args:
            query: The query's text, for lexical search.
            vector: The query's vector, for dense search; may be None for lexical.
            k: How many.
            mode: "dense", "lexical" or "hybrid".
            filter: Metadata filter, applied before the cut.
        """
        for _ in range(TRIES):
            try:
                with self.store.snapshot():
                    return self._search(query, vector, k, mode, filter)
            except _StaleError:
                continue
            except DerivedFileError as error:
                self._lost(error)
        raise IndexCorruptedError(f"{self.store.folder}: files of the last commit are missing")

    def _search(
        self, query: str, vector: Float32 | None, k: int, mode: Mode, filter: Mapping[str, Any] | None
    ) -> list[Candidate]:
        view = self._current()
        view.check_lengths()
        state = view.state
        allowed = view.live
        if filter is not None:
            met = self.store.fields.allowed(filter, state.commit, state.generation, state.rows)
            allowed = sets.both(met, view.live)
        if mode == "lexical":
            numbers, scores = self._words(view, allowed)(query, k)
        elif vector is None:
            raise InvalidArgumentError(f"vector is None; expected the query's, for mode {mode!r}")
        elif mode == "dense":
            numbers, scores = self.dense(view, vector, k, allowed)
        else:
            # The lexical half needs no database once its tail is up to date: both halves run side by side.
            lexical = self._beside(self._words(view, allowed), query, k)
            dense = self.dense(view, vector, k, allowed)
            numbers, scores = fuse(dense, lexical(), k)
        passages = self.store.passages(numbers.tolist())
        if len(passages) != len(numbers):
            missing = sorted(set(numbers.tolist()) - set(passages))
            raise IndexCorruptedError(f"{self.store.folder}: passages {missing[:5]} are in an index, not in the store")
        return [(passages[n], float(s)) for n, s in zip(numbers.tolist(), scores, strict=True)]

    def _beside(self, work: Callable[[str, int], Found], query: str, k: int) -> Callable[[], Found]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(4, "qwen3-rag-words")
        return self._pool.submit(work, query, k).result

    def _words(self, view: View, allowed: Bits | None) -> Callable[[str, int], Found]:
        """Lexical search as of a view, its tail brought up to date."""
        state, tail = view.state, view.tail
        with self._lock:
            if tail.first + len(tail) < state.rows:
                tail.add(self.store.searched(tail.first + len(tail), state.rows), state.rows)
        return lambda query, k: search([*view.words, tail], query, k, state.rows, allowed, state.live)

    def dense(self, view: View, vector: Float32, k: int, allowed: Bits | None) -> Found:
        """Numbers and inner products of the k best passages, within a snapshot.

        Args:
            view: The snapshot's view.
            vector: Unit vector (dimensions,).
            k: How many.
            allowed: Passages that may be found; None is all.
        """
        state = view.state
        there = state.rows if allowed is None else sets.count(allowed)
        k = min(k, there)
        if k == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        # Approximate indexes, and those on a GPU, lose results where few rows are allowed.
        narrow = allowed is not None and there < NARROW * state.rows
        if not narrow:
            if self.device == "gpu" and not (view.lists_wanted and view.dense):
                found = self._on_gpu(view, vector, k, allowed)
                if found is not None:
                    return found
            elif view.dense is not None:
                found = self._approximately(view, view.dense, vector, k, allowed, there)
                if len(found[0]) == k:
                    return found
        blocks = np.unique(sets.places(allowed) // ROWS) if narrow and allowed is not None else None
        self._check(view, blocks)
        return scan(view.vectors, 0, state.rows, vector, k, allowed)

    def _approximately(
        self, view: View, index: Approximate, vector: Float32, k: int, allowed: Bits | None, there: int
    ) -> Found:
        """Candidates by the index's codes, and the tail, compared by their stored vectors."""
        rows, covered = view.state.rows, index.checkpoint.rows
        # Where only some may be found, the nearest of them lie farther away, in more lists than their share says.
        visited = int(np.ceil(index.checkpoint.visited / (there / rows) ** SPREAD))
        numbers = self._lists_on_gpu(index, vector, REFINE * k, allowed, visited)
        if numbers is None:
            numbers = index.nearest(vector, REFINE * k, allowed, visited)
        self._check(view, np.unique(numbers // ROWS))
        if covered < rows:
            self._check(view, np.arange(covered // ROWS, (rows - 1) // ROWS + 1))
        tail = scan(view.vectors, covered, rows, vector, k, allowed)
        return best([numbers, tail[0]], [scores_of(view.vectors, numbers, vector), tail[1]], k)

    def _lists_on_gpu(
        self, index: Approximate, vector: Float32, k: int, allowed: Bits | None, visited: int
    ) -> NDArray[np.int64] | None:
        if self.device != "gpu":
            return None
        with self._lock:
            if self._gpu_lists is None or self._gpu_lists[0] != index.checkpoint:
                self._gpu_lists = None  # its memory first
                try:
                    self._gpu_lists = index.checkpoint, GpuLists(index.lists, index.checkpoint.rows)
                except RuntimeError as error:
                    self._leave_gpu(error)
                    return None
            lists = self._gpu_lists[1]
        return lists.nearest(vector, k, allowed, visited)

    def _leave_gpu(self, error: RuntimeError) -> None:
        self.device = "cpu"
        self._gpu = self._gpu_lists = None
        logger.warning("the index cannot be held on the GPU; searching on the CPU: %s", str(error).splitlines()[0])

    def _check(self, view: View, blocks: NDArray[np.int64] | None) -> None:
        self.store.file(view.state.generation).check(view.vectors, blocks, self.store.database.run)

    def _on_gpu(self, view: View, vector: Float32, k: int, allowed: Bits | None) -> Found | None:
        """Exact search on the GPU, its rows brought up to date, or None if only the CPU can tell."""
        with self._lock:
            try:
                if self._gpu is None or self._gpu.generation != view.state.generation:
                    self._gpu = None  # its memory first
                    self._gpu = GpuRows(self.dimensions, view.state.generation)
                if self._gpu.rows < view.state.rows:
                    first = self._gpu.rows // ROWS
                    self._check(view, np.arange(first, (view.state.rows - 1) // ROWS + 1))
                    self._gpu.add(view.vectors[self._gpu.rows :])
            except RuntimeError as error:
                self._leave_gpu(error)
                return None
            held = self._gpu
        return held.search(vector, k, allowed, view.state.rows)

    def _current(self) -> View:
        """The snapshot's view: what it was, less what was removed, plus what was added."""
        state = self.store.state()
        with self._lock:
            view = self._view
            if view is not None and view.state.commit == state.commit:
                return view
            if view is not None and view.state.commit > state.commit:
                raise _StaleError
            if view is not None and view.state.generation != state.generation:
                view = None
            file = self.store.file(state.generation)
            try:
                vectors, whole = file.map(state.rows)
            except IndexCorruptedError:
                if self.store.files.acknowledged() > state.commit:
                    raise _StaleError from None
                raise
            words = self._segments(view)
            covered = words[-1].first + words[-1].name.rows if words else 0
            tail = view.tail if view is not None and view.tail.first == covered else Tail(covered)
            wanted = (self.store.meta("index") or {}).get("kind") == "ivf"
            live, dense = self._live(view, state), self._dense(view)
            self._view = View(state, vectors, whole, live, dense, words, tail, wanted)
            return self._view

    def _live(self, view: View | None, state: State) -> Bits | None:
        if view is None or not state.removed:
            return self.store.live(state)
        gone = self.store.removed(view.state.last_removal)
        if view.live is None:
            live = sets.every(state.rows)
        else:
            added = sets.every(state.rows) & ~sets.resized(sets.every(view.state.rows), state.rows)
            live = sets.resized(view.live, state.rows) | added
        return live & ~sets.of_rows(gone, state.rows)

    def _segments(self, view: View | None) -> tuple[Segment, ...]:
        """The segments that the commit names, up to the first that is damaged: the tail covers the rest."""
        opened = {segment.name: segment for segment in (view.words if view is not None else ())}
        found: list[Segment] = []
        for values in self.store.meta("words") or []:
            name = SegmentName(**values)
            if name.file in self._damaged:
                break
            found.append(opened.get(name) or Segment(self.store.files, name))
        return tuple(found)

    def _dense(self, view: View | None) -> Approximate | None:
        values = self.store.meta("dense")
        if values is None or values["file"] in self._damaged:
            return None
        checkpoint = Checkpoint(**values)
        if view is not None and view.dense is not None and view.dense.checkpoint == checkpoint:
            return view.dense
        return Approximate(self.store.files, checkpoint)

    def _lost(self, error: DerivedFileError) -> None:
        """Go on without a derived file: a newer commit has replaced it, or it is damaged."""
        with self.store.snapshot():
            named = [*(self.store.meta("words") or []), self.store.meta("dense") or {}]
        with self._lock:
            self._view = None
            if any(values.get("file") == error.file for values in named) and error.file not in self._damaged:
                self._damaged.add(error.file)
                logger.warning("%s; searching without it until it is made anew (optimize does so)", error)

    @property
    def damaged(self) -> frozenset[str]:
        """Derived files that were found damaged."""
        return frozenset(self._damaged)

    def view(self) -> View:
        """The view of the last commit."""
        for _ in range(TRIES):
            try:
                with self.store.snapshot():
                    return self._current()
            except _StaleError:
                continue
            except DerivedFileError as error:
                self._lost(error)
        raise IndexCorruptedError(f"{self.store.folder}: files of the last commit are missing")

    def describe(self) -> dict[str, Any]:
        """Types, devices and sizes of the indexes as of now."""
        view = self.view()
        found: dict[str, Any] = {
            "type": "FAISS flat, inner product, exact",
            "device": self.device,
            "vectors": view.state.live,
            "removed": view.state.removed,
            "stored_as": str(view.vectors.dtype),
        }
        if view.dense is not None:
            checkpoint = view.dense.checkpoint
            found |= {
                "type": f"FAISS inverted lists ({checkpoint.lists}), 8 bits, refined on the stored vectors",
                "covers": checkpoint.rows,
                "visited_lists": checkpoint.visited,
                "recall@100": checkpoint.recall,
                "measured_on": f"{checkpoint.queries} {checkpoint.measured_on}",
            }
        found["words"] = {"segments": len(view.words), "covers": view.tail.first}
        return found
