"""Sequences to batches: nothing is padded, and no batch exceeds a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

__all__ = ["WINDOW", "Layout", "Prefix", "Segment", "reading_order"]

# Candidates come best first. Sorting by length inside windows of this many keeps most of the order, so that stopping
# early leaves scores on the best ones, and still puts equal lengths side by side.
WINDOW = 64


def reading_order(lengths: Sequence[int], window: int = WINDOW) -> list[int]:
    """Indices of the sequences in the order to read them: long ones first inside each window.

    Args:
        lengths: Tokens of each sequence, in the caller's order.
        window: Sequences among which the order may be changed to put like lengths together.
    """
    order: list[int] = []
    for start in range(0, len(lengths), window):
        order += sorted(range(start, min(start + window, len(lengths))), key=lambda i: (-lengths[i], i))
    return order


@dataclass(eq=False)
class Prefix:
    """Tokens that stand before several sequences; computed by the first batch that needs them, then shared.

    Attributes:
        ids: The tokens.
        keys_values: For each layer their keys and values, (tokens, heads, size) each; empty until computed.
        awaited: Sequences that still need them.
    """

    ids: Sequence[int]
    awaited: int = 0
    keys_values: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Segment:
    """One run of rows in a packed batch.

    Attributes:
        ids: Its tokens.
        after: The prefix whose tokens it sees before its own.
        computes: The prefix that it is, where its keys and values are to be kept; such a segment has no result.
    """

    ids: Sequence[int]
    after: Prefix | None = None
    computes: Prefix | None = None


@dataclass(eq=False)
class Layout:
    """How the rows of one packed batch divide: segments end to end, each with positions of its own.

    Attributes:
        segments: In the order of their rows; a prefix that is computed here stands before the segments that need it.
        scratch: What the attention functions work out once for all layers.
    """

    segments: Sequence[Segment]
    scratch: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def starts(self) -> list[int]:
        """First row of each segment, and the number of rows."""
        return [0, *accumulate(len(s.ids) for s in self.segments)]

    @cached_property
    def results(self) -> list[int]:
        """Segments whose last token's state is wanted."""
        return [i for i, s in enumerate(self.segments) if s.computes is None]

    @property
    def last_rows(self) -> list[int]:
        """Row of the last token of each segment that has a result."""
        return [self.starts[i + 1] - 1 for i in self.results]

    @property
    def ids(self) -> list[int]:
        """Tokens of all rows."""
        return [token for s in self.segments for token in s.ids]

    @property
    def positions(self) -> list[int]:
        """Position of every row within its sequence, prefix included."""
        return [i for s in self.segments for i in range(_before(s), _before(s) + len(s.ids))]


def _before(segment: Segment) -> int:
    return len(segment.after) if segment.after else 0
