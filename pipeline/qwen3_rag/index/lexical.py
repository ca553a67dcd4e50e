"""Full-text search: BM25 over the postings of segments and of the tail that no segment covers yet."""

import threading
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.exact import best
from qwen3_rag.index.protocols import Norm, Part, Postings, RowsAndScores
from qwen3_rag.index.segments import hash_of
from qwen3_rag.index.text import query_terms, terms_of

__all__ = ["Bm25", "Tail"]

MANY = 4096  # postings of a term; with more, it pays to score only rows that can still be among the best
BLOCK_SIZE = 1 << 16  # postings that the tail collects before it sorts them into a block
MAX_MERGED = 1 << 21  # postings; larger blocks are not merged, so that no search waits long for a merge
K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)


class Block(NamedTuple):
    """Postings of a range of rows, by term.

    Attributes:
        terms: Hashes of the terms, each once, ascending.
        starts: Index of each term's first posting, and the total number of postings.
        rows: Rows with the term, counted from the tail's first row, ascending within each term.
        times: Frequency of the term in the row, at most 65,535.
    """

    terms: NDArray[np.uint64]
    starts: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    times: NDArray[np.uint16]

    @property
    def size(self) -> int:
        """Number of postings."""
        return len(self.rows)

    def postings(self, term: int) -> Postings:
        """Rows with a term, and the term's frequency in each."""
        position = int(np.searchsorted(self.terms, np.uint64(term)))
        if position == len(self.terms) or int(self.terms[position]) != term:
            return self.rows[:0], self.times[:0]
        start, stop = int(self.starts[position]), int(self.starts[position + 1])
        return self.rows[start:stop], self.times[start:stop]


def _block(hashes: NDArray[np.uint64], rows: NDArray[np.uint32], times: NDArray[np.uint16]) -> Block:
    """Sort postings, ordered by row, into a block."""
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    firsts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
    starts = np.append(firsts, len(hashes)).astype(np.uint32)
    return Block(hashes[firsts], starts, rows[order], times[order])


def _merged(blocks: Sequence[Block]) -> Block:
    """Merge adjacent blocks, in order of their rows, into one."""
    hashes = [np.repeat(block.terms, np.diff(block.starts)) for block in blocks]
    rows, times = [block.rows for block in blocks], [block.times for block in blocks]
    return _block(np.concatenate(hashes), np.concatenate(rows), np.concatenate(times))


class Tail:
    """The passages that no segment covers, indexed in memory as they are added.

    Postings are stored in a few sorted blocks, 6 bytes for each posting and 12 for each term. Blocks and lengths are
    replaced, never modified, so searches can read them while passages are added.

    Attributes:
        norm: Kept here by the search; None until the first one.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.norm: Norm | None = None
        self.lengths: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)
        self._blocks: tuple[Block, ...] = ()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, texts: Iterable[tuple[int, str]], rows: int) -> None:
        """Add passages (number, text) in ascending order, up to number `rows`; missing numbers count as empty."""
        with self._lock:
            lengths, where, times, hashes = array("I"), array("I"), array("I"), array("Q")
            size = len(self)
            for number, text in texts:
                row = number - self.first
                counts = terms_of(text)
                lengths.extend(repeat(0, row - size - len(lengths)))
                lengths.append(sum(counts.values()))
                where.extend(repeat(row, len(counts)))
                times.extend(counts.values())
                hashes.extend(map(hash_of, counts))
                if len(hashes) >= BLOCK_SIZE:
                    self._publish(lengths, where, times, hashes)
                    lengths, where, times, hashes = array("I"), array("I"), array("I"), array("Q")
                    size = len(self)
            lengths.extend(repeat(0, rows - self.first - size - len(lengths)))
            self._publish(lengths, where, times, hashes)

    def _publish(self, lengths: "array[int]", where: "array[int]", times: "array[int]", hashes: "array[int]") -> None:
        """Make passages visible to searches: postings before lengths, so that no row lacks its postings."""
        blocks = [*self._blocks]
        if hashes:
            capped = np.minimum(np.frombuffer(times, dtype=np.uint32), 65_535).astype(np.uint16)
            blocks.append(_block(np.array(hashes, dtype=np.uint64), np.array(where, dtype=np.uint32), capped))
        # Each block stays at most half the size of the one before: few blocks, and few merges for each posting.
        while len(blocks) > 1 and blocks[-2].size < 2 * blocks[-1].size and blocks[-2].size < MAX_MERGED:
            blocks[-2:] = [_merged(blocks[-2:])]
        self._blocks = tuple(blocks)
        self.lengths = np.concatenate([self.lengths, np.array(lengths, dtype=np.uint32)])

    def postings(self, term: int) -> Postings:
        """Rows with a term, counted from `first`, and the term's frequency in each."""
        postings = [block.postings(term) for block in self._blocks]
        postings = [part for part in postings if len(part[0])] or [(np.empty(0, np.uint32), np.empty(0, np.uint16))]
        if len(postings) == 1:
            return postings[0]
        return np.concatenate([rows for rows, _ in postings]), np.concatenate([times for _, times in postings])


