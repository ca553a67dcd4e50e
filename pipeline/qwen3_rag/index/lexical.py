"""Full-text search: BM25 over postings in segments, and over the tail that no segment covers yet."""

import threading
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index.bits import Bits
from qwen3_rag.index.exact import Found, best
from qwen3_rag.index.segments import Postings, hash_of
from qwen3_rag.index.text import query_terms, terms_of

__all__ = ["Part", "Tail", "search"]

MANY = 4096  # postings of a term that are worth avoiding
FROZEN = 1 << 16  # postings that a tail gathers before it sorts them into a block
LARGEST = 1 << 21  # postings of a block that is not merged any more: no search waits long for a merge
K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)


class Part(Protocol):
    """What search needs of a segment or the tail."""

    first: int

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Terms of each row."""

    def postings(self, term: int) -> Postings:
        """Rows, counted from `first`, that hold a term, and how often."""


class Block(NamedTuple):
    """Postings of some neighbouring rows, by term.

    Attributes:
        terms: Hashes of the terms, each once, rising.
        starts: Where each term's postings start, and their number at the end.
        rows: Rows that hold a term, counted from the tail's first, rising within the term.
        times: How often, 65,535 at most.
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
        """A term's rows, and how often each holds it."""
        place = int(np.searchsorted(self.terms, np.uint64(term)))
        if place == len(self.terms) or int(self.terms[place]) != term:
            return self.rows[:0], self.times[:0]
        start, stop = int(self.starts[place]), int(self.starts[place + 1])
        return self.rows[start:stop], self.times[start:stop]


def _block(hashes: NDArray[np.uint64], rows: NDArray[np.uint32], times: NDArray[np.uint16]) -> Block:
    """The block of some postings, given row by row."""
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    firsts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
    starts = np.append(firsts, len(hashes)).astype(np.uint32)
    return Block(hashes[firsts], starts, rows[order], times[order])


def _joined(blocks: Sequence[Block]) -> Block:
    """One block in place of neighbours, the one of the lower rows first."""
    hashes = [np.repeat(block.terms, np.diff(block.starts)) for block in blocks]
    rows, times = [block.rows for block in blocks], [block.times for block in blocks]
    return _block(np.concatenate(hashes), np.concatenate(rows), np.concatenate(times))


