"""Sets of rows as packed bits, eight rows a byte, the lowest bit first: the form that FAISS' selectors read."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bits", "both", "count", "every", "holds", "none", "of_ranges", "of_rows", "places", "resized"]

Bits = NDArray[np.uint8]
Int64 = NDArray[np.int64]


def none(rows: int) -> Bits:
    """The empty set of so many rows."""
    return np.zeros((rows + 7) // 8, dtype=np.uint8)


def every(rows: int) -> Bits:
    """All of so many rows."""
    return np.packbits(np.ones(rows, dtype=bool), bitorder="little")


def of_rows(chosen: Int64, rows: int) -> Bits:
    """These rows out of so many; those beyond are passed over."""
    flags = np.zeros(rows, dtype=bool)
    flags[chosen[chosen < rows]] = True
    return np.packbits(flags, bitorder="little")


def of_ranges(first: Int64, length: Int64, rows: int) -> Bits:
    """The rows of several ranges, each with its first row and its length."""
    if len(first) and length.max(initial=0) > 1:
        starts = np.cumsum(length) - length
        first = np.repeat(first - starts, length) + np.arange(int(length.sum()))
    else:
        first = first[length > 0]
    return of_rows(first, rows)


def resized(bits: Bits, rows: int) -> Bits:
    """The same set among fewer or more rows."""
    size = (rows + 7) // 8
    found = np.zeros(size, dtype=np.uint8)
    kept = min(size, len(bits))
    found[:kept] = bits[:kept]
    if rows % 8 and kept == size:
        found[-1] &= (1 << rows % 8) - 1
    return found


def both(one: Bits | None, other: Bits | None) -> Bits | None:
    """Rows in both sets; None stands for all rows."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def count(bits: Bits) -> int:
    """How many rows are in it."""
    return int(np.bitwise_count(bits).sum())


def places(bits: Bits) -> Int64:
    """The rows in it, in order."""
    return np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.int64)


def holds(bits: Bits, rows: Int64) -> NDArray[np.bool_]:
    """For each row, whether it is in the set."""
    found: NDArray[np.bool_] = (bits[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).astype(bool)
    return found
