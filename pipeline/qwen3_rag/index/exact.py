"""Exact inner products over mapped rows, by FAISS' flat indexes laid over the map without a copy."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import MissingDependencyError
from qwen3_rag.forking import forget_in_child
from qwen3_rag.index.bits import Bits

__all__ = ["Found", "best", "faiss", "scan", "scores_of"]

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Found = tuple[Int64, Float32]  # rows and scores, best first
THREADS = max(1, os.cpu_count() or 1)
WORTH_A_THREAD = 4 << 20  # values


def faiss() -> Any:
    """The module, whichever wheel brought it."""
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
        # The threads of its OpenMP are the parent's: waiting for them would take for ever.
        module.omp_set_num_threads(1)


forget_in_child(_after_fork)


def _over(vectors: NDArray[Any]) -> Any:
    """A flat index whose codes are the mapped rows themselves; valid as long as the map is."""
    module = faiss()
    rows, dimensions = vectors.shape
    if vectors.dtype == np.float16:
        index = module.IndexScalarQuantizer(dimensions, module.ScalarQuantizer.QT_fp16, module.METRIC_INNER_PRODUCT)
    else:
        index = module.IndexFlatIP(dimensions)
    # `create_view` asks for an owner that Python cannot make, so its fields are set one by one.
    pointer, size = module.cast_integer_to_uint8_ptr(vectors.ctypes.data), vectors.nbytes
    codes = index.codes
    codes.is_owned = False
    codes.view_data = codes.c_ptr = pointer
    codes.view_size = codes.c_size = size
    index.ntotal = rows
    return index


def scan(vectors: NDArray[Any], start: int, stop: int, query: Float32, k: int, allowed: Bits | None) -> Found:
    """The k best of the rows from `start`, a multiple of 8, to `stop`, for one query (dimensions,).

    Args:
        vectors: Mapped rows (n, dimensions), checked.
        start: First row.
        stop: Row after the last.
        query: Unit vector.
        k: How many at most.
        allowed: Rows that may be found, as bits over all rows; None is all.
    """
    rows = stop - start
    if rows <= 0 or k <= 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    parts = min(THREADS, max(1, rows * vectors.shape[1] // WORTH_A_THREAD))
    step = (rows // parts + 8) // 8 * 8 if parts > 1 else rows
    cuts = [(at, min(at + step, stop)) for at in range(start, stop, step)]
    work = [(vectors, at, end, query, k, allowed) for at, end in cuts]
    found = [_scan_part(*work[0])] if len(work) == 1 else list(_pool().map(lambda w: _scan_part(*w), work))
    return best([rows for rows, _ in found], [scores for _, scores in found], k)


def _scan_part(vectors: NDArray[Any], start: int, stop: int, query: Float32, k: int, allowed: Bits | None) -> Found:
    module = faiss()
    index = _over(vectors[start:stop])
    parameters = None
    if allowed is not None:
        # Rows stand in whole bytes of the set because every part starts at a multiple of 8.
        bits = np.ascontiguousarray(allowed[start // 8 : (stop + 7) // 8])
        selector = module.IDSelectorBitmap(bits)
        parameters = module.SearchParameters(sel=selector)
    row = np.ascontiguousarray(query, dtype=np.float32)[None]
    scores, places = index.search(row, min(k, stop - start), params=parameters)
    there = places[0] >= 0
    return places[0][there] + start, scores[0][there]


def best(rows: list[Int64], scores: list[Float32], k: int) -> Found:
    """The k best of several findings; of equal scores the lowest row first."""
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]


def scores_of(vectors: NDArray[Any], rows: Int64, query: Float32) -> Float32:
    """Inner products of some rows with a query, in float32."""
    return (vectors[rows].astype(np.float32) @ np.asarray(query, dtype=np.float32)).astype(np.float32)
