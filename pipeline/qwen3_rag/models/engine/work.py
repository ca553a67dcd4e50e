"""Counters of the batches that an engine has run."""

from dataclasses import dataclass

__all__ = ["Work"]


@dataclass
class Work:
    """What an engine's batches held, all together.

    Attributes:
        batches: Number of batches.
        items: Number of sequences.
        tokens: Number of tokens, padding excluded.
        capacity: Number of tokens that fit the batches' budgets; `tokens / capacity` is how full they were.
    """

    batches: int = 0
    items: int = 0
    tokens: int = 0
    capacity: int = 0
