"""Search on GPUs: FAISS' flat index in float16 and its inverted lists, each sharded over the GPUs.

GPU indexes cannot remove rows and silently ignore a filter. So a search fetches more rows than it needs and drops those
not allowed; if too few remain, the search runs on the CPU. A resource object serves one thread at a time.
"""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.exact import RowsAndScores, faiss

__all__ = ["GpuLists", "GpuRows", "search_device"]

MAX_K = 2048  # FAISS' limit on the GPU
TEMPORARY = 256 << 20  # bytes; FAISS' default of 1.5 GiB would take memory that the models need
CHUNK = 65_536  # rows copied at a time
Float32 = NDArray[np.float32]


def search_device() -> str:
    """Where dense search runs: "gpu" with faiss-gpu and a CUDA device, otherwise "cpu"."""
    module = faiss()
    # The CPU wheel has get_num_gpus too; only the GPU wheel has resources.
    return "gpu" if hasattr(module, "StandardGpuResources") and module.get_num_gpus() > 0 else "cpu"


def _resources() -> list[Any]:
    """One resource object for each GPU; it must outlive the indexes that use it."""
    module = faiss()
    all_resources = []
    for _ in range(module.get_num_gpus()):
        resources = module.StandardGpuResources()
        resources.setTempMemory(TEMPORARY)
        all_resources.append(resources)
    return all_resources


class GpuRows:
    """A store's rows on the GPUs; rows are added as the store grows.

    Args:
        dimensions: Values in a row.
        generation: Generation of the rows.
    """

    def __init__(self, dimensions: int, generation: int) -> None:
        module = faiss()
        self.generation, self.rows = generation, 0
        self._lock = threading.Lock()
        self._resources = _resources()
        shards = []
        for device, resources in enumerate(self._resources):
            config = module.GpuIndexFlatConfig()
            config.useFloat16 = True
            config.device = device
            shards.append(module.GpuIndexFlatIP(resources, dimensions, config))
        self._shards: list[Any] = shards
        self._ranges: list[list[tuple[int, int]]] = [[] for _ in shards]  # first row and length of each chunk

    def add(self, vectors: NDArray[Any]) -> None:
        """Append rows (n, dimensions), each chunk to the GPU with the fewest rows."""
        with self._lock:
            for start in range(0, len(vectors), CHUNK):
                part = np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32)
                gpu = min(range(len(self._shards)), key=lambda i: self._shards[i].ntotal)
                self._shards[gpu].add(part)
                self._ranges[gpu].append((self.rows, len(part)))
                self.rows += len(part)

    def search(self, query: Float32, k: int, allowed: Bitmap | None, rows: int) -> RowsAndScores | None:
        """The k best of the first `rows` rows, or None if the search needs the CPU.

        Args:
            query: Unit vector (dimensions,).
            k: Number of rows.
            allowed: Rows to search; None is all.
            rows: Rows of the commit; the GPU may already hold more.
        """
        limit = k if allowed is None and rows == self.rows else min(4 * k + 64, self.rows)
        if limit > MAX_K:
            return None
        row = np.ascontiguousarray(query, dtype=np.float32)[None]
        shard_rows, shard_scores = [], []
        with self._lock:
            for shard, ranges in zip(self._shards, self._ranges, strict=True):
                if not ranges:
                    continue
                scores, positions = shard.search(row, min(limit, shard.ntotal))
                valid = positions[0] >= 0
                shard_rows.append(_store_rows(positions[0][valid], ranges))
                shard_scores.append(scores[0][valid])
        numbers, scores = np.concatenate(shard_rows), np.concatenate(shard_scores)
        order = np.lexsort((numbers, -scores))[:limit]
        numbers, scores = numbers[order], scores[order]
        passing = numbers < rows
        if allowed is not None:
            passing &= bitmap.contains(allowed, np.minimum(numbers, rows - 1))
        if passing.sum() < k and limit < self.rows:
            return None
        return numbers[passing][:k], scores[passing][:k]


class GpuLists:
    """An approximate index on the GPUs: a copy of the CPU's index, its lists divided among the GPUs.

    Args:
        index: FAISS inverted-list index on the CPU.
        rows: Number of rows it covers.
    """

    def __init__(self, index: Any, rows: int) -> None:
        module = faiss()
        self.rows, self._lists = rows, index.nlist
        self._lock = threading.Lock()
        self._resources = _resources()
        options = module.GpuMultipleClonerOptions()
        options.shard = True
        options.indicesOptions = module.INDICES_64_BIT
        self._index = module.index_cpu_to_gpu_multiple_py(self._resources, index, options)

    def nearest(self, query: Float32, k: int, allowed: Bitmap | None, visited: int) -> NDArray[np.int64] | None:
        """About the k best rows by their 8-bit codes, or None if the search needs the CPU.

        Args:
            query: Unit vector (dimensions,).
            k: Number of rows.
            allowed: Rows to search; None is all.
            visited: Number of lists to visit.
        """
        limit = min(k if allowed is None else 4 * k + 64, self.rows)
        visited = min(visited, self._lists)
        if limit > MAX_K or visited > MAX_K:
            return None
        row = np.ascontiguousarray(query, dtype=np.float32)[None]
        with self._lock:
            _, numbers = self._index.search(row, limit, params=faiss().SearchParametersIVF(nprobe=visited))
        rows: NDArray[np.int64] = numbers[0][(numbers[0] >= 0) & (numbers[0] < self.rows)]
        if allowed is None:
            return rows
        rows = rows[bitmap.contains(allowed, rows)][:k]
        return rows if len(rows) == k else None


def _store_rows(positions: NDArray[np.int64], ranges: list[tuple[int, int]]) -> NDArray[np.int64]:
    """The store's rows for positions in one GPU's index."""
    firsts, lengths = np.array(ranges, dtype=np.int64).T
    starts = np.cumsum(lengths) - lengths
    containing = np.searchsorted(starts, positions, side="right") - 1
    numbers: NDArray[np.int64] = positions - starts[containing] + firsts[containing]
    return numbers
