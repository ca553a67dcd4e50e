"""First-stage retrieval: dense, lexical or hybrid search over the passages a filter allows, as of the last commit."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import numpy as np

from qwen3_rag.errors import IndexCorruptedError, InvalidArgumentError
from qwen3_rag.forking import Forked
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.checksums import DerivedFileError
from qwen3_rag.index.commit import Commit
from qwen3_rag.index.gpu import Gpus
from qwen3_rag.index.protocols import Float32, RowsAndScores, TextIndex
from qwen3_rag.index.store import Passage, Store
from qwen3_rag.index.view import View, view_of

__all__ = ["MODES", "Candidate", "Mode", "Retriever", "fuse"]

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
LEXICAL = 0.3  # weight of BM25 in hybrid search; measured by benchmarks/fusion.py
TRIES = 20
Candidate = tuple[Passage, float]
T = TypeVar("T")
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


class Retriever(Forked):
    """Searches a store for candidates.

    Args:
        store: The store; the retriever updates its view whenever the store's commit number has changed.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.dimensions = store, store.dimensions
        self.gpus = Gpus()
        self._view: View | None = None
        self._damaged: set[str] = set()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Start with new locks, no threads and no view."""
        self._lock, self._pool, self._view = threading.Lock(), None, None

    def search(
        self, query: str, vector: Float32 | None, k: int, mode: Mode, filter: Mapping[str, Any] | None
    ) -> list[Candidate]:
        """The k best passages with their scores, best first.

        Args:
            query: The query's text, for lexical search.
            vector: The query's vector (dimensions,), for dense search; may be None for lexical.
            k: Maximum number of passages.
            mode: "dense", "lexical" or "hybrid".
            filter: Metadata filter; the k best are chosen among the passages it allows.
        """
        return self.search_many([query], None if vector is None else vector[None], k, mode, filter)[0]

    def search_many(
        self, queries: Sequence[str], vectors: Float32 | None, k: int, mode: Mode, filter: Mapping[str, Any] | None
    ) -> list[list[Candidate]]:
        """As `search` for each of several queries, all on the same commit and with one dense search.

        Args:
            queries: The queries' texts.
            vectors: The queries' vectors (n, dimensions); may be None for lexical search.
            k: Maximum number of passages for each query.
            mode: "dense", "lexical" or "hybrid".
            filter: Metadata filter.

        Raises:
            InvalidArgumentError: A search that needs vectors has none, or not one for each query.
        """
        if mode != "lexical" and vectors is None:
            raise InvalidArgumentError(f"vectors is None; expected one for each query, for mode {mode!r}")
        if vectors is not None and vectors.shape != (len(queries), self.dimensions):
            expected = len(queries), self.dimensions
            raise InvalidArgumentError(f"the queries' vectors have shape {vectors.shape}; expected {expected}")

        def search(commit: Commit) -> list[list[Candidate]]:
            view = self._current(commit)
            view.check_lengths()
            allowed = view.live
            if filter is not None:
                allowed = bitmap.intersection(self.store.fields.allowed(filter, commit), allowed)
            return self._with_passages(self._ranked(view, queries, vectors, k, mode, allowed))

        return self._on_last_commit(search)

    def _on_last_commit(self, work: Callable[[Commit], T]) -> T:
        """Run `work` in a snapshot, again if its files were replaced meanwhile or a derived one is damaged."""
        for _ in range(TRIES):
            try:
                with self.store.snapshot() as commit:
                    return work(commit)
            except _StaleError:
                continue
            except DerivedFileError as error:
                self._drop(error)
        raise IndexCorruptedError(f"{self.store.folder}: files of the last commit are missing")

    def _ranked(
        self, view: View, queries: Sequence[str], vectors: Float32 | None, k: int, mode: Mode, allowed: Bitmap | None
    ) -> list[RowsAndScores]:
        if mode == "lexical" or vectors is None:
            text = self._text(view)
            return [text.search(query, k, allowed) for query in queries]
        if mode == "dense":
            return view.dense.search(vectors, k, allowed)
        # Lexical search needs no database once its tail is up to date, so both searches run in parallel.
        lexical = self._in_pool(self._text(view), queries, k, allowed)
        dense = view.dense.search(vectors, k, allowed)
        return [fuse(near, words.result(), k) for near, words in zip(dense, lexical, strict=True)]

    def _text(self, view: View) -> TextIndex:
        """A view's lexical index, after adding the commit's last passages to its tail."""
        rows, tail = view.commit.rows, view.tail
        with self._lock:
            if tail.first + len(tail) < rows:
                tail.add(self.store.searched(tail.first + len(tail), rows), rows)
        return view.text

    def _in_pool(
        self, text: TextIndex, queries: Sequence[str], k: int, allowed: Bitmap | None
    ) -> list[Future[RowsAndScores]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(4, "qwen3-rag-words")
        return [self._pool.submit(text.search, query, k, allowed) for query in queries]

    def _with_passages(self, results: list[RowsAndScores]) -> list[list[Candidate]]:
        wanted = list(dict.fromkeys(number for numbers, _ in results for number in numbers.tolist()))
        passages = self.store.passages(wanted)
        if len(passages) != len(wanted):
            missing = sorted(set(wanted) - set(passages))
            raise IndexCorruptedError(
                f"{self.store.folder}: passages {missing[:5]} are in an index but not in the store"
            )
        return [
            [(passages[number], float(score)) for number, score in zip(numbers.tolist(), scores, strict=True)]
            for numbers, scores in results
        ]

    def _current(self, commit: Commit) -> View:
        """The snapshot's view, made from the last one by applying what was removed and added since."""
        with self._lock:
            view = self._view
            if view is not None and view.commit.number == commit.number:
                return view
            if view is not None and view.commit.number > commit.number:
                raise _StaleError
            if view is not None and view.commit.generation != commit.generation:
                view = None
            try:
                rows = self.store.rows(commit)
            except IndexCorruptedError:
                if self.store.files.acknowledged() > commit.number:
                    raise _StaleError from None
                raise
            self._view = view_of(self.store, commit, rows, view, self._damaged, self.gpus)
            return self._view

    def _drop(self, error: DerivedFileError) -> None:
        """Stop using a derived file that a newer commit has replaced or that is damaged."""
        derived = self.store.last_commit().derived
        with self._lock:
            self._view = None
            if error.file in derived - self._damaged:
                self._damaged.add(error.file)
                logger.warning("%s; searching without it until it is rebuilt (optimize rebuilds it)", error)

    @property
    def damaged(self) -> frozenset[str]:
        """Names of the derived files that searches detected as damaged."""
        return frozenset(self._damaged)

    def view(self) -> View:
        """The view of the last commit."""
        return self._on_last_commit(self._current)

    def describe(self) -> dict[str, Any]:
        """Types, devices and sizes of the indexes at the last commit."""
        view = self.view()
        description: dict[str, Any] = {
            "type": "FAISS flat, inner product, exact",
            "device": self.gpus.device,
            "vectors": view.commit.live,
            "removed": view.commit.removed,
            "stored_as": str(view.dense.rows.values.dtype),
        }
        if view.dense.lists is not None:
            checkpoint = view.dense.lists.checkpoint
            description |= {
                "type": f"FAISS inverted lists ({checkpoint.lists}), 8 bits, refined on the stored vectors",
                "covers": checkpoint.rows,
                "visited_lists": checkpoint.visited,
                "recall@100": checkpoint.recall,
                "measured_on": f"{checkpoint.queries} {checkpoint.measured_on}",
            }
        description["words"] = {"segments": len(view.words), "covers": view.tail.first}
        return description