class Tail:
    """Passages that no segment covers, in memory; grows as they are added.

    Postings lie in a few sorted blocks, 6 bytes each and 12 for a term. Blocks and lengths are never changed, only
    replaced, so a search reads them while passages are added.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.lengths: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)
        self._blocks: tuple[Block, ...] = ()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, texts: Iterable[tuple[int, str]], rows: int) -> None:
        """Add passages (number, text), numbers rising, up to number `rows`; those left out are empty."""
        with self._lock:
            lengths, where, times, hashes = array("I"), array("I"), array("I"), array("Q")
            before = len(self)
            for number, text in texts:
                row = number - self.first
                counts = terms_of(text)
                lengths.extend(repeat(0, row - before - len(lengths)))
                lengths.append(sum(counts.values()))
                where.extend(repeat(row, len(counts)))
                times.extend(counts.values())
                hashes.extend(map(hash_of, counts))
                if len(hashes) >= FROZEN:
                    self._freeze(lengths, where, times, hashes)
                    lengths, where, times, hashes = array("I"), array("I"), array("I"), array("Q")
                    before = len(self)
            lengths.extend(repeat(0, rows - self.first - before - len(lengths)))
            self._freeze(lengths, where, times, hashes)

    def _freeze(self, lengths: "array[int]", where: "array[int]", times: "array[int]", hashes: "array[int]") -> None:
        """Publish passages: postings before lengths, so that no row is there without its postings."""
        blocks = [*self._blocks]
        if hashes:
            often = np.minimum(np.frombuffer(times, dtype=np.uint32), 65_535).astype(np.uint16)
            blocks.append(_block(np.array(hashes, dtype=np.uint64), np.array(where, dtype=np.uint32), often))
        # Sizes stay more than halving, so blocks remain few and a posting is moved a few times only.
        while len(blocks) > 1 and blocks[-2].size < 2 * blocks[-1].size and blocks[-2].size < LARGEST:
            blocks[-2:] = [_joined(blocks[-2:])]
        self._blocks = tuple(blocks)
        self.lengths = np.concatenate([self.lengths, np.array(lengths, dtype=np.uint32)])

    def postings(self, term: int) -> Postings:
        """Rows, counted from `first`, that hold a term, and how often."""
        parts = [block.postings(term) for block in self._blocks]
        held = [part for part in parts if len(part[0])] or [(np.empty(0, np.uint32), np.empty(0, np.uint16))]
        if len(held) == 1:
            return held[0]
        return np.concatenate([rows for rows, _ in held]), np.concatenate([times for _, times in held])


def search(parts: Sequence[Part], query: str, k: int, rows: int, allowed: Bits | None, live: int) -> Found:
    """The k passages with the highest BM25, of those that hold any of the query's terms.

    Args:
        parts: Segments and tail.
        query: Text, in any script.
        k: How many at most.
        rows: Rows of the commit; what a part has beyond them, added meanwhile, counts for nothing.
        allowed: Rows that may be found; None is all.
        live: Passages that were not removed.
    """
    lengths = [part.lengths[: max(0, rows - part.first)] for part in parts]
    total = sum(len(x) for x in lengths)
    mean = max(1.0, sum(int(x.sum(dtype=np.int64)) for x in lengths) / max(1, total))
    held = [
        [_below(part.postings(hash_of(term)), len(length)) for part, length in zip(parts, lengths, strict=True)]
        for term in query_terms(query)
    ]
    # Removed passages count until `optimize`: never more than there are.
    frequencies = [min(sum(len(where) for where, _ in found), live) for found in held]
    rarest = sorted(range(len(held)), key=frequencies.__getitem__)
    weights = [(K1 + 1) * float(np.log1p((live - frequencies[i] + 0.5) / (frequencies[i] + 0.5))) for i in rarest]
    best_rows, best_scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for place, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        flags = None if allowed is None else _flags(allowed, part.first, len(length))
        postings = [held[i][place] for i in rarest]
        found = _scored(postings, weights, _norm(part, length, mean), k, flags)
        best_rows.append(found[0].astype(np.int64) + part.first)
        best_scores.append(found[1])
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

    Terms come rarest first. Once the k-th best is ahead of all that the terms to come can give, only rows in reach of
    it are looked up for these (the idea of MaxScore; Turtle and Flood, 1995): common words then cost little.

    Args:
        postings: Of each term.
        weights: What each term gives at the most.
        norm: Length normalisation of each row.
        k: How many.
        flags: Rows that may be found; None is all.
    """
    scores = np.zeros(len(norm), dtype=np.float32)
    in_play: NDArray[np.intp] | None = None
    for i, ((where, times), weight) in enumerate(zip(postings, weights, strict=True)):
        if in_play is not None or len(where) > MANY:
            in_play = _in_reach(scores, in_play, k, flags, sum(weights[i:]))
        if in_play is None:
            rows, often = where, times
        else:
            at = np.searchsorted(where, in_play.astype(where.dtype))
            at[at == len(where)] = 0
            hit = where[at] == in_play if len(where) else np.zeros(len(in_play), dtype=bool)
            rows, often = in_play[hit], times[at[hit]]
        if len(rows):
            given = often.astype(np.float32)
            scores[rows] += np.float32(weight) * given / (given + norm[rows])
    if in_play is None:
        if flags is not None:
            scores *= flags
        in_play = np.flatnonzero(scores > 0)
    found = scores[in_play]
    if len(found) > k:
        best_of_part = found >= np.partition(found, len(found) - k)[-k]
        in_play, found = in_play[best_of_part], found[best_of_part]
    return in_play, found


def _in_reach(
    scores: NDArray[np.float32],
    in_play: NDArray[np.intp] | None,
    k: int,
    flags: NDArray[np.bool_] | None,
    rest: float,
) -> NDArray[np.intp] | None:
    """Rows that can still be among the k best if the terms to come give `rest` at the most; None if any row can."""
    rows = in_play
    if rows is None:
        rows = np.flatnonzero(scores > 0)
        if flags is not None:
            rows = rows[flags[rows]]
    if len(rows) < k:
        return in_play
    values, rest = scores[rows], rest * (1 + 1e-5)  # more than rounding can add
    least = np.partition(values, len(values) - k)[-k]
    return rows[values + rest >= least] if least > rest or in_play is not None else None


def _norm(part: Part, lengths: NDArray[np.uint32], mean: float) -> NDArray[np.float32]:
    """BM25's K1 · (1 − B + B · length / mean), kept with the part while the mean stays."""
    kept: Any = getattr(part, "_kept_norm", None)
    if kept is None or kept[0] != (mean, len(lengths)):
        found = (K1 * (1 - B) + K1 * B / mean * lengths.astype(np.float32)).astype(np.float32)
        kept = ((mean, len(lengths)), found)
        part._kept_norm = kept  # type: ignore[attr-defined]
    norm: NDArray[np.float32] = kept[1]
    return norm


def _flags(allowed: Bits, first: int, count: int) -> NDArray[np.bool_]:
    start = first // 8
    bits = np.unpackbits(allowed[start : (first + count + 7) // 8], bitorder="little")[first - 8 * start :][:count]
    flags = np.zeros(count, dtype=bool)
    flags[: len(bits)] = bits
    return flags
