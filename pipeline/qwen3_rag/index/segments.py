"""Segments: immutable files of postings for ranges of passages.

For each term, by its 64-bit hash, the rows that hold it and how often; and each row's length. Files are mapped, so that
processes share them.
"""

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import StoreError
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.pieces import DerivedFileError, Pieces, digest_of, digests_of, mapped
from qwen3_rag.index.text import terms_of_word, words_of

__all__ = ["MOST_ROWS", "Postings", "Segment", "SegmentName", "hash_of", "merge", "write_segment"]

MAGIC = b"qwen3-rag words 2\n"
ALIGNED = 64
MOST_ROWS = 65_536  # of a segment made from texts: a row's number is 16 bits of a key there
WORDS = 4 << 20  # counted at a time, in memory
BLOCK = 1 << 16  # bytes of postings under one digest
SLICES = 64  # of the range of hashes, one in memory at a time when segments are merged
Int64 = NDArray[np.int64]
Postings = tuple[NDArray[np.uint32], NDArray[np.uint16]]
COLUMNS = (("terms", "<u8"), ("starts", "<u8"), ("lengths", "<u4"), ("rows", "<u4"), ("times", "<u2"))


@dataclass(frozen=True)
class SegmentName:
    """What the store keeps of a segment.

    Attributes:
        file: Name in the store's folder.
        first: First row it covers.
        rows: How many.
        size: Bytes of the file.
        digest: XXH3 of what precedes the postings and of their digests, which end the file.
    """

    file: str
    first: int
    rows: int
    size: int
    digest: int

    def describe(self) -> dict[str, Any]:
        """As JSON, for the store."""
        return asdict(self)


def hash_of(term: str) -> int:
    """A term's number: its first 64 bits of XXH3."""
    return xxhash.xxh3_64_intdigest(term.encode())


class Segment:
    """An open segment.

    Raises:
        DerivedFileError: The file is missing or not as it was written.
    """

    def __init__(self, folder: Folder | Path, name: SegmentName) -> None:
        self.name, self.first = name, name.first
        folder = Folder.of(folder)
        path = folder.path / name.file
        self.map = mapped(folder, name.file, name.size)
        raw = self.map.bytes
        try:
            places = json.loads(bytes(raw[len(MAGIC) : ALIGNED * 8]).split(b"\n", 1)[0])
            ends = [
                start + count * np.dtype(kind).itemsize
                for (_, kind), (start, count) in zip(COLUMNS, places, strict=True)
            ]
        except (ValueError, TypeError) as error:
            raise DerivedFileError(path, "is not as it was written") from error
        if max(ends) > name.size:
            raise DerivedFileError(path, "is not as it was written")
        columns = {
            key: raw[start : start + count * np.dtype(kind).itemsize].view(kind)
            for (key, kind), (start, count) in zip(COLUMNS, places, strict=True)
        }
        self.terms, self.starts, self.lengths = columns["terms"], columns["starts"], columns["lengths"]
        self.rows, self.times = columns["rows"], columns["times"]
        self._at = places[3][0], places[4][0]  # of rows and times
        blocks = _blocks(places)
        table = raw[blocks[-1] :]
        if digest_of(raw[: blocks[0]], table) != name.digest:
            raise DerivedFileError(path, "is not as it was written")
        self.pieces = Pieces(path, raw, blocks, table.view("<u8"))

    def postings(self, term: int) -> Postings:
        """Rows, counted from `first`, that hold a term, and how often."""
        place = int(np.searchsorted(self.terms, np.uint64(term)))
        if place == len(self.terms) or int(self.terms[place]) != term:
            return self.rows[:0], self.times[:0]
        start, stop = int(self.starts[place]), int(self.starts[place + 1])
        for at, width in zip(self._at, (4, 2), strict=True):
            self.pieces.check_bytes(at + width * start, at + width * stop)
        return self.rows[start:stop], self.times[start:stop]


