"""Segments: immutable files of postings, each for a range of passages.

A segment stores, for each term (by its 64-bit hash), the rows with the term and its frequency in each, and the length
of every row. Files are mapped, so that processes share them.
"""

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import StoreError
from qwen3_rag.index.checksums import Checksums, DerivedFileError, digest_of, digests_of, mapped
from qwen3_rag.index.commit import SegmentName
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.protocols import Norm, Postings
from qwen3_rag.index.text import terms_of_word, words_of

__all__ = ["MAX_ROWS", "Segment", "hash_of", "merge", "write_segment"]

MAGIC = b"qwen3-rag words 2\n"
ALIGNED = 64
MAX_ROWS = 65_536  # of a segment built from texts, where a row's number is 16 bits of a key
WORDS = 4 << 20  # counted in memory at a time
BLOCK = 1 << 16  # bytes of postings with one digest
SLICES = 64  # of the range of hashes; a merge holds one in memory at a time
Int64 = NDArray[np.int64]
COLUMNS = (("terms", "<u8"), ("starts", "<u8"), ("lengths", "<u4"), ("rows", "<u4"), ("times", "<u2"))


def hash_of(term: str) -> int:
    """The 64-bit XXH3 hash of a term."""
    return xxhash.xxh3_64_intdigest(term.encode())


class Segment:
    """An open segment.

    Attributes:
        norm: Kept here by the search; None until the first one.

    Raises:
        DerivedFileError: The file is missing or damaged.
    """

    def __init__(self, folder: Folder | Path, name: SegmentName) -> None:
        self.name, self.first = name, name.first
        self.norm: Norm | None = None
        folder = Folder.of(folder)
        path = folder.path / name.file
        self.map = mapped(folder, name.file, name.size)
        raw = self.map.bytes
        try:
            layout = json.loads(bytes(raw[len(MAGIC) : ALIGNED * 8]).split(b"\n", 1)[0])
            ends = [
                start + count * np.dtype(kind).itemsize
                for (_, kind), (start, count) in zip(COLUMNS, layout, strict=True)
            ]
        except (ValueError, TypeError) as error:
            raise DerivedFileError(path, "has a damaged header") from error
        if max(ends) > name.size:
            raise DerivedFileError(path, "has a damaged header")
        columns = {
            key: raw[start : start + count * np.dtype(kind).itemsize].view(kind)
            for (key, kind), (start, count) in zip(COLUMNS, layout, strict=True)
        }
        self.terms, self.starts, self.lengths = columns["terms"], columns["starts"], columns["lengths"]
        self.rows, self.times = columns["rows"], columns["times"]
        self._offsets = layout[3][0], layout[4][0]  # of rows and times
        blocks = _blocks(layout)
        table = raw[blocks[-1] :]
        if digest_of(raw[: blocks[0]], table) != name.digest:
            raise DerivedFileError(path, "does not match its checksum")
        self.checksums = Checksums(path, raw, blocks, table.view("<u8"))

    def postings(self, term: int) -> Postings:
        """Rows with a term, counted from `first`, and the term's frequency in each."""
        position = int(np.searchsorted(self.terms, np.uint64(term)))
        if position == len(self.terms) or int(self.terms[position]) != term:
            return self.rows[:0], self.times[:0]
        start, stop = int(self.starts[position]), int(self.starts[position + 1])
        for offset, width in zip(self._offsets, (4, 2), strict=True):
            self.checksums.check_bytes(offset + width * start, offset + width * stop)
        return self.rows[start:stop], self.times[start:stop]


