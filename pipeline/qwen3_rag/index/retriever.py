"""First-stage retrieval: dense, lexical or hybrid search over the passages a filter allows, as of the last commit."""

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
from qwen3_rag.index import bitmap
from qwen3_rag.index.approximate import REFINE, Approximate, Checkpoint
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.checksums import DerivedFileError
from qwen3_rag.index.exact import RowsAndScores, best, scan, scores_of
from qwen3_rag.index.folder import Mapped
from qwen3_rag.index.gpu import GpuLists, GpuRows, search_device
from qwen3_rag.index.lexical import Tail, search
from qwen3_rag.index.segments import Segment, SegmentName
from qwen3_rag.index.store import Passage, State, Store
from qwen3_rag.index.vectors import ROWS

__all__ = ["MODES", "Candidate", "Mode", "Retriever", "View", "fuse"]

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
LEXICAL = 0.3  # weight of BM25 in hybrid search; measured by benchmarks/fusion.py
SPREAD = 1.5  # a filter that allows a share s of the passages multiplies the lists visited by s**-SPREAD
NARROW = 0.1  # share of allowed passages below which search is exact
TRIES = 20
Candidate = tuple[Passage, float]
Float32 = NDArray[np.float32]
logger = logging.getLogger("qwen3_rag")


def fuse(dense: RowsAndScores, lexical: RowsAndScores, k: int) -> RowsAndScores:
    """The k best of two result lists by the weighted sum of their min-max normalised scores; scores are 0 to 1.

    The best score of a list becomes 1 and the lowest 0. A lexical list shorter than `k` has not been cut off, so its
    scores are normalised from BM25's zero instead of the lowest.
    """
    lows = [dense[1].min(initial=1), lexical[1].min(initial=np.inf) if len(lexical[1]) >= k else 0]
    numbers, positions = np.unique(np.concatenate([dense[0], lexical[0]]), return_inverse=True)
    scores = np.zeros(len(numbers), dtype=np.float32)
    halves = np.split(positions, [len(dense[0])])
    for values, low, weight, half in zip((dense[1], lexical[1]), lows, (1 - LEXICAL, LEXICAL), halves, strict=True):
        if len(values):
            span = float(values.max() - low)
            scores[half] += weight * ((values - low) / span if span > 0 else np.ones_like(values))
    order = np.lexsort((numbers, -scores))[:k]
    return numbers[order], scores[order]


class _StaleError(Exception):
    """The snapshot's commit is older than the current view, or its files are already deleted."""


@dataclass(frozen=True)
class View:
    """One commit ready for search; immutable, shared between threads, replaced as a whole."""

    state: State
    vectors: NDArray[Any]
    map: Mapped | None  # of the vectors
    live: Bitmap | None
    dense: Approximate | None
    words: tuple[Segment, ...]
    tail: Tail
    prefer_lists: bool  # search approximately even if a GPU can search exactly

    def check_lengths(self) -> None:
        """Check the lengths of the mapped files, because reading a truncated one kills the process.

        Raises:
            IndexCorruptedError: The vector file was truncated.
            DerivedFileError: A derived file was truncated.
        """
        if self.map is not None:
            self.map.check_length()
        derived = [segment.map for segment in self.words] + ([self.dense.map] if self.dense else [])
        for file_map in derived:
            try:
                file_map.check_length()
            except IndexCorruptedError as error:
                raise DerivedFileError(file_map.path, "was truncated") from error