def _blocks(places: Sequence[Sequence[int]]) -> Int64:
    """Where the blocks of the postings start, each with a digest of its own, and where the last one ends."""
    end = -(-(places[4][0] + 2 * places[4][1]) // ALIGNED) * ALIGNED
    return np.unique(np.append(np.arange(places[3][0], end, BLOCK), end))


class _Numbers(dict[str, int]):
    """Words and their numbers, given at first sight; looked up at the speed of a dict."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def write_segment(
    folder: Folder | Path, generation: int, first: int, rows: int, texts: Iterable[tuple[int, str]]
) -> SegmentName:
    """Write a segment for `rows` passages from `first`, out of the texts of those that are there, numbers rising.

    Raises:
        StoreError: The disk is full or fails; nothing is left behind.
    """
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows in one segment; expected at most {MOST_ROWS}")
    numbers, terms = _Numbers(), _Numbers()
    of_word: list[tuple[int, ...]] = []  # terms of each word
    lengths = np.zeros(rows, dtype=np.uint32)
    flat, places = array("I"), array("I")
    keys: list[NDArray[np.uint64]] = []

    def count() -> None:
        """Bring the words gathered so far down to a key for each term of each passage."""
        of_word.extend(tuple(terms[t] for t in terms_of_word(word)) for word in islice(numbers, len(of_word), None))
        sizes = np.fromiter(map(len, of_word), dtype=np.int64, count=len(of_word))
        starts = np.cumsum(sizes) - sizes
        joined = np.fromiter(chain.from_iterable(of_word), dtype=np.uint64, count=int(sizes.sum()))
        words = np.frombuffer(flat, dtype=np.uint32)
        often = sizes[words]
        where = np.repeat(np.frombuffer(places, dtype=np.uint32), often).astype(np.uint64)
        lengths[:] += np.bincount(where.astype(np.int64), minlength=rows).astype(np.uint32)
        within = np.arange(len(where)) - np.repeat(np.cumsum(often) - often, often)
        found = joined[np.repeat(starts[words], often) + within]
        unique, times = np.unique(found << np.uint64(32) | where << np.uint64(16), return_counts=True)
        keys.append(np.bitwise_or(unique, np.minimum(times, 65_535).astype(np.uint64)))

    for number, text in texts:
        words = words_of(text)
        flat.extend(map(numbers.__getitem__, words))
        places.extend(repeat(number - first, len(words)))
        if len(flat) > WORDS:
            count()
            flat, places = array("I"), array("I")
    if flat:
        count()
    hashes = np.array([hash_of(term) for term in terms], dtype=np.uint64)
    ranks = np.empty(len(hashes), dtype=np.uint64)
    ranks[np.argsort(hashes)] = np.arange(len(hashes), dtype=np.uint64)
    every = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
    every = np.sort(ranks[(every >> np.uint64(32)).astype(np.int64)] << np.uint64(32) | every & np.uint64(0xFFFFFFFF))
    counts = np.bincount((every >> np.uint64(32)).astype(np.int64), minlength=len(hashes)).astype(np.uint64)
    where = (every >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.uint32)
    columns = (np.sort(hashes), counts, where, (every & np.uint64(0xFFFF)).astype(np.uint16))
    return _write(folder, f"words-{generation}-{first}-{os.urandom(4).hex()}.seg", first, lengths, [columns])


Columns = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint16]]


def _arranged(hashes: NDArray[np.uint64], rows: Any, times: Any) -> Columns:
    """Terms in order, how many postings each has, and the postings in that order; rows rise within a term."""
    order = np.argsort(hashes, kind="stable")
    terms, counts = np.unique(hashes[order], return_counts=True)
    where, often = np.asarray(rows, dtype=np.uint32)[order], np.asarray(times, dtype=np.uint16)[order]
    return terms, counts.astype(np.uint64), where, often


def merge(
    folder: Folder | Path, generation: int, parts: Sequence[Segment], renumbered: Int64 | None = None
) -> SegmentName:
    """One segment in place of several neighbours, in order; a slice of the terms in memory at a time.

    Args:
        folder: Where the file goes.
        generation: Of the numbers in it.
        parts: The segments, without gaps between them.
        renumbered: New number of each passage from the first one of `parts`, -1 for those that were removed.
    """
    for part in parts:
        part.pieces.check_all()
    first = parts[0].first
    lengths = np.concatenate([part.lengths for part in parts])
    if renumbered is not None:
        lengths = lengths[renumbered[: len(lengths)] >= 0]
    edges = [(edge << 64) // SLICES for edge in range(SLICES)]

    def slices() -> Iterable[Columns]:
        for at, low in enumerate(edges):
            hashes, rows, times = [], [], []
            for part in parts:
                begin = int(np.searchsorted(part.terms, np.uint64(low)))
                last = at + 1 == len(edges)
                end = len(part.terms) if last else int(np.searchsorted(part.terms, np.uint64(edges[at + 1])))
                start, stop = int(part.starts[begin]), int(part.starts[end])
                hashes.append(np.repeat(part.terms[begin:end], np.diff(part.starts[begin : end + 1]).astype(np.int64)))
                rows.append(part.rows[start:stop] + np.uint32(part.first - first))
                times.append(part.times[start:stop])
            found = [np.concatenate(columns) for columns in (hashes, rows, times)]
            if renumbered is not None:
                found[1] = renumbered[found[1]]
                found = [column[found[1] >= 0] for column in found]
            yield _arranged(*found)

    start = first if renumbered is None else 0
    return _write(folder, f"words-{generation}-{start}-{os.urandom(4).hex()}.seg", start, lengths, slices())


def _write(
    place: Folder | Path, file: str, first: int, lengths: NDArray[np.uint32], slices: Iterable[Columns]
) -> SegmentName:
    """Write the columns, large ones by way of files of their own, and sync; no commit names the file yet."""
    folder = Folder.of(place)
    spills = {key: f"{file}.{key}.tmp" for key in ("rows", "times")}
    terms, counts = [], []
    try:
        with folder.create(spills["rows"]) as rows, folder.create(spills["times"]) as times:
            for found in slices:
                terms.append(found[0])
                counts.append(found[1])
                found[2].astype("<u4").tofile(rows)
                found[3].astype("<u2").tofile(times)
        starts = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(np.concatenate(counts), dtype=np.uint64)])
        total = int(starts[-1])
        columns = {"terms": np.concatenate(terms), "starts": starts, "lengths": lengths}
        sizes = [len(columns["terms"]), len(starts), len(lengths), total, total]
        at, places = ALIGNED * 8, []
        for (_, kind), count in zip(COLUMNS, sizes, strict=True):
            places.append((at, count))
            at = -(-(at + count * np.dtype(kind).itemsize) // ALIGNED) * ALIGNED
        with folder.create(file) as out:
            out.write((MAGIC + json.dumps(places).encode() + b"\n").ljust(ALIGNED * 8, b" "))
            for (key, kind), (start, _) in zip(COLUMNS, places, strict=True):
                out.write(b"\0" * (start - out.tell()))
                if key in columns:
                    out.write(columns[key].astype(kind).tobytes())
                else:
                    with os.fdopen(folder.open(spills[key], os.O_RDONLY), "rb") as source:
                        while chunk := source.read(4 << 20):
                            out.write(chunk)
            out.write(b"\0" * (at - out.tell()))
            out.flush()
            raw, blocks = folder.map(file).bytes, _blocks(places)
            table = digests_of(raw, blocks).view(np.uint8)
            out.write(table.tobytes())
            out.flush()
            os.fsync(out.fileno())
        return SegmentName(file, first, len(lengths), at + len(table), digest_of(raw[: blocks[0]], table))
    except BaseException as error:
        with suppress(StoreError):
            folder.unlink(file)
        if isinstance(error, OSError):
            raise StoreError(f"{folder.path / file} cannot be written: {error}") from error
        raise
    finally:
        with suppress(StoreError):
            for spill in spills.values():
                folder.unlink(spill)
