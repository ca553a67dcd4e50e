"""The first stage: dense, lexical or both, over what the filter allows, always as of the last commit."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index.store import Passage, Store
from qwen3_rag.index.vectors import FlatIndex, load_checkpoint, write_checkpoint

__all__ = ["MODES", "Candidate", "Mode", "Retriever", "fuse"]

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
CHECKPOINT = "dense.faiss"
FUSION_RANK = 60  # the constant of reciprocal rank fusion (Cormack et al., 2009)
Candidate = tuple[Passage, float]
logger = logging.getLogger("qwen3_rag")


def fuse(rankings: list[NDArray[np.int64]], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Reciprocal rank fusion: numbers and scores of the k best of several rankings."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking.tolist(), start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (FUSION_RANK + rank)
    best = sorted(scores.items(), key=lambda entry: -entry[1])[:k]
    return np.array([n for n, _ in best], dtype=np.int64), np.array([s for _, s in best], dtype=np.float32)


class Retriever:
    """Finds candidates in a store.

    Args:
        store: The store; the retriever reads it anew whenever its commit number has changed.
        dimensions: Values in a vector.
    """

    def __init__(self, store: Store, dimensions: int) -> None:
        self.store, self.dimensions = store, dimensions
        self._dense: FlatIndex | None = None
        self._commit = self._checkpoint = 0

    def search(
        self, query: str, vector: NDArray[np.float32] | None, k: int, mode: Mode, filter: Mapping[str, Any] | None
    ) -> list[Candidate]:
        """The k best passages with their scores, best first.

        Args:
            query: The query's text, for lexical search.
            vector: The query's vector, for dense search; may be None for lexical.
            k: How many.
            mode: "dense", "lexical" or "hybrid".
            filter: Metadata filter, applied before the cut.
        """
        with self.store.snapshot():
            allowed = None if filter is None else self.store.allowed(filter)
            rankings = []
            if mode != "lexical":
                assert vector is not None
                rankings.append(self._current().search(vector, k, allowed))
            if mode != "dense":
                rankings.append(self.store.text.search(query, k, None if allowed is None else allowed.tolist()))
            numbers, scores = rankings[0] if len(rankings) == 1 else fuse([r[0] for r in rankings], k)
            passages = self.store.passages(numbers.tolist())
        if len(passages) != len(numbers):
            missing = sorted(set(numbers.tolist()) - set(passages))
            raise IndexCorruptedError(
                f"{self.store.folder}: passages {missing[:5]} are in an index but not in the store"
            )
        return [(passages[n], float(s)) for n, s in zip(numbers.tolist(), scores, strict=True)]

    def _current(self) -> FlatIndex:
        """The dense index as of the snapshot's commit: what it was, less what was removed, plus what was added."""
        commit = self.store.meta("commit")
        # `optimize` forgets what was removed up to a commit: an index older than that cannot be brought forward.
        if self._dense is None or self._commit < (self.store.meta("removals_kept_since") or 0):
            self._dense = self._load(commit)
        if commit != self._commit:
            self._dense.remove(self.store.removed_after(self._commit))
            last = int(self._dense.numbers[-1]) if len(self._dense) else 0
            for numbers, vectors in self.store.vectors_after(last):
                self._dense.add(numbers, vectors)
            self._commit = commit
        return self._dense

    def _load(self, commit: int) -> FlatIndex:
        index = FlatIndex(self.dimensions)
        logger.info("dense search: FAISS, exact, on the %s", index.device)
        found = load_checkpoint(self.store.folder / CHECKPOINT, index)
        kept_since = self.store.meta("removals_kept_since") or 0
        if found is None or not kept_since <= found <= commit:
            index, found = FlatIndex(self.dimensions), 0
        self._commit = self._checkpoint = found
        return index

    def checkpoint(self) -> None:
        """Write the dense index beside the store, if it has changed, so that the next opening need not rebuild it."""
        with self.store.snapshot():
            index = self._current()
            if self._checkpoint != self._commit:
                write_checkpoint(self.store.folder / CHECKPOINT, index, self._commit)
                self._checkpoint = self._commit

    def describe(self) -> dict[str, Any]:
        """Type, device and size of the dense index as of now."""
        with self.store.snapshot():
            index = self._current()
        return {"type": "FAISS flat, inner product, exact", "device": index.device, "vectors": len(index)}
