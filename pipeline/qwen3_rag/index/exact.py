"""Exact dense search: FAISS flat indexes that read the mapped rows in place, without a copy."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import MissingDependencyError
from qwen3_rag.forking import forget_in_child
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.protocols import Float32, Int64, RowsAndScores
from qwen3_rag.index.vectors import Rows

__all__ = ["ExactIndex", "best", "faiss", "is_narrow", "nothing", "scan", "scores_of"]

NARROW = 0.1  # share of allowed rows below which search is exact
THREADS = max(1, os.cpu_count() or 1)
WORTH_A_THREAD = 4 << 20  # vector values to scan for each thread


def faiss() -> Any:
    """The faiss module, from the CPU or the GPU wheel."""
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "faiss", "the vector index", "pip install 'qwen3-rag[cpu]', or 'qwen3-rag[gpu]' on a CUDA machine"
        ) from error
    return faiss


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "qwen3-rag-scan")


def _after_fork() -> None:
    _pool.cache_clear()
    if (module := sys.modules.get("faiss")) is not None:
        # The OpenMP threads exist only in the parent; with more than one, a search here would wait for them forever.
        module.omp_set_num_threads(1)


forget_in_child(_after_fork)


def _over(vectors: NDArray[Any]) -> Any:
    """A flat index whose codes are the mapped rows themselves; valid while the map is."""
    module = faiss()
    rows, dimensions = vectors.shape
    if vectors.dtype == np.float16:
        index = module.IndexScalarQuantizer(dimensions, module.ScalarQuantizer.QT_fp16, module.METRIC_INNER_PRODUCT)
    else:
        index = module.IndexFlatIP(dimensions)
    # `create_view` needs an owner object that cannot be created from Python, so its fields are set one by one.
    pointer, size = module.cast_integer_to_uint8_ptr(vectors.ctypes.data), vectors.nbytes
    codes = index.codes
    codes.is_owned = False
    codes.view_data = codes.c_ptr = pointer
    codes.view_size = codes.c_size = size
    index.ntotal = rows
    return index


class ExactIndex:
    """Compares queries with every row.

    Args:
        rows: The rows of a commit.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def search(self, queries: Float32, k: int, allowed: Bitmap | None) -> list[RowsAndScores]:
        """As `VectorIndex.search`."""
        count = len(self.rows.values)
        if allowed is not None and is_narrow(allowed, count):
            self.rows.check(bitmap.to_rows(allowed))
        else:
            self.rows.check_all()
        return scan(self.rows.values, 0, count, queries, k, allowed)


def is_narrow(allowed: Bitmap, rows: int) -> bool:
    """Whether so few of `rows` rows are allowed that other indexes than the exact one would miss results."""
    return bitmap.count(allowed) < NARROW * rows


def scan(
    vectors: NDArray[Any], start: int, stop: int, queries: Float32, k: int, allowed: Bitmap | None
) -> list[RowsAndScores]:
    """For each query, the k best of the rows from `start` to `stop`.

    Args:
        vectors: Mapped, checked rows (n, dimensions).
        start: First row, a multiple of 8.
        stop: Row after the last.
        queries: Unit vectors (queries, dimensions), float32.
        k: Maximum number of rows.
        allowed: Rows to search, out of all n; None is all.
    """
    rows = stop - start
    if rows <= 0 or k <= 0 or not len(queries):
        return [nothing() for _ in queries]
    parts = min(THREADS, max(1, rows * vectors.shape[1] // WORTH_A_THREAD))
    step = (rows // parts + 8) // 8 * 8 if parts > 1 else rows
    ranges = [(at, min(at + step, stop)) for at in range(start, stop, step)]
    work = [(vectors, at, end, queries, k, allowed) for at, end in ranges]
    results = [_scan_part(*work[0])] if len(work) == 1 else list(_pool().map(lambda w: _scan_part(*w), work))
    return [
        best([rows for rows, _ in of_query], [scores for _, scores in of_query], k)
        for of_query in zip(*results, strict=True)
    ]


def _scan_part(
    vectors: NDArray[Any], start: int, stop: int, queries: Float32, k: int, allowed: Bitmap | None
) -> list[RowsAndScores]:
    module = faiss()
    index = _over(vectors[start:stop])
    parameters = None
    if allowed is not None:
        # Every part starts at a multiple of 8, so its rows are whole bytes of the bitmap.
        allowed_part = np.ascontiguousarray(allowed[start // 8 : (stop + 7) // 8])
        selector = module.IDSelectorBitmap(allowed_part)
        parameters = module.SearchParameters(sel=selector)
    scores, rows = index.search(np.ascontiguousarray(queries), min(k, stop - start), params=parameters)
    valid = rows >= 0
    return [(rows[i][valid[i]] + start, scores[i][valid[i]]) for i in range(len(queries))]


def nothing() -> RowsAndScores:
    """No rows."""
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)


def best(rows: list[Int64], scores: list[Float32], k: int) -> RowsAndScores:
    """The k best of several result lists; ties go to the lower row."""
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]


def scores_of(vectors: NDArray[Any], rows: Int64, query: Float32) -> Float32:
    """Inner products of `rows` with a query, float32 (rows,)."""
    return (vectors[rows].astype(np.float32) @ query).astype(np.float32)