class Retriever(Forked):
    """Searches a store for candidates.

    Args:
        store: The store; the retriever updates its view whenever the store's commit number has changed.
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
        """Start with new locks, no threads and no view; GPU memory belongs to the parent."""
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
            k: Maximum number of passages.
            mode: "dense", "lexical" or "hybrid".
            filter: Metadata filter; the k best are chosen among the passages it allows.
        """
        for _ in range(TRIES):
            try:
                with self.store.snapshot():
                    return self._search(query, vector, k, mode, filter)
            except _StaleError:
                continue
            except DerivedFileError as error:
                self._drop(error)
        raise IndexCorruptedError(f"{self.store.folder}: files of the last commit are missing")

    def _search(
        self, query: str, vector: Float32 | None, k: int, mode: Mode, filter: Mapping[str, Any] | None
    ) -> list[Candidate]:
        view = self._current()
        view.check_lengths()
        state = view.state
        allowed = view.live
        if filter is not None:
            matching = self.store.fields.allowed(filter, state.commit, state.generation, state.rows)
            allowed = bitmap.intersection(matching, view.live)
        if mode == "lexical":
            numbers, scores = self._words(view, allowed)(query, k)
        elif vector is None:
            raise InvalidArgumentError(f"vector is None; expected the query's, for mode {mode!r}")
        elif mode == "dense":
            numbers, scores = self.dense(view, vector, k, allowed)
        else:
            # Lexical search needs no database once its tail is up to date, so both searches run in parallel.
            lexical = self._in_pool(self._words(view, allowed), query, k)
            dense = self.dense(view, vector, k, allowed)
            numbers, scores = fuse(dense, lexical(), k)
        passages = self.store.passages(numbers.tolist())
        if len(passages) != len(numbers):
            missing = sorted(set(numbers.tolist()) - set(passages))
            raise IndexCorruptedError(
                f"{self.store.folder}: passages {missing[:5]} are in an index but not in the store"
            )
        return [(passages[n], float(s)) for n, s in zip(numbers.tolist(), scores, strict=True)]

    def _in_pool(self, work: Callable[[str, int], RowsAndScores], query: str, k: int) -> Callable[[], RowsAndScores]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(4, "qwen3-rag-words")
        return self._pool.submit(work, query, k).result

    def _words(self, view: View, allowed: Bitmap | None) -> Callable[[str, int], RowsAndScores]:
        """Bring a view's tail up to date, and return its lexical search as a function of query and k."""
        state, tail = view.state, view.tail
        with self._lock:
            if tail.first + len(tail) < state.rows:
                tail.add(self.store.searched(tail.first + len(tail), state.rows), state.rows)
        return lambda query, k: search([*view.words, tail], query, k, state.rows, allowed, state.live)

    def dense(self, view: View, vector: Float32, k: int, allowed: Bitmap | None) -> RowsAndScores:
        """Numbers and inner products of the k best passages, within a snapshot.

        Args:
            view: The snapshot's view.
            vector: Unit vector (dimensions,).
            k: Maximum number of passages.
            allowed: Passages to search; None is all.
        """
        state = view.state
        count = state.rows if allowed is None else bitmap.count(allowed)
        k = min(k, count)
        if k == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        # Approximate and GPU indexes miss results if few rows are allowed.
        narrow = allowed is not None and count < NARROW * state.rows
        if not narrow:
            if self.device == "gpu" and not (view.prefer_lists and view.dense):
                on_gpu = self._on_gpu(view, vector, k, allowed)
                if on_gpu is not None:
                    return on_gpu
            elif view.dense is not None:
                approximate = self._approximate(view, view.dense, vector, k, allowed, count)
                if len(approximate[0]) == k:
                    return approximate
        blocks = np.unique(bitmap.to_rows(allowed) // ROWS) if narrow and allowed is not None else None
        self._check(view, blocks)
        return scan(view.vectors, 0, state.rows, vector, k, allowed)

    def _approximate(
        self, view: View, index: Approximate, vector: Float32, k: int, allowed: Bitmap | None, count: int
    ) -> RowsAndScores:
        """The k best of the index's candidates and of the tail, by their stored vectors."""
        rows, covered = view.state.rows, index.checkpoint.rows
        # With a filter the nearest allowed rows are farther away, in more lists than their share suggests.
        visited = int(np.ceil(index.checkpoint.visited / (count / rows) ** SPREAD))
        numbers = self._lists_on_gpu(index, vector, REFINE * k, allowed, visited)
        if numbers is None:
            numbers = index.nearest(vector, REFINE * k, allowed, visited)
        self._check(view, np.unique(numbers // ROWS))
        if covered < rows:
            self._check(view, np.arange(covered // ROWS, (rows - 1) // ROWS + 1))
        tail = scan(view.vectors, covered, rows, vector, k, allowed)
        return best([numbers, tail[0]], [scores_of(view.vectors, numbers, vector), tail[1]], k)

    def _lists_on_gpu(
        self, index: Approximate, vector: Float32, k: int, allowed: Bitmap | None, visited: int
    ) -> NDArray[np.int64] | None:
        if self.device != "gpu":
            return None
        with self._lock:
            if self._gpu_lists is None or self._gpu_lists[0] != index.checkpoint:
                self._gpu_lists = None  # free its memory first
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
        logger.warning("the index cannot be loaded onto the GPU; searching on the CPU: %s", str(error).splitlines()[0])

    def _check(self, view: View, blocks: NDArray[np.int64] | None) -> None:
        self.store.file(view.state.generation).check(view.vectors, blocks, self.store.database.run)

    def _on_gpu(self, view: View, vector: Float32, k: int, allowed: Bitmap | None) -> RowsAndScores | None:
        """Exact search on the GPU, after adding new rows to it, or None if the search needs the CPU."""
        with self._lock:
            try:
                if self._gpu is None or self._gpu.generation != view.state.generation:
                    self._gpu = None  # free its memory first
                    self._gpu = GpuRows(self.dimensions, view.state.generation)
                if self._gpu.rows < view.state.rows:
                    first = self._gpu.rows // ROWS
                    self._check(view, np.arange(first, (view.state.rows - 1) // ROWS + 1))
                    self._gpu.add(view.vectors[self._gpu.rows :])
            except RuntimeError as error:
                self._leave_gpu(error)
                return None
            gpu_rows = self._gpu
        return gpu_rows.search(vector, k, allowed, view.state.rows)

    def _current(self) -> View:
        """The snapshot's view, made from the last one by applying what was removed and added since."""
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
                vectors, vector_map = file.map(state.rows)
            except IndexCorruptedError:
                if self.store.files.acknowledged() > state.commit:
                    raise _StaleError from None
                raise
            words = self._segments(view)
            covered = words[-1].first + words[-1].name.rows if words else 0
            tail = view.tail if view is not None and view.tail.first == covered else Tail(covered)
            prefer_lists = (self.store.meta("index") or {}).get("kind") == "ivf"
            live, dense = self._live(view, state), self._dense(view)
            self._view = View(state, vectors, vector_map, live, dense, words, tail, prefer_lists)
            return self._view

    def _live(self, view: View | None, state: State) -> Bitmap | None:
        if view is None or not state.removed:
            return self.store.live(state)
        removed = self.store.removed(view.state.last_removal)
        if view.live is None:
            live = bitmap.full(state.rows)
        else:
            added = bitmap.full(state.rows) & ~bitmap.resized(bitmap.full(view.state.rows), state.rows)
            live = bitmap.resized(view.live, state.rows) | added
        return live & ~bitmap.from_rows(removed, state.rows)

    def _segments(self, view: View | None) -> tuple[Segment, ...]:
        """The commit's segments up to the first damaged one; the tail covers the rest."""
        opened = {segment.name: segment for segment in (view.words if view is not None else ())}
        segments: list[Segment] = []
        for values in self.store.meta("words") or []:
            name = SegmentName(**values)
            if name.file in self._damaged:
                break
            segments.append(opened.get(name) or Segment(self.store.files, name))
        return tuple(segments)

    def _dense(self, view: View | None) -> Approximate | None:
        values = self.store.meta("dense")
        if values is None or values["file"] in self._damaged:
            return None
        checkpoint = Checkpoint(**values)
        if view is not None and view.dense is not None and view.dense.checkpoint == checkpoint:
            return view.dense
        return Approximate(self.store.files, checkpoint)

    def _drop(self, error: DerivedFileError) -> None:
        """Stop using a derived file that a newer commit has replaced or that is damaged."""
        with self.store.snapshot():
            current = [*(self.store.meta("words") or []), self.store.meta("dense") or {}]
        with self._lock:
            self._view = None
            if any(values.get("file") == error.file for values in current) and error.file not in self._damaged:
                self._damaged.add(error.file)
                logger.warning("%s; searching without it until it is rebuilt (optimize rebuilds it)", error)

    @property
    def damaged(self) -> frozenset[str]:
        """Names of the derived files that searches detected as damaged."""
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
                self._drop(error)
        raise IndexCorruptedError(f"{self.store.folder}: files of the last commit are missing")

    def describe(self) -> dict[str, Any]:
        """Types, devices and sizes of the indexes at the last commit."""
        view = self.view()
        description: dict[str, Any] = {
            "type": "FAISS flat, inner product, exact",
            "device": self.device,
            "vectors": view.state.live,
            "removed": view.state.removed,
            "stored_as": str(view.vectors.dtype),
        }
        if view.dense is not None:
            checkpoint = view.dense.checkpoint
            description |= {
                "type": f"FAISS inverted lists ({checkpoint.lists}), 8 bits, refined on the stored vectors",
                "covers": checkpoint.rows,
                "visited_lists": checkpoint.visited,
                "recall@100": checkpoint.recall,
                "measured_on": f"{checkpoint.queries} {checkpoint.measured_on}",
            }
        description["words"] = {"segments": len(view.words), "covers": view.tail.first}
        return description
