"""Approximate dense search: FAISS inverted lists over 8-bit codes, rescored with the stored vectors.

A checkpoint covers the first rows of the vector file; the rows after it are searched exactly.
"""

from pathlib import Path

import numpy as np

from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.checksums import Checksums, DerivedFileError, digest_of, mapped
from qwen3_rag.index.commit import Checkpoint
from qwen3_rag.index.exact import best, faiss, scan, scores_of
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.protocols import CodeIndex, Float32, Int64, RowsAndScores
from qwen3_rag.index.vectors import Rows

__all__ = ["IvfIndex", "Lists"]

REFINE = 3  # times k candidates are rescored with their stored vectors
SPREAD = 1.5  # a filter that allows a share s of the passages multiplies the lists visited by s**-SPREAD


class Lists:
    """An open checkpoint, its lists mapped so that processes share them.

    Args:
        folder: The store's folder.
        checkpoint: The store's record of it.

    Raises:
        DerivedFileError: The file is missing or damaged.
    """

    def __init__(self, folder: Folder | Path, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        folder, name, header, lists = Folder.of(folder), checkpoint.file, checkpoint.header, checkpoint.lists
        path = folder.path / name
        self.map = mapped(folder, name, checkpoint.size)
        raw = self.map.bytes
        digests = raw[-8 * lists :].view("<u8")
        # FAISS hangs on a damaged file or returns wrong rows, so everything it reads is checked first.
        if digest_of(raw[:header], raw[-8 * lists :]) != checkpoint.digest:
            raise DerivedFileError(path, "does not match its checksum")
        sizes = raw[header - 8 * lists : header].view("<u8").astype(np.int64)
        module = faiss()
        with folder.path_of(name) as link:
            self.index = module.read_index(link, module.IO_FLAG_MMAP)
        self.index.parallel_mode = 1  # divide the lists of one query among the cores
        width = self.index.code_size + 8
        starts = np.concatenate([[header], header + np.cumsum(sizes * width)])
        self.checksums = Checksums(path, raw, starts, digests)

    def nearest(self, queries: Float32, k: int, allowed: Bitmap | None, visited: int) -> list[Int64]:
        """As `CodeIndex.nearest`."""
        module = faiss()
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        list_scores, lists = self.index.quantizer.search(queries, min(visited, self.checkpoint.lists))
        self.checksums.check(np.unique(lists[lists >= 0]))
        selector = None if allowed is None else module.IDSelectorBitmap(allowed)
        parameters = module.SearchParametersIVF(nprobe=lists.shape[1], sel=selector)
        shape = len(queries), min(k, self.checkpoint.rows)
        scores, rows = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        # FAISS' Python wrapper of this function takes no search parameters.
        pointers = [module.swig_ptr(x) for x in (queries, lists, list_scores, scores, rows)]
        self.index.search_preassigned_c(shape[0], pointers[0], shape[1], *pointers[1:], False, parameters)
        return [row[(row >= 0) & (row < self.checkpoint.rows)] for row in rows]


class IvfIndex:
    """Inverted lists over the first rows of a commit, and exact search over the others.

    Args:
        lists: The lists.
        rows: The commit's rows.
        visited: Number of lists to visit where every row is allowed.
        copy: A copy of the lists on GPUs, asked first.
    """

    def __init__(self, lists: Lists, rows: Rows, visited: int, copy: CodeIndex | None = None) -> None:
        self.lists, self.rows, self.visited, self.copy = lists, rows, visited, copy

    def search(self, queries: Float32, k: int, allowed: Bitmap | None) -> list[RowsAndScores]:
        """As `VectorIndex.search`."""
        rows, covered = len(self.rows.values), self.lists.checkpoint.rows
        candidates = self._nearest(queries, REFINE * k, allowed)
        self.rows.check(np.concatenate(candidates))
        self.rows.check_range(covered, rows)
        tails = scan(self.rows.values, covered, rows, queries, k, allowed)
        return [
            best([near, tail[0]], [scores_of(self.rows.values, near, query), tail[1]], k)
            for query, near, tail in zip(queries, candidates, tails, strict=True)
        ]

    def _nearest(self, queries: Float32, k: int, allowed: Bitmap | None) -> list[Int64]:
        """Candidates from the GPUs, and from the CPU for queries that those cannot answer."""
        visited = self._visited(allowed)
        if self.copy is None:
            return self.lists.nearest(queries, k, allowed, visited)
        candidates = self.copy.nearest(queries, k, allowed, visited)
        missing = [i for i, rows in enumerate(candidates) if not len(rows)]
        if missing:
            for i, rows in zip(missing, self.lists.nearest(queries[missing], k, allowed, visited), strict=True):
                candidates[i] = rows
        return candidates

    def _visited(self, allowed: Bitmap | None) -> int:
        if allowed is None:
            return self.visited
        # The nearest allowed rows are farther away, in more lists than their share suggests.
        share = bitmap.count(allowed) / len(self.rows.values)
        return int(np.ceil(self.visited / share**SPREAD))
