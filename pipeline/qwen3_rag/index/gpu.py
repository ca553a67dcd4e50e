"""Search on GPUs: FAISS' flat index in float16 and its inverted lists, each sharded over the GPUs.

GPU indexes cannot remove rows and silently ignore a filter. So a search fetches more rows than it needs and drops those
not allowed; if too few remain, the search runs on the CPU. A resource object serves one thread at a time.
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.forking import Forked
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.commit import Checkpoint
from qwen3_rag.index.exact import faiss, nothing
from qwen3_rag.index.lists import Lists
from qwen3_rag.index.protocols import Float32, Int64, RowsAndScores
from qwen3_rag.index.vectors import Rows

__all__ = ["GpuIndex", "GpuLists", "GpuRows", "Gpus", "search_device"]

MAX_K = 2048  # FAISS' limit on the GPU
TEMPORARY = 256 << 20  # bytes; FAISS' default of 1.5 GiB would take memory that the models need
CHUNK = 65_536  # rows copied at a time
logger = logging.getLogger("qwen3_rag")


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

    def search(self, queries: Float32, k: int, allowed: Bitmap | None, rows: int) -> list[RowsAndScores]:
        """For each query, the k best of the first `rows` rows; fewer if the search needs the CPU.

        Args:
            queries: Unit vectors (n, dimensions), float32.
            k: Number of rows.
            allowed: Rows to search; None is all.
            rows: Rows of the commit; the GPU may already hold more.
        """
        limit = k if allowed is None and rows == self.rows else min(4 * k + 64, self.rows)
        if limit > MAX_K:
            return [nothing() for _ in queries]
        by_shard: list[tuple[Int64, Float32]] = []
        with self._lock:
            for shard, ranges in zip(self._shards, self._ranges, strict=True):
                if ranges:
                    scores, positions = shard.search(queries, min(limit, shard.ntotal))
                    by_shard.append((_store_rows(positions, ranges), scores))
        numbers = np.concatenate([found for found, _ in by_shard], axis=1)
        scores = np.concatenate([scores for _, scores in by_shard], axis=1)
        return [_passing(*result, k, limit, allowed, rows) for result in zip(numbers, scores, strict=True)]


def _passing(numbers: Int64, scores: Float32, k: int, limit: int, allowed: Bitmap | None, rows: int) -> RowsAndScores:
    """The k best of one query's results that are allowed and among the first `rows` rows."""
    numbers, scores = numbers[numbers >= 0], scores[numbers >= 0]
    order = np.lexsort((numbers, -scores))[:limit]
    numbers, scores = numbers[order], scores[order]
    passing = numbers < rows
    if allowed is not None:
        passing &= bitmap.contains(allowed, np.minimum(numbers, rows - 1))
    return numbers[passing][:k], scores[passing][:k]


@dataclass(frozen=True)
class GpuIndex:
    """The rows on the GPUs as of one commit, which has the first `rows` of them."""

    gpu_rows: GpuRows
    rows: int

    def search(self, queries: Float32, k: int, allowed: Bitmap | None) -> list[RowsAndScores]:
        """As `VectorIndex.search`."""
        return self.gpu_rows.search(queries, k, allowed, self.rows)


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

    def nearest(self, queries: Float32, k: int, allowed: Bitmap | None, visited: int) -> list[Int64]:
        """As `CodeIndex.nearest`."""
        limit = min(k if allowed is None else 4 * k + 64, self.rows)
        visited = min(visited, self._lists)
        if limit > MAX_K or visited > MAX_K:
            return [np.empty(0, dtype=np.int64) for _ in queries]
        with self._lock:
            _, numbers = self._index.search(queries, limit, params=faiss().SearchParametersIVF(nprobe=visited))
        return [self._allowed(row[(row >= 0) & (row < self.rows)], k, allowed) for row in numbers]

    @staticmethod
    def _allowed(rows: Int64, k: int, allowed: Bitmap | None) -> Int64:
        if allowed is None:
            return rows
        rows = rows[bitmap.contains(allowed, rows)][:k]
        return rows if len(rows) == k else rows[:0]


class Gpus(Forked):
    """What a process keeps on its GPUs for one store. Thread-safe.

    Attributes:
        device: "gpu", or "cpu" without GPUs and once they have failed.
    """

    def __init__(self) -> None:
        self.device = search_device()
        self._rows: GpuRows | None = None
        self._lists: tuple[Checkpoint, GpuLists] | None = None
        self._lock = threading.Lock()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Start with a new lock; GPU memory belongs to the parent."""
        self._lock = threading.Lock()
        if self._rows is not None or self._lists is not None:
            self.device, self._rows, self._lists = "cpu", None, None
            logger.warning("the index on the GPU does not survive a fork; searching on the CPU")

    def rows(self, rows: Rows, generation: int) -> GpuIndex | None:
        """An index of a commit's rows, after copying the new ones to the GPUs; None if that fails."""
        count, dimensions = rows.values.shape
        with self._lock:
            try:
                if self._rows is None or self._rows.generation != generation:
                    self._rows = None  # free its memory first
                    self._rows = GpuRows(dimensions, generation)
                if self._rows.rows < count:
                    rows.check_range(self._rows.rows, count)
                    self._rows.add(rows.values[self._rows.rows :])
                return GpuIndex(self._rows, count)
            except RuntimeError as error:
                self._leave(error)
                return None

    def lists(self, lists: Lists) -> GpuLists | None:
        """A copy of inverted lists on the GPUs; None without GPUs, or if that fails."""
        if self.device != "gpu":
            return None
        with self._lock:
            if self._lists is None or self._lists[0] != lists.checkpoint:
                self._lists = None  # free its memory first
                try:
                    self._lists = lists.checkpoint, GpuLists(lists.index, lists.checkpoint.rows)
                except RuntimeError as error:
                    self._leave(error)
                    return None
            return self._lists[1]

    def _leave(self, error: RuntimeError) -> None:
        self.device = "cpu"
        self._rows = self._lists = None
        logger.warning("the index cannot be loaded onto the GPU; searching on the CPU: %s", str(error).splitlines()[0])


def _store_rows(positions: Int64, ranges: list[tuple[int, int]]) -> Int64:
    """The store's rows for positions in one GPU's index; -1 stays -1."""
    firsts, lengths = np.array(ranges, dtype=np.int64).T
    starts = np.cumsum(lengths) - lengths
    containing = np.maximum(np.searchsorted(starts, positions, side="right") - 1, 0)
    numbers: Int64 = np.where(positions < 0, -1, positions - starts[containing] + firsts[containing])
    return numbers
