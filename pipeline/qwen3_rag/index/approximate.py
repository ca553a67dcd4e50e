"""Approximate dense search: FAISS' inverted lists over eight-bit codes, refined on the stored vectors.

A checkpoint covers the rows of the file up to a number. How many lists a search visits is chosen by measuring, against
exact search, what share of the hundred nearest it finds.
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
from qwen3_rag.index import bits as sets
from qwen3_rag.index.bits import Bits
from qwen3_rag.index.exact import Found, best, faiss, scan, scores_of
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.pieces import DerivedFileError, Pieces, digest_of, mapped
from qwen3_rag.progress import progress

__all__ = ["Approximate", "Checkpoint", "build"]

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
CHUNK = 16_384  # rows converted to float32 at a time
PER_LIST = 40  # training vectors for each list; FAISS asks for 39 at least
MEMORY = 1 << 30  # bytes
LEAST = 16  # rows; below, FAISS has too few to make lists from, and exact search is as fast
MEASURED = 200  # queries
ROUNDS = 8  # of k-means
AT = 100  # recall@100
REFINE = 3  # times k candidates whose stored vectors are compared
logger = logging.getLogger("qwen3_rag")


@dataclass(frozen=True)
class Checkpoint:
    """What the store keeps of an approximate index: the file, what it covers, how it is searched, what that finds.

    Attributes:
        file: Name in the store's folder.
        generation: Generation of the rows.
        rows: Rows covered, from the first.
        lists: Inverted lists.
        visited: Lists that a search visits.
        recall: Share of the exact 100 nearest that it found, in the mean over `queries`.
        queries: How many queries that was measured on.
        measured_on: "passages" or "queries given".
        digest: XXH3 of what precedes the lists and of the lists' own digests, which end the file.
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
    """An open checkpoint. Its lists are mapped, so that processes share them.

    Args:
        folder: The store's.
        checkpoint: What the store keeps of it.

    Raises:
        DerivedFileError: The file is missing, or not as it was written.
    """

    def __init__(self, folder: Folder | Path, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        folder, name, header, lists = Folder.of(folder), checkpoint.file, checkpoint.header, checkpoint.lists
        path = folder.path / name
        self.map = mapped(folder, name, checkpoint.size)
        raw = self.map.bytes
        digests = raw[-8 * lists :].view("<u8")
        # FAISS would hang on or answer wrongly from a damaged file: it sees nothing that was not compared before.
        if digest_of(raw[:header], raw[-8 * lists :]) != checkpoint.digest:
            raise DerivedFileError(path, "is not as it was written")
        sizes = raw[header - 8 * lists : header].view("<u8").astype(np.int64)
        module = faiss()
        with folder.named(name) as link:
            self.lists = module.read_index(link, module.IO_FLAG_MMAP)
        self.lists.parallel_mode = 1  # the lists of one query are divided among the cores
        width = self.lists.code_size + 8
        self.pieces = Pieces(path, raw, np.concatenate([[header], header + np.cumsum(sizes * width)]), digests)

    def search(self, vectors: NDArray[Any], query: Float32, k: int, allowed: Bits | None, visited: int) -> Found:
        """Rows and exact scores of about the k best among the rows covered.

        Args:
            vectors: Mapped rows; those returned are to be checked by the caller before they are trusted.
            query: Unit vector.
            k: How many.
            allowed: Rows that may be found; None is all.
            visited: Lists to visit.
        """
        rows = self.nearest(query, REFINE * k, allowed, visited)
        return best([rows], [scores_of(vectors, rows, query)], k)

    def nearest(self, query: Float32, k: int, allowed: Bits | None, visited: int) -> Int64:
        """Rows of about the k best by their codes."""
        module = faiss()
        row = np.ascontiguousarray(query, dtype=np.float32)[None]
        nearness, numbers = self.lists.quantizer.search(row, min(visited, self.checkpoint.lists))
        self.pieces.check(numbers[0][numbers[0] >= 0])
        selector = None if allowed is None else module.IDSelectorBitmap(allowed)
        parameters = module.SearchParametersIVF(nprobe=numbers.shape[1], sel=selector)
        wanted = min(k, self.checkpoint.rows)
        scores, places = np.empty(wanted, dtype=np.float32), np.empty(wanted, dtype=np.int64)
        # Its Python form takes no parameters.
        given = [module.swig_ptr(x) for x in (row, numbers, nearness, scores, places)]
        self.lists.search_preassigned_c(1, given[0], wanted, *given[1:], False, parameters)
        found: Int64 = places[(places >= 0) & (places < self.checkpoint.rows)]
        return found


def build(
    place: Folder | Path,
    vectors: NDArray[Any],
    generation: int,
    live: Bits | None,
    recall: float,
    queries: Float32 | None = None,
    stop: threading.Event | None = None,
    memory: int = MEMORY,
) -> Checkpoint | None:
    """Train, fill, write and measure an index of mapped, checked rows; None if `recall` cannot be had or `stop` is set.

    Args:
        place: Folder where the file goes; it is synced, and no commit names it yet.
        vectors: Mapped rows (n, dimensions).
        generation: Their generation.
        live: Rows that were not removed, among at least these; None is all.
        recall: Least recall@100, 0 to 1.
        queries: Unit vectors (n, dimensions) to measure on; by default made from passages.
        stop: Once set, the work ends without a result.
        memory: Bytes that may be taken; half goes to the sample that lists are made from.
    """
    folder = Folder.of(place)
    rows, dimensions = vectors.shape
    if rows < LEAST:
        return None
    live = None if live is None else sets.resized(live, rows)
    began = time.monotonic()
    module = faiss()
    lists = max(16, int(4 * rows**0.5))
    index = module.IndexIVFScalarQuantizer(
        module.IndexFlatIP(dimensions), dimensions, lists, module.ScalarQuantizer.QT_8bit,
        module.METRIC_INNER_PRODUCT, False,
    )  # fmt: skip
    generator = np.random.default_rng(1)
    size = min(rows, PER_LIST * lists, memory // (2 * 4 * dimensions))
    chosen = np.sort(generator.choice(rows, size, replace=False))
    sample = np.ascontiguousarray(vectors[chosen], dtype=np.float32)
    clustering = module.Clustering(dimensions, lists)
    clustering.niter, clustering.min_points_per_centroid, clustering.seed, clustering.spherical = 1, 1, 1, True
    for _ in range(ROUNDS):
        # Each round goes on from the centroids of the one before; FAISS itself would not look up between them.
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
        # Read back and compared with exact search: a file that a full disk cut short would not pass.
        measured = measure(Approximate(folder, draft), vectors, live, recall, queries)
    except BaseException as error:
        with suppress(StoreError):
            folder.unlink(name)
        if isinstance(error, RuntimeError | OSError) and not isinstance(error, StoreError):
            raise StoreError(f"{folder.path / name} cannot be written: {error}") from error
        raise
    if measured is None:
        folder.unlink(name)
        logger.info("dense index: recall@%d of %.3f needs most lists; search stays exact", AT, recall)
        return None
    visited, reached, number = measured
    logger.info(
        "dense index: %d passages, %d lists, %d visited, recall@%d %.4f, made in %.0f s",
        rows, lists, visited, AT, reached, time.monotonic() - began,
    )  # fmt: skip
    source = "passages" if queries is None else "queries given"
    return replace(draft, visited=visited, recall=round(reached, 5), queries=number, measured_on=source)


def _write(folder: Folder, name: str, index: Any, vectors: NDArray[Any], stop: threading.Event | None) -> int | None:
    """Write a trained, empty index filled with rows, in FAISS' own format, then its lists' digests, and sync.

    FAISS would hold all lists in memory to write them. Here rows are told their lists, then encoded list by list.
    Returns the number of bytes before the lists, or None once `stop` is set.
    """
    rows, lists = len(vectors), index.nlist
    of_row = np.empty(rows, dtype=np.int32)
    with progress("dense index", 2 * rows) as done, folder.create(name) as out:
        for start in range(0, rows, CHUNK):
            if stop is not None and stop.is_set():
                return None
            part = np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32)
            of_row[start : start + CHUNK] = index.quantizer.search(part, 1)[1][:, 0]
            done(len(part))
        order, sizes = np.argsort(of_row, kind="stable"), np.bincount(of_row, minlength=lists)
        ends = np.cumsum(sizes)
        # The empty index ends with its empty lists: tag, numbers of lists and of bytes in a code, then their sizes.
        header = bytes(faiss().serialize_index(index))
        if header[-32:-28] != b"ilar":
            raise RuntimeError(f"FAISS wrote {header[-32:-28]!r} where its inverted lists were expected")
        out.write(header[:-12] + b"full" + np.uint64(lists).tobytes() + sizes.astype("<u8").tobytes())
        before, first, digests = out.tell(), 0, np.empty(lists, dtype="<u8")
        while first < lists:
            if stop is not None and stop.is_set():
                return None
            begin = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begin + CHUNK, side="right")))
            chosen = order[begin : ends[last - 1]]
            codes = index.sq.compute_codes(np.ascontiguousarray(vectors[chosen], dtype=np.float32))
            for number in range(first, last):
                own = slice(int(ends[number] - sizes[number]) - begin, int(ends[number]) - begin)
                raw = codes[own].tobytes() + chosen[own].astype("<i8").tobytes()
                digests[number] = xxhash.xxh3_64_intdigest(raw)
                out.write(raw)
            done(len(chosen))
            first = last
        out.write(digests.tobytes())
        out.flush()
        os.fsync(out.fileno())
    return before


