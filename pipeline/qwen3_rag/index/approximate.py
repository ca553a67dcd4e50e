"""Approximate dense search: FAISS inverted lists over 8-bit codes, rescored with the stored vectors.

A checkpoint covers the first rows of the vector file. The number of lists a search visits is the smallest that reaches
the required recall@100, measured against exact search.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import StoreError
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.checksums import Checksums, DerivedFileError, digest_of, mapped
from qwen3_rag.index.exact import RowsAndScores, best, faiss, scan, scores_of
from qwen3_rag.index.folder import Folder
from qwen3_rag.progress import progress

__all__ = ["Approximate", "Checkpoint", "build"]

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
CHUNK = 16_384  # rows converted to float32 at a time
PER_LIST = 40  # training vectors for each list; FAISS recommends at least 39
MEMORY = 1 << 30  # bytes
MIN_ROWS = 16  # with fewer, FAISS cannot train lists, and exact search is as fast
QUERIES = 200  # to measure recall on
ITERATIONS = 8  # of k-means
AT = 100  # recall@100
REFINE = 3  # times k candidates are rescored with their stored vectors
logger = logging.getLogger("qwen3_rag")


@dataclass(frozen=True)
class Checkpoint:
    """The store's record of an approximate index: its file, the rows it covers, lists visited, measured recall.

    Attributes:
        file: Name in the store's folder.
        generation: Generation of the rows.
        rows: Number of rows covered, from row 0.
        lists: Number of inverted lists.
        visited: Number of lists that a search visits.
        recall: Mean recall@100 over `queries`, against exact search.
        queries: Number of queries used to measure it.
        measured_on: "passages" or "queries given".
        digest: XXH3 of the header and of the lists' digests, which end the file.
        header: Bytes before the lists.
        size: Bytes of the file.
    """

    file: str
    generation: int
    rows: int
    lists: int
    visited: int
    recall: float
    queries: int
    measured_on: str
    digest: int
    header: int
    size: int

    def describe(self) -> dict[str, Any]:
        """As JSON, for the store."""
        return asdict(self)


class Approximate:
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
            self.lists = module.read_index(link, module.IO_FLAG_MMAP)
        self.lists.parallel_mode = 1  # divide the lists of one query among the cores
        width = self.lists.code_size + 8
        starts = np.concatenate([[header], header + np.cumsum(sizes * width)])
        self.checksums = Checksums(path, raw, starts, digests)

    def search(
        self, vectors: NDArray[Any], query: Float32, k: int, allowed: Bitmap | None, visited: int
    ) -> RowsAndScores:
        """Rows and exact scores of about the k best among the rows covered.

        Args:
            vectors: Mapped rows (n, dimensions), not yet checked: the caller checks the blocks of the rows returned.
            query: Unit vector (dimensions,).
            k: Number of rows.
            allowed: Rows to search; None is all.
            visited: Number of lists to visit.
        """
        rows = self.nearest(query, REFINE * k, allowed, visited)
        return best([rows], [scores_of(vectors, rows, query)], k)

    def nearest(self, query: Float32, k: int, allowed: Bitmap | None, visited: int) -> Int64:
        """About the k best rows by their 8-bit codes."""
        module = faiss()
        row = np.ascontiguousarray(query, dtype=np.float32)[None]
        list_scores, lists = self.lists.quantizer.search(row, min(visited, self.checkpoint.lists))
        self.checksums.check(lists[0][lists[0] >= 0])
        selector = None if allowed is None else module.IDSelectorBitmap(allowed)
        parameters = module.SearchParametersIVF(nprobe=lists.shape[1], sel=selector)
        limit = min(k, self.checkpoint.rows)
        scores, rows = np.empty(limit, dtype=np.float32), np.empty(limit, dtype=np.int64)
        # FAISS' Python wrapper of this function takes no search parameters.
        pointers = [module.swig_ptr(x) for x in (row, lists, list_scores, scores, rows)]
        self.lists.search_preassigned_c(1, pointers[0], limit, *pointers[1:], False, parameters)
        valid: Int64 = rows[(rows >= 0) & (rows < self.checkpoint.rows)]
        return valid


def build(
    location: Folder | Path,
    vectors: NDArray[Any],
    generation: int,
    live: Bitmap | None,
    recall: float,
    queries: Float32 | None = None,
    stop: threading.Event | None = None,
    memory: int = MEMORY,
) -> Checkpoint | None:
    """Build an approximate index and measure its recall; None if it cannot reach `recall`, or once `stop` is set.

    Args:
        location: Folder of the new file; the file is synced, and no commit names it yet.
        vectors: Mapped, checked rows (n, dimensions).
        generation: Their generation.
        live: Rows that were not removed; may cover more than n rows; None is all.
        recall: Required recall@100, 0 to 1.
        queries: Unit vectors (n, dimensions) to measure on; by default derived from passages.
        stop: Once set, building stops.
        memory: Bytes to use; half of them for the training sample.
    """
    folder = Folder.of(location)
    rows, dimensions = vectors.shape
    if rows < MIN_ROWS:
        return None
    live = None if live is None else bitmap.resized(live, rows)
    started = time.monotonic()
    module = faiss()
    lists = max(16, int(4 * rows**0.5))
    index = module.IndexIVFScalarQuantizer(
        module.IndexFlatIP(dimensions), dimensions, lists, module.ScalarQuantizer.QT_8bit,
        module.METRIC_INNER_PRODUCT, False,
    )  # fmt: skip
    generator = np.random.default_rng(1)
    size = min(rows, PER_LIST * lists, memory // (2 * 4 * dimensions))
    sampled = np.sort(generator.choice(rows, size, replace=False))
    sample = np.ascontiguousarray(vectors[sampled], dtype=np.float32)
    clustering = module.Clustering(dimensions, lists)
    clustering.niter, clustering.min_points_per_centroid, clustering.seed, clustering.spherical = 1, 1, 1, True
    for _ in range(ITERATIONS):
        # One iteration per call, each starting from the last centroids, so that `stop` is checked between them.
        if stop is not None and stop.is_set():
            return None
        clustering.train(sample, index.quantizer)
    index.train(sample)
    del sample
    name = f"dense-{generation}-{rows}-{os.urandom(4).hex()}.faiss"
    try:
        header = _write(folder, name, index, vectors, stop)
        if header is None:
            folder.unlink(name)
            return None
        raw = folder.map(name).bytes
        digest = digest_of(raw[:header], raw[-8 * lists :])
        draft = Checkpoint(name, generation, rows, lists, lists, 1.0, 0, "", digest, header, len(raw))
        # Measured on the file as read back, so a file that a full disk cut short is not accepted.
        measurement = measure(Approximate(folder, draft), vectors, live, recall, queries)
    except BaseException as error:
        with suppress(StoreError):
            folder.unlink(name)
        if isinstance(error, RuntimeError | OSError) and not isinstance(error, StoreError):
            raise StoreError(f"{folder.path / name} cannot be written: {error}") from error
        raise
    if measurement is None:
        folder.unlink(name)
        logger.info("dense index: recall@%d of %.3f needs most lists; search stays exact", AT, recall)
        return None
    visited, measured_recall, query_count = measurement
    logger.info(
        "dense index: %d passages, %d lists, %d visited, recall@%d %.4f, built in %.0f s",
        rows, lists, visited, AT, measured_recall, time.monotonic() - started,
    )  # fmt: skip
    source = "passages" if queries is None else "queries given"
    return replace(draft, visited=visited, recall=round(measured_recall, 5), queries=query_count, measured_on=source)


def _write(folder: Folder, name: str, index: Any, vectors: NDArray[Any], stop: threading.Event | None) -> int | None:
    """Write a trained, empty index and its rows in FAISS' format, then the lists' digests, and sync the file.

    FAISS holds all lists in memory while it writes them. This assigns rows to lists first, then encodes list by list.
    Returns the number of bytes before the lists, or None once `stop` is set.
    """
    rows, lists = len(vectors), index.nlist
    list_of_row = np.empty(rows, dtype=np.int32)
    with progress("dense index", 2 * rows) as advance, folder.create(name) as out:
        for start in range(0, rows, CHUNK):
            if stop is not None and stop.is_set():
                return None
            part = np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32)
            list_of_row[start : start + CHUNK] = index.quantizer.search(part, 1)[1][:, 0]
            advance(len(part))
        order, sizes = np.argsort(list_of_row, kind="stable"), np.bincount(list_of_row, minlength=lists)
        ends = np.cumsum(sizes)
        # The empty index ends with its empty lists: tag, number of lists, bytes in a code, then the lists' sizes.
        header = bytes(faiss().serialize_index(index))
        if header[-32:-28] != b"ilar":
            raise RuntimeError(f"FAISS wrote {header[-32:-28]!r} where its inverted lists were expected")
        out.write(header[:-12] + b"full" + np.uint64(lists).tobytes() + sizes.astype("<u8").tobytes())
        header_size, first, digests = out.tell(), 0, np.empty(lists, dtype="<u8")
        while first < lists:
            if stop is not None and stop.is_set():
                return None
            begin = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begin + CHUNK, side="right")))
            members = order[begin : ends[last - 1]]
            codes = index.sq.compute_codes(np.ascontiguousarray(vectors[members], dtype=np.float32))
            for number in range(first, last):
                span = slice(int(ends[number] - sizes[number]) - begin, int(ends[number]) - begin)
                raw = codes[span].tobytes() + members[span].astype("<i8").tobytes()
                digests[number] = xxhash.xxh3_64_intdigest(raw)
                out.write(raw)
            advance(len(members))
            first = last
        out.write(digests.tobytes())
        out.flush()
        os.fsync(out.fileno())
    return header_size


def measure(
    index: Approximate, vectors: NDArray[Any], live: Bitmap | None, recall: float, queries: Float32 | None
) -> tuple[int, float, int] | None:
    """Fewest lists to visit for a mean recall@100 of `recall`, the recall reached, and the number of queries.

    None if it takes more than half of the lists.
    """
    rows = len(vectors)
    if queries is None:
        queries = _queries(vectors, live)
    truth = [set(scan(vectors, 0, rows, query, AT, live)[0].tolist()) for query in queries]
    visited = 1
    lists = index.checkpoint.lists
    while visited <= max(1, lists // 2):
        recalls = [
            len(nearest.intersection(index.search(vectors, query, AT, live, visited)[0].tolist()))
            / max(1, len(nearest))
            for query, nearest in zip(queries, truth, strict=True)
        ]
        if np.mean(recalls) >= recall:
            return visited, float(np.mean(recalls)), len(queries)
        visited = max(visited + 1, int(visited * 1.3))
    return None


def _queries(vectors: NDArray[Any], live: Bitmap | None) -> Float32:
    """Synthetic queries: sums of three passages' vectors plus noise.

    A single passage is too easy a query: all its nearest neighbours may lie in one list, as copies of a text do.
    """
    generator = np.random.default_rng(2)
    rows = np.arange(len(vectors)) if live is None else bitmap.to_rows(live)
    sampled = np.sort(generator.choice(rows, min(QUERIES, len(rows)), replace=False))
    sample = vectors[sampled].astype(np.float32)
    sample /= np.maximum(np.linalg.norm(sample, axis=1, keepdims=True), 1e-12)
    noise = generator.normal(size=sample.shape).astype(np.float32)
    sums = sample + generator.permutation(sample) + generator.permutation(sample)
    sums += 0.4 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries: Float32 = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return queries