class Bm25:
    """Ranks the passages of one commit by BM25.

    Args:
        parts: Segments and tail.
        rows: Rows of the commit; rows that a part has beyond them are ignored.
        live: Number of passages that were not removed.
    """

    def __init__(self, parts: Sequence[Part], rows: int, live: int) -> None:
        self.parts, self.rows, self.live = parts, rows, live

    def search(self, query: str, k: int, allowed: Bitmap | None) -> RowsAndScores:
        """As `TextIndex.search`: the best of the passages with at least one of the query's terms."""
        parts, live = self.parts, self.live
        lengths = [part.lengths[: max(0, self.rows - part.first)] for part in parts]
        total = sum(len(x) for x in lengths)
        mean = max(1.0, sum(int(x.sum(dtype=np.int64)) for x in lengths) / max(1, total))
        by_term = [
            [_below(part.postings(hash_of(term)), len(length)) for part, length in zip(parts, lengths, strict=True)]
            for term in query_terms(query)
        ]
        # Postings include removed passages until `optimize`, so the document frequency is capped at `live`.
        frequencies = [min(sum(len(where) for where, _ in postings), live) for postings in by_term]
        rarest = sorted(range(len(by_term)), key=frequencies.__getitem__)
        weights = [(K1 + 1) * float(np.log1p((live - frequencies[i] + 0.5) / (frequencies[i] + 0.5))) for i in rarest]
        best_rows, best_scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            flags = None if allowed is None else _flags(allowed, part.first, len(length))
            postings = [by_term[i][number] for i in rarest]
            part_rows, part_scores = _scored(postings, weights, _norm(part, length, mean), k, flags)
            best_rows.append(part_rows.astype(np.int64) + part.first)
            best_scores.append(part_scores)
        return best(best_rows, best_scores, k)


def _below(postings: Postings, count: int) -> Postings:
    """The postings of a part's first `count` rows."""
    rows, times = postings
    if not len(rows) or rows[-1] < count:
        return postings
    stop = int(np.searchsorted(rows, count))
    return rows[:stop], times[:stop]


def _scored(
    postings: Sequence[Postings],
    weights: Sequence[float],
    norm: NDArray[np.float32],
    k: int,
    flags: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Rows of one part that may be among the k best, and their scores.

    Terms are processed rarest first. Once no row outside the candidates can reach the k best with the remaining terms,
    only the candidates are looked up for those terms (MaxScore; Turtle and Flood, 1995), so common words cost little.

    Args:
        postings: Postings of each term.
        weights: Upper bound of each term's contribution to a score.
        norm: Length normalisation of each row.
        k: Number of passages.
        flags: Rows to search, one flag per row; None is all.
    """
    scores = np.zeros(len(norm), dtype=np.float32)
    candidates: NDArray[np.intp] | None = None
    for i, ((where, times), weight) in enumerate(zip(postings, weights, strict=True)):
        if candidates is not None or len(where) > MANY:
            candidates = _still_competitive(scores, candidates, k, flags, sum(weights[i:]))
        if candidates is None:
            rows, frequencies = where, times
        else:
            at = np.searchsorted(where, candidates.astype(where.dtype))
            at[at == len(where)] = 0
            has_term = where[at] == candidates if len(where) else np.zeros(len(candidates), dtype=bool)
            rows, frequencies = candidates[has_term], times[at[has_term]]
        if len(rows):
            tf = frequencies.astype(np.float32)
            scores[rows] += np.float32(weight) * tf / (tf + norm[rows])
    if candidates is None:
        if flags is not None:
            scores *= flags
        candidates = np.flatnonzero(scores > 0)
    values = scores[candidates]
    if len(values) > k:
        top = values >= np.partition(values, len(values) - k)[-k]
        candidates, values = candidates[top], values[top]
    return candidates, values


def _still_competitive(
    scores: NDArray[np.float32],
    candidates: NDArray[np.intp] | None,
    k: int,
    flags: NDArray[np.bool_] | None,
    rest: float,
) -> NDArray[np.intp] | None:
    """Rows that can still be among the k best if the remaining terms add at most `rest`; None if any row can."""
    rows = candidates
    if rows is None:
        rows = np.flatnonzero(scores > 0)
        if flags is not None:
            rows = rows[flags[rows]]
    if len(rows) < k:
        return candidates
    values, rest = scores[rows], rest * (1 + 1e-5)  # margin for rounding
    kth = np.partition(values, len(values) - k)[-k]
    return rows[values + rest >= kth] if kth > rest or candidates is not None else None


def _norm(part: Part, lengths: NDArray[np.uint32], mean: float) -> NDArray[np.float32]:
    """BM25's K1 · (1 − B + B · length / mean), kept by the part while mean and length count stay the same."""
    norm = part.norm
    if norm is None or norm.mean != mean or len(norm.values) != len(lengths):
        values = (K1 * (1 - B) + K1 * B / mean * lengths.astype(np.float32)).astype(np.float32)
        norm = part.norm = Norm(mean, values)
    return norm.values


def _flags(allowed: Bitmap, first: int, count: int) -> NDArray[np.bool_]:
    """One flag per row, for the `count` rows from `first`."""
    start = first // 8
    bits = np.unpackbits(allowed[start : (first + count + 7) // 8], bitorder="little")[first - 8 * start :][:count]
    flags = np.zeros(count, dtype=bool)
    flags[: len(bits)] = bits
    return flags