def measure(
    index: Approximate, vectors: NDArray[Any], live: Bits | None, recall: float, queries: Float32 | None
) -> tuple[int, float, int] | None:
    """The fewest lists with which a share `recall` of the exact nearest is found, that share, and the queries asked."""
    rows = len(vectors)
    if queries is None:
        queries = _queries(vectors, live)
    truth = [set(scan(vectors, 0, rows, query, AT, live)[0].tolist()) for query in queries]
    visited = 1
    lists = index.checkpoint.lists
    while visited <= max(1, lists // 2):
        shares = [
            len(nearest.intersection(index.search(vectors, query, AT, live, visited)[0].tolist()))
            / max(1, len(nearest))
            for query, nearest in zip(queries, truth, strict=True)
        ]
        if np.mean(shares) >= recall:
            return visited, float(np.mean(shares)), len(queries)
        visited = max(visited + 1, int(visited * 1.3))
    return None


def _queries(vectors: NDArray[Any], live: Bits | None) -> Float32:
    """Queries made from passages: between three of them, and some noise.

    A single passage is too easy a question: what is nearest to it may all lie in one list, as with copies of a text.
    """
    generator = np.random.default_rng(2)
    there = np.arange(len(vectors)) if live is None else sets.places(live)
    chosen = np.sort(generator.choice(there, min(MEASURED, len(there)), replace=False))
    found = vectors[chosen].astype(np.float32)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    noise = generator.normal(size=found.shape).astype(np.float32)
    found = found + generator.permutation(found) + generator.permutation(found)
    found += 0.4 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries: Float32 = found / np.linalg.norm(found, axis=1, keepdims=True)
    return queries
