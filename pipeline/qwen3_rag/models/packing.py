"""Sequences to batches: nothing is padded, and no batch exceeds a token budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

__all__ = ["WINDOW", "Layout", "batches"]

# Candidates come best first. Sorting by length inside windows of this many keeps most of the order, so that stopping
# early leaves scores on the best ones, and still puts equal lengths side by side.
WINDOW = 64


def batches(lengths: Sequence[int], budget: int, window: int = WINDOW) -> Iterator[list[int]]:
    """Indices of the sequences, batch by batch; a batch holds at most `budget` tokens, or one longer sequence.

    Args:
        lengths: Tokens of each sequence, in the caller's order.
        budget: Tokens that a batch may hold.
        window: Sequences among which the order may be changed to put like lengths together.
    """
    batch: list[int] = []
    used = 0
    for start in range(0, len(lengths), window):
        for index in sorted(range(start, min(start + window, len(lengths))), key=lambda i: (-lengths[i], i)):
            if batch and used + lengths[index] > budget:
                yield batch
                batch, used = [], 0
            batch.append(index)
            used += lengths[index]
    if batch:
        yield batch


@dataclass(frozen=True)
class Layout:
    """How the rows of one packed batch divide into sequences: end to end, each with positions of its own.

    Attributes:
        lengths: Tokens of each sequence.
        prefix: Tokens that stand before each sequence without being in the batch; their keys and values are shared.
        keys_values: For each layer the prefix's keys and values (1, heads, prefix, size); filled by the prefix's pass.
        record: Whether this is the prefix's pass.
        scratch: What the attention function works out once for all layers.
    """

    lengths: tuple[int, ...]
    prefix: int = 0
    keys_values: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    record: bool = False
    scratch: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """Runs of sequences of the same length: (how many, length)."""
        return [(len(list(run)), length) for length, run in groupby(self.lengths)]

    @property
    def last_rows(self) -> list[int]:
        """Row of each sequence's last token."""
        ends, total = [], 0
        for length in self.lengths:
            total += length
            ends.append(total - 1)
        return ends

    @property
    def positions(self) -> list[int]:
        """Position of every row within its sequence, prefix included."""
        return [self.prefix + i for length in self.lengths for i in range(length)]
