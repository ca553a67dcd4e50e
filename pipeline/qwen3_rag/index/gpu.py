"""Search on GPUs: FAISS' flat index in float16, and its inverted lists, each sharded over several cards.

GPU indexes can neither remove rows nor heed a filter (they ignore one silently), so more is fetched than asked and what
is not allowed is left out; where that might fall short, the search goes to the CPU. One thread at a time per resource
object.
"""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index import bits as sets
from qwen3_rag.index.bits import Bits
from qwen3_rag.index.exact import Found, faiss

__all__ = ["GpuLists", "GpuRows", "search_device"]

MOST_K = 2048  # FAISS' limit on the GPU
TEMPORARY = 256 << 20  # bytes; FAISS would take 1.5 GiB, which the models need
CHUNK = 65_536  # rows copied at a time
Float32 = NDArray[np.float32]


def search_device() -> str:
    """Where dense search runs: "gpu" with faiss-gpu and a CUDA device, otherwise "cpu"."""
    module = faiss()
    # The CPU wheel has get_num_gpus too; only the GPU wheel has resources.
    return "gpu" if hasattr(module, "StandardGpuResources") and module.get_num_gpus() > 0 else "cpu"


def _resources() -> list[Any]:
    """One resource object for each card, to be kept as long as what is made with it."""
    module = faiss()
    found = []
    for _ in range(module.get_num_gpus()):
        resources = module.StandardGpuResources()
        resources.setTempMemory(TEMPORARY)
        found.append(resources)
    return found


class GpuRows:
    """A store's rows on the GPUs, added to as the store grows.

    Args:
        dimensions: Values in a row.
        generation: Of the rows' numbers.
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
        self._numbers: list[list[tuple[int, int]]] = [[] for _ in shards]  # first row and length of each piece

    def add(self, vectors: NDArray[Any]) -> None:
        """Add the rows (n, dimensions) that follow those it has, a piece to each card in turn."""
        with self._lock:
            for start in range(0, len(vectors), CHUNK):
                part = np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32)
                place = min(range(len(self._shards)), key=lambda i: self._shards[i].ntotal)
                self._shards[place].add(part)
                self._numbers[place].append((self.rows, len(part)))
                self.rows += len(part)

    def search(self, query: Float32, k: int, allowed: Bits | None, rows: int) -> Found | None:
        """The k best of the first `rows` rows for one query (dimensions,), or None if only the CPU can tell.

        Args:
            query: Unit vector.
            k: How many.
            allowed: Rows that may be found; None is all.
            rows: Rows of the commit: the GPU may hold more already.
        """
        wanted = k if allowed is None and rows == self.rows else min(4 * k + 64, self.rows)
        if wanted > MOST_K:
            return None
        row = np.ascontiguousarray(query, dtype=np.float32)[None]
        found_rows, found_scores = [], []
        with self._lock:
            for shard, pieces in zip(self._shards, self._numbers, strict=True):
                if not pieces:
                    continue
                scores, places = shard.search(row, min(wanted, shard.ntotal))
                there = places[0] >= 0
                found_rows.append(_numbered(places[0][there], pieces))
                found_scores.append(scores[0][there])
        numbers, scores = np.concatenate(found_rows), np.concatenate(found_scores)
        order = np.lexsort((numbers, -scores))[:wanted]
        numbers, scores = numbers[order], scores[order]
        kept = numbers < rows
        if allowed is not None:
            kept &= sets.holds(allowed, np.minimum(numbers, rows - 1))
        if kept.sum() < k and wanted < self.rows:
            return None
        return numbers[kept][:k], scores[kept][:k]


class GpuLists:
    """An approximate index on the GPUs: a copy of the CPU's, its lists divided among the cards.

    Args:
        index: FAISS' index of inverted lists, on the CPU.
        rows: Rows it covers.
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

    def nearest(self, query: Float32, k: int, allowed: Bits | None, visited: int) -> NDArray[np.int64] | None:
        """Rows of about the k best by their codes, or None if only the CPU can tell.

        Args:
            query: Unit vector.
            k: How many.
            allowed: Rows that may be found; None is all.
            visited: Lists to visit.
        """
        wanted = min(k if allowed is None else 4 * k + 64, self.rows)
        visited = min(visited, self._lists)
        if wanted > MOST_K or visited > MOST_K:
            return None
        row = np.ascontiguousarray(query, dtype=np.float32)[None]
        with self._lock:
            _, places = self._index.search(row, wanted, params=faiss().SearchParametersIVF(nprobe=visited))
        found: NDArray[np.int64] = places[0][(places[0] >= 0) & (places[0] < self.rows)]
        if allowed is None:
            return found
        found = found[sets.holds(allowed, found)][:k]
        return found if len(found) == k else None


def _numbered(places: NDArray[np.int64], pieces: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Rows of the store for places in a card's index."""
    firsts, lengths = np.array(pieces, dtype=np.int64).T
    starts = np.cumsum(lengths) - lengths
    piece = np.searchsorted(starts, places, side="right") - 1
    numbers: NDArray[np.int64] = places - starts[piece] + firsts[piece]
    return numbers
