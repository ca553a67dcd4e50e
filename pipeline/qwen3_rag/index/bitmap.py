"""Sets of rows as bitmaps: eight rows a byte, lowest bit first, the layout that FAISS' selectors read."""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bitmap",
    "contains",
    "count",
    "empty",
    "from_ranges",
    "from_rows",
    "full",
    "intersection",
    "resized",
    "to_rows",
]

Bitmap = NDArray[np.uint8]
Int64 = NDArray[np.int64]


def empty(rows: int) -> Bitmap:
    """No row out of `rows`."""
    return np.zeros((rows + 7) // 8, dtype=np.uint8)


def full(rows: int) -> Bitmap:
    """All of `rows` rows."""
    return np.packbits(np.ones(rows, dtype=bool), bitorder="little")


def from_rows(members: Int64, rows: int) -> Bitmap:
    """The rows `members` out of `rows`; members beyond the last row are ignored."""
    flags = np.zeros(rows, dtype=bool)
    flags[members[members < rows]] = True
    return np.packbits(flags, bitorder="little")


def from_ranges(first: Int64, length: Int64, rows: int) -> Bitmap:
    """The rows of several ranges, each given by its first row and its length."""
    if len(first) and length.max(initial=0) > 1:
        starts = np.cumsum(length) - length
        first = np.repeat(first - starts, length) + np.arange(int(length.sum()))
    else:
        first = first[length > 0]
    return from_rows(first, rows)


def resized(bitmap: Bitmap, rows: int) -> Bitmap:
    """The same set out of fewer or more rows."""
    size = (rows + 7) // 8
    result = np.zeros(size, dtype=np.uint8)
    shared = min(size, len(bitmap))
    result[:shared] = bitmap[:shared]
    if rows % 8 and shared == size:
        result[-1] &= (1 << rows % 8) - 1
    return result


def intersection(one: Bitmap | None, other: Bitmap | None) -> Bitmap | None:
    """Rows in both sets; None stands for all rows."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def count(bitmap: Bitmap) -> int:
    """Number of rows in the set."""
    return int(np.bitwise_count(bitmap).sum())


def to_rows(bitmap: Bitmap) -> Int64:
    """The rows in the set, ascending."""
    return np.flatnonzero(np.unpackbits(bitmap, bitorder="little")).astype(np.int64)


def contains(bitmap: Bitmap, rows: Int64) -> NDArray[np.bool_]:
    """For each of `rows`, whether it is in the set."""
    flags: NDArray[np.bool_] = (bitmap[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).astype(bool)
    return flags
