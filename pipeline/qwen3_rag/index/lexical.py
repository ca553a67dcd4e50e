"""Full-text search: BM25 over postings in segments, and over the tail that no segment covers yet."""

import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index.bits import Bits
from qwen3_rag.index.exact import Found, best
from qwen3_rag.index.segments import Postings, hash_of
from qwen3_rag.index.text import query_terms, terms_of

__all__ = ["Part", "Tail", "search"]

MANY = 4096  # postings of a term that are worth avoiding
K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)


class Part(Protocol):
    """What search needs of a segment or the tail."""

    first: int

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Terms of each row."""

    def postings(self, term: int) -> Postings:
        """Rows, counted from `first`, that hold a term, and how often."""


class Tail:
    """Passages that no segment covers, in memory; grows as they are added."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._lock = threading.Lock()
        self._lengths = array("I")
        self._postings: dict[int, tuple[array[int], array[int]]] = {}

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Terms of each row."""
        with self._lock:
            return np.array(self._lengths, dtype=np.uint32)

    def add(self, texts: Iterable[tuple[int, str]], rows: int) -> None:
        """Add passages (number, text), numbers rising, up to number `rows`; those left out are empty."""
        with self._lock:
            for number, text in texts:
                self._lengths.extend([0] * (number - self.first - len(self._lengths)))
                counts = terms_of(text)
                for term, times in counts.items():
                    where, often = self._postings.setdefault(hash_of(term), (array("I"), array("H")))
                    where.append(len(self._lengths))
                    often.append(min(times, 65_535))
                self._lengths.append(sum(counts.values()))
            self._lengths.extend([0] * (rows - self.first - len(self._lengths)))

    def postings(self, term: int) -> Postings:
        """Rows, counted from `first`, that hold a term, and how often."""
        with self._lock:
            rows, times = self._postings.get(term, (array("I"), array("H")))
            return np.array(rows, dtype=np.uint32), np.array(times, dtype=np.uint16)


def search(parts: Sequence[Part], query: str, k: int, rows: int, allowed: Bits | None, live: int) -> Found:
    """The k passages with the highest BM25, of those that hold any of the query's terms.

    Args:
        parts: Segments and tail.
        query: Text, in any script.
        k: How many at most.
        rows: Rows of the commit; those beyond are not found.
        allowed: Rows that may be found; None is all.
        live: Passages that were not removed.
    """
    lengths = [part.lengths for part in parts]
    total = sum(len(x) for x in lengths)
    mean = max(1.0, sum(int(x.sum(dtype=np.int64)) for x in lengths) / max(1, total))
    held = [[part.postings(hash_of(term)) for part in parts] for term in query_terms(query)]
    # Removed passages count until `optimize`: never more than there are.
    frequencies = [min(sum(len(where) for where, _ in found), live) for found in held]
    rarest = sorted(range(len(held)), key=frequencies.__getitem__)
    weights = [(K1 + 1) * float(np.log1p((live - frequencies[i] + 0.5) / (frequencies[i] + 0.5))) for i in rarest]
    best_rows, best_scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for place, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        there = min(len(length), max(0, rows - part.first))
        flags = None if allowed is None else _flags(allowed, part.first, len(length))
        postings = [held[i][place] for i in rarest]
        found = _scored(postings, weights, _norm(part, length, mean), k, there, flags)
        best_rows.append(found[0].astype(np.int64) + part.first)
        best_scores.append(found[1])
    return best(best_rows, best_scores, k)


def _scored(
    postings: Sequence[Postings],
    weights: Sequence[float],
    norm: NDArray[np.float32],
    k: int,
    there: int,
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
        there: Rows that the commit has.
        flags: Rows that may be found; None is all.
    """
    scores = np.zeros(len(norm), dtype=np.float32)
    in_play: NDArray[np.intp] | None = None
    for i, ((where, times), weight) in enumerate(zip(postings, weights, strict=True)):
        if in_play is not None or len(where) > MANY:
            in_play = _in_reach(scores, in_play, k, there, flags, sum(weights[i:]))
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
        scores[there:] = 0
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
    there: int,
    flags: NDArray[np.bool_] | None,
    rest: float,
) -> NDArray[np.intp] | None:
    """Rows that can still be among the k best if the terms to come give `rest` at the most; None if any row can."""
    rows = in_play
    if rows is None:
        rows = np.flatnonzero(scores[:there] > 0)
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
