"""Packs sequences of different lengths into one row of tokens, without padding."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

__all__ = [
    "WINDOW",
    "KeptPrefixes",
    "Layout",
    "PackedSequence",
    "Prefix",
    "by_prefix",
    "kept_prefixes",
    "pack",
    "reading_order",
]

# Candidates arrive best first. Sorting by length only within windows of this size puts similar lengths together, and
# still reads the best candidates first, so that stopping early leaves them scored.
WINDOW = 64
# Prefixes that outlive their calls: how many, and how long each may be, which bounds their memory.
KEPT, LONGEST_KEPT = 4, 256


def reading_order(lengths: Sequence[int], window: int = WINDOW) -> list[int]:
    """Indices of the sequences in processing order: longest first within each window.

    Args:
        lengths: Number of tokens of each sequence, in the caller's order.
        window: Number of neighbouring sequences that may be reordered among themselves.
    """
    order: list[int] = []
    for start in range(0, len(lengths), window):
        order += sorted(range(start, min(start + window, len(lengths))), key=lambda i: (-lengths[i], i))
    return order


@dataclass(eq=False)
class Prefix:
    """Tokens that several sequences start with; computed by the first batch that needs them, then shared.

    Attributes:
        ids: Token ids, without those of the parent.
        parent: The prefix that it continues.
        kept: Whether the keys and values stay in memory when no sequence needs them.
        refcount: Number of sequences without a result yet; the keys and values are freed with the last.
        keys_values: Layer to (keys, values), each (tokens, heads, size), the parent's included; empty until computed.
    """

    ids: Sequence[int]
    parent: "Prefix | None" = None
    kept: bool = False
    refcount: int = 0
    keys_values: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of tokens, the parent's included."""
        return len(self.ids) + (len(self.parent) if self.parent else 0)

    @property
    def missing(self) -> int:
        """Number of tokens that are yet to be computed, the parent's included."""
        if self.keys_values:
            return 0
        return len(self.ids) + (self.parent.missing if self.parent else 0)

    def release(self) -> None:
        """Count a sequence as finished."""
        self.refcount -= 1
        if self.refcount <= 0 and not self.kept:
            self.keys_values.clear()


class KeptPrefixes:
    """The prefixes that all inputs of an instruction start with, for the instructions used last."""

    def __init__(self) -> None:
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, ids: Sequence[int]) -> Prefix | None:
        """The prefix of these ids, which may not be computed yet; None if there are none or too many to keep."""
        if not 0 < len(ids) <= LONGEST_KEPT:
            return None
        key = tuple(ids)
        with self._lock:
            prefix = self._prefixes.setdefault(key, Prefix(key, kept=True))
            self._prefixes.move_to_end(key)
            if len(self._prefixes) > KEPT:
                self._prefixes.popitem(last=False)
        return prefix


@dataclass(frozen=True, eq=False)
class PackedSequence:
    """One sequence of a packed batch.

    Attributes:
        ids: Token ids, without those of the prefix.
        prefix: The prefix that it continues.
        computes: The prefix whose keys and values it computes; such a sequence has no result.
    """

    ids: Sequence[int]
    prefix: Prefix | None = None
    computes: Prefix | None = None


@dataclass(eq=False)
class Layout:
    """The sequences of one packed batch, end to end; positions restart in each.

    Attributes:
        sequences: In row order; one that computes a prefix precedes the sequences that continue it.
        scratch: Values that the attention functions compute once for all layers.
    """

    sequences: Sequence[PackedSequence]
    scratch: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def starts(self) -> list[int]:
        """First row of each sequence, then the number of rows."""
        return [0, *accumulate(len(s.ids) for s in self.sequences)]

    @cached_property
    def results(self) -> list[int]:
        """Indices of the sequences that have a result: the state of their last token."""
        return [i for i, s in enumerate(self.sequences) if s.computes is None]

    @property
    def last_rows(self) -> list[int]:
        """Last row of each sequence that has a result."""
        return [self.starts[i + 1] - 1 for i in self.results]

    @property
    def ids(self) -> list[int]:
        """Token ids of all rows."""
        return [token for s in self.sequences for token in s.ids]

    @property
    def positions(self) -> list[int]:
        """Position of each row in its sequence, counting the prefix."""
        return [i for s in self.sequences for i in range(_prefix_length(s), _prefix_length(s) + len(s.ids))]

    def discard_prefixes(self) -> None:
        """Forget the prefixes that this batch was to compute, because it failed; another batch computes them."""
        for sequence in self.sequences:
            if sequence.computes is not None:
                sequence.computes.keys_values.clear()


def by_prefix(sequences: Sequence[PackedSequence]) -> dict[Prefix | None, list[int]]:
    """Indices of the sequences of each prefix, in order of first appearance."""
    groups: dict[Prefix | None, list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(sequence.prefix, []).append(index)
    return groups


def kept_prefixes(sequences: Sequence[PackedSequence]) -> list[Prefix]:
    """The prefixes that outlive their calls, of the sequences or of their prefixes."""
    prefixes = [prefix for prefix in by_prefix(sequences) if prefix is not None]
    chain = [each for prefix in prefixes for each in (prefix.parent, prefix) if each is not None and each.kept]
    return list(dict.fromkeys(chain))


def pack(sequences: Sequence[PackedSequence]) -> tuple[Layout, list[int]]:
    """Lay out a batch: prefixes that are not computed yet, then the sequences by prefix, longest first.

    Prefixes that are kept, and those that others continue, must be computed already.

    Returns:
        The layout, and the index in `sequences` of each of its results.
    """
    groups = by_prefix(sequences)
    missing = sorted((p for p in groups if p is not None and not p.keys_values), key=lambda p: -len(p.ids))
    new = [PackedSequence(p.ids, prefix=p.parent, computes=p) for p in missing]
    order = [i for group in groups.values() for i in sorted(group, key=lambda i: -len(sequences[i].ids))]
    return Layout([*new, *(sequences[i] for i in order)]), order


def _prefix_length(sequence: PackedSequence) -> int:
    return len(sequence.prefix) if sequence.prefix else 0