def _blocks(layout: Sequence[Sequence[int]]) -> Int64:
    """Start of each checksummed block of the postings, and the end of the last block."""
    end = -(-(layout[4][0] + 2 * layout[4][1]) // ALIGNED) * ALIGNED
    return np.unique(np.append(np.arange(layout[3][0], end, BLOCK), end))


class _Numbers(dict[str, int]):
    """Numbers words from 0 in the order they first occur; lookups are as fast as a dict's."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def write_segment(
    folder: Folder | Path, generation: int, first: int, rows: int, texts: Iterable[tuple[int, str]]
) -> SegmentName:
    """Write a segment for `rows` passages from `first`; `texts` are (number, text), ascending, gaps allowed.

    Raises:
        StoreError: The disk is full or fails; the partial file is deleted.
    """
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows in one segment; expected at most {MAX_ROWS}")
    numbers, terms = _Numbers(), _Numbers()
    of_word: list[tuple[int, ...]] = []  # terms of each word
    lengths = np.zeros(rows, dtype=np.uint32)
    flat, word_rows = array("I"), array("I")
    keys: list[NDArray[np.uint64]] = []

    def count() -> None:
        """Turn the words collected so far into keys, one for each term of each passage, with its frequency."""
        of_word.extend(tuple(terms[t] for t in terms_of_word(word)) for word in islice(numbers, len(of_word), None))
        sizes = np.fromiter(map(len, of_word), dtype=np.int64, count=len(of_word))
        starts = np.cumsum(sizes) - sizes
        joined = np.fromiter(chain.from_iterable(of_word), dtype=np.uint64, count=int(sizes.sum()))
        words = np.frombuffer(flat, dtype=np.uint32)
        term_counts = sizes[words]
        where = np.repeat(np.frombuffer(word_rows, dtype=np.uint32), term_counts).astype(np.uint64)
        lengths[:] += np.bincount(where.astype(np.int64), minlength=rows).astype(np.uint32)
        within = np.arange(len(where)) - np.repeat(np.cumsum(term_counts) - term_counts, term_counts)
        occurrences = joined[np.repeat(starts[words], term_counts) + within]
        unique, times = np.unique(occurrences << np.uint64(32) | where << np.uint64(16), return_counts=True)
        keys.append(np.bitwise_or(unique, np.minimum(times, 65_535).astype(np.uint64)))

    for number, text in texts:
        words = words_of(text)
        flat.extend(map(numbers.__getitem__, words))
        word_rows.extend(repeat(number - first, len(words)))
        if len(flat) > WORDS:
            count()
            flat, word_rows = array("I"), array("I")
    if flat:
        count()
    hashes = np.array([hash_of(term) for term in terms], dtype=np.uint64)
    ranks = np.empty(len(hashes), dtype=np.uint64)
    ranks[np.argsort(hashes)] = np.arange(len(hashes), dtype=np.uint64)
    packed = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
    packed = np.sort(
        ranks[(packed >> np.uint64(32)).astype(np.int64)] << np.uint64(32) | packed & np.uint64(0xFFFFFFFF)
    )
    counts = np.bincount((packed >> np.uint64(32)).astype(np.int64), minlength=len(hashes)).astype(np.uint64)
    where = (packed >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.uint32)
    columns = (np.sort(hashes), counts, where, (packed & np.uint64(0xFFFF)).astype(np.uint16))
    return _write(folder, f"words-{generation}-{first}-{os.urandom(4).hex()}.seg", first, lengths, [columns])


Columns = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint16]]


def _columns(hashes: NDArray[np.uint64], rows: Any, times: Any) -> Columns:
    """Sort postings by term: the terms, postings of each term, rows (ascending within a term) and frequencies."""
    order = np.argsort(hashes, kind="stable")
    terms, counts = np.unique(hashes[order], return_counts=True)
    sorted_rows, sorted_times = np.asarray(rows, dtype=np.uint32)[order], np.asarray(times, dtype=np.uint16)[order]
    return terms, counts.astype(np.uint64), sorted_rows, sorted_times


def merge(
    folder: Folder | Path, generation: int, parts: Sequence[Segment], renumbered: Int64 | None = None
) -> SegmentName:
    """Merge adjacent segments into one, with a slice of the terms in memory at a time.

    Args:
        folder: Folder of the new file.
        generation: Generation of its rows.
        parts: The segments in order, without gaps between them.
        renumbered: New number of each passage from the first one of `parts`, -1 for removed passages.
    """
    for part in parts:
        part.checksums.check_all()
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
            columns = [np.concatenate(column) for column in (hashes, rows, times)]
            if renumbered is not None:
                columns[1] = renumbered[columns[1]]
                columns = [column[columns[1] >= 0] for column in columns]
            yield _columns(*columns)

    start = first if renumbered is None else 0
    return _write(folder, f"words-{generation}-{start}-{os.urandom(4).hex()}.seg", start, lengths, slices())


def _write(
    location: Folder | Path, file: str, first: int, lengths: NDArray[np.uint32], slices: Iterable[Columns]
) -> SegmentName:
    """Write a segment file, with the postings spilled to temporary files, and sync it; no commit names it yet."""
    folder = Folder.of(location)
    spills = {key: f"{file}.{key}.tmp" for key in ("rows", "times")}
    terms, counts = [], []
    try:
        with folder.create(spills["rows"]) as rows, folder.create(spills["times"]) as times:
            for part_terms, part_counts, part_rows, part_times in slices:
                terms.append(part_terms)
                counts.append(part_counts)
                part_rows.astype("<u4").tofile(rows)
                part_times.astype("<u2").tofile(times)
        starts = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(np.concatenate(counts), dtype=np.uint64)])
        total = int(starts[-1])
        columns = {"terms": np.concatenate(terms), "starts": starts, "lengths": lengths}
        sizes = [len(columns["terms"]), len(starts), len(lengths), total, total]
        at, layout = ALIGNED * 8, []
        for (_, kind), count in zip(COLUMNS, sizes, strict=True):
            layout.append((at, count))
            at = -(-(at + count * np.dtype(kind).itemsize) // ALIGNED) * ALIGNED
        with folder.create(file) as out:
            out.write((MAGIC + json.dumps(layout).encode() + b"\n").ljust(ALIGNED * 8, b" "))
            for (key, kind), (start, _) in zip(COLUMNS, layout, strict=True):
                out.write(b"\0" * (start - out.tell()))
                if key in columns:
                    out.write(columns[key].astype(kind).tobytes())
                else:
                    with os.fdopen(folder.open(spills[key], os.O_RDONLY), "rb") as source:
                        while chunk := source.read(4 << 20):
                            out.write(chunk)
            out.write(b"\0" * (at - out.tell()))
            out.flush()
            raw, blocks = folder.map(file).bytes, _blocks(layout)
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
