"""Calibration: what a reranker's log-odds mean, as the probability that a passage is relevant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.scores import probability

__all__ = ["Calibration", "Curve", "Isotonic", "Platt", "calibrations_of"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Platt:
    """A sigmoid of the log-odds (Platt, 1999).

    Attributes:
        slope: Factor on the log-odds; above 0.
        intercept: Added to them.
    """

    slope: float
    intercept: float

    def __call__(self, log_odds: NDArray[np.floating]) -> Float64:
        """Probabilities (n,) of log-odds (n,)."""
        return probability(self.slope * log_odds.astype(np.float64) + self.intercept).astype(np.float64)


@dataclass(frozen=True)
class Isotonic:
    """A rising step curve, interpolated linearly and constant outside its points.

    Attributes:
        log_odds: Rising.
        probability: Not falling.
    """

    log_odds: tuple[float, ...]
    probability: tuple[float, ...]

    def __call__(self, log_odds: NDArray[np.floating]) -> Float64:
        """Probabilities (n,) of log-odds (n,)."""
        values: Float64 = np.interp(log_odds, self.log_odds, self.probability)
        return values


Curve = Platt | Isotonic


@dataclass(frozen=True)
class Calibration:
    """Curves fitted on judged queries, and what they hold for.

    Attributes:
        binding: Reranker, revision, dtype class and instruction, as `binding_of` gives them; it is used under no other.
        curves: For each stage of a cascade; a single reranker has one. None if a stage had too few judged passages.
        precision: Share of relevant passages that `min_probability` and `answer_probability` aim at.
        min_probability: Passages of this probability or more reached that precision; None if no threshold did.
        answer_probability: Queries whose best passage had this probability or more were answered by it that often;
            below it, results are not `answered`. None if no threshold did.
        report: How it was fitted and how good it is.
    """

    binding: Mapping[str, Any]
    curves: tuple[Curve | None, ...]
    precision: float
    min_probability: float | None
    answer_probability: float | None
    report: Mapping[str, Any] = field(default_factory=dict)

    def probabilities(self, log_odds: NDArray[np.floating], stage: NDArray[np.int64]) -> Float64:
        """Probability of relevance (n,); NaN where the log-odds are NaN or their stage has no curve."""
        values = np.full(len(log_odds), np.nan)
        for number, curve in enumerate(self.curves):
            chosen = (stage == number) & ~np.isnan(log_odds)
            if curve is not None and chosen.any():
                values[chosen] = curve(log_odds[chosen])
        return values

    def as_json(self) -> dict[str, Any]:
        """What a store keeps."""
        curves = [curve and {"kind": type(curve).__name__.lower()} | vars(curve) for curve in self.curves]
        return vars(self) | {"curves": curves}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Calibration":
        """The calibration that `as_json` wrote."""
        return cls(**dict(kept) | {"curves": tuple(map(_curve, kept["curves"]))})


def _curve(kept: Mapping[str, Any] | None) -> Curve | None:
    if kept is None:
        return None
    if kept["kind"] == "platt":
        return Platt(kept["slope"], kept["intercept"])
    return Isotonic(tuple(kept["log_odds"]), tuple(kept["probability"]))


def calibrations_of(kept: Sequence[Mapping[str, Any]] | None) -> list[Calibration]:
    """The calibrations in a store's meta value; none if there is no such value."""
    return [Calibration.from_json(each) for each in kept or ()]
