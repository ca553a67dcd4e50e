"""What the indexes of the first stage have in common, and what they exchange."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.index.bitmap import Bitmap

__all__ = ["CodeIndex", "Float32", "Int64", "Norm", "Part", "Postings", "RowsAndScores", "TextIndex", "VectorIndex"]

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
RowsAndScores = tuple[Int64, Float32]  # best first
Postings = tuple[NDArray[np.uint32], NDArray[np.uint16]]


class VectorIndex(Protocol):
    """Finds the rows nearest to vectors."""

    def search(self, queries: Float32, k: int, allowed: Bitmap | None) -> list[RowsAndScores]:
        """For each query, its best rows with their inner products, best first.

        Args:
            queries: Unit vectors (n, dimensions), float32.
            k: Maximum number of rows for each query, at most the number of allowed rows.
            allowed: Rows to search; None is all.

        Returns:
            n results. One with fewer than `k` rows means that the index cannot answer this query.
        """


class CodeIndex(Protocol):
    """Finds candidates by their 8-bit codes, in inverted lists."""

    def nearest(self, queries: Float32, k: int, allowed: Bitmap | None, visited: int) -> list[Int64]:
        """For each query, about the k best rows; none if the index cannot answer it.

        Args:
            queries: Unit vectors (n, dimensions), float32.
            k: Number of rows for each query.
            allowed: Rows to search; None is all.
            visited: Number of lists to visit.
        """


class TextIndex(Protocol):
    """Finds the passages that contain the words of a text."""

    def search(self, query: str, k: int, allowed: Bitmap | None) -> RowsAndScores:
        """The at most k best rows with their scores, best first.

        Args:
            query: Text, in any script.
            k: Maximum number of rows.
            allowed: Rows to search; None is all.
        """


class Norm(NamedTuple):
    """The length normalisation of a part's rows.

    Attributes:
        mean: Mean length that it was computed for.
        values: One value for each row.
    """

    mean: float
    values: Float32


class Part(Protocol):
    """A range of passages that a text index searches: a segment or the tail.

    Attributes:
        first: First row it covers.
        norm: The normalisation that the last search computed; None before the first.
    """

    first: int
    norm: Norm | None

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Number of terms of each row."""

    def postings(self, term: int) -> Postings:
        """Rows with a term, counted from `first`, and the term's frequency in each."""
