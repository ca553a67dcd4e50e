"""Dense search over one commit: chooses between exact search, inverted lists and the GPUs."""

import numpy as np

from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.exact import ExactIndex, is_narrow, nothing
from qwen3_rag.index.gpu import Gpus
from qwen3_rag.index.lists import IvfIndex, Lists
from qwen3_rag.index.protocols import Float32, RowsAndScores, VectorIndex
from qwen3_rag.index.vectors import Rows

__all__ = ["DenseIndex"]


class DenseIndex:
    """The dense index of one commit; search it within a snapshot of that commit.

    Args:
        rows: The commit's rows.
        generation: Their generation.
        lists: Inverted lists over the first rows, if there are any.
        gpus: What the process keeps on its GPUs.
        prefer_lists: Search the lists even where a GPU can search exactly.
    """

    def __init__(self, rows: Rows, generation: int, lists: Lists | None, gpus: Gpus, prefer_lists: bool) -> None:
        self.rows, self.generation, self.lists = rows, generation, lists
        self._gpus, self._prefer_lists, self._exact = gpus, prefer_lists, ExactIndex(rows)

    def search(self, queries: Float32, k: int, allowed: Bitmap | None) -> list[RowsAndScores]:
        """As `VectorIndex.search`, for any `k`; exact where the chosen index returns fewer rows than it should."""
        k = min(k, len(self.rows.values) if allowed is None else bitmap.count(allowed))
        if k <= 0 or not len(queries):
            return [nothing() for _ in queries]
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        index = self._chosen(allowed)
        results = index.search(queries, k, allowed)
        short = [] if index is self._exact else [i for i, (rows, _) in enumerate(results) if len(rows) < k]
        if short:
            for i, exact in zip(short, self._exact.search(queries[short], k, allowed), strict=True):
                results[i] = exact
        return results

    def _chosen(self, allowed: Bitmap | None) -> VectorIndex:
        if allowed is not None and is_narrow(allowed, len(self.rows.values)):
            return self._exact
        if self._gpus.device == "gpu" and not (self._prefer_lists and self.lists is not None):
            return self._gpus.rows(self.rows, self.generation) or self._exact
        if self.lists is None:
            return self._exact
        return IvfIndex(self.lists, self.rows, self.lists.checkpoint.visited, self._gpus.lists(self.lists))
