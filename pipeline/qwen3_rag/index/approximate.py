"""Builds approximate dense indexes, and measures their recall.

The number of lists a search visits is the smallest that reaches the required recall@100, against exact search.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import StoreError
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.checksums import digest_of
from qwen3_rag.index.commit import Checkpoint
from qwen3_rag.index.exact import ExactIndex, faiss
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.lists import IvfIndex, Lists
from qwen3_rag.index.protocols import Float32, VectorIndex
from qwen3_rag.index.vectors import Rows
from qwen3_rag.progress import progress

__all__ = ["build"]

CHUNK = 16_384  # rows converted to float32 at a time
PER_LIST = 40  # training vectors for each list; FAISS recommends at least 39
MEMORY = 1 << 30  # bytes
MIN_ROWS = 16  # with fewer, FAISS cannot train lists, and exact search is as fast
QUERIES = 200  # to measure recall on
ITERATIONS = 8  # of k-means
AT = 100  # recall@100
logger = logging.getLogger("qwen3_rag")


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
        measurement = measure(Lists(folder, draft), Rows(vectors), live, recall, queries)
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
    lists: Lists, rows: Rows, live: Bitmap | None, recall: float, queries: Float32 | None
) -> tuple[int, float, int] | None:
    """Fewest lists to visit for a mean recall@100 of `recall`, the recall reached, and the number of queries.

    None if it takes more than half of the lists.
    """
    queries = _queries(rows.values, live) if queries is None else np.asarray(queries, dtype=np.float32)
    if not len(queries):
        return None
    truth = _nearest(ExactIndex(rows), queries, live)
    visited = 1
    while visited <= max(1, lists.checkpoint.lists // 2):
        hits = _nearest(IvfIndex(lists, rows, visited), queries, live)
        reached = np.mean([len(near & hit) / max(1, len(near)) for near, hit in zip(truth, hits, strict=True)])
        if reached >= recall:
            return visited, float(reached), len(queries)
        visited = max(visited + 1, int(visited * 1.3))
    return None


def _nearest(index: VectorIndex, queries: Float32, live: Bitmap | None) -> list[set[int]]:
    return [set(numbers.tolist()) for numbers, _ in index.search(queries, AT, live)]


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
