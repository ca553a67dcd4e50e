"""Fits calibration curves with scikit-learn, and measures them on queries that they were not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.calibration import Curve, Isotonic, Platt
from qwen3_rag.errors import JudgementError

__all__ = ["FEWEST_PAIRS", "FEWEST_QUERIES", "Pairs", "calibration_error", "fitted", "reliability", "threshold"]

FEWEST_QUERIES = 20
FEWEST_PAIRS = 10  # of each class
FOLDS = 5
BINS = 10
FEWEST_ABOVE = 10  # cases above a threshold, below which its precision is chance

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Scored pairs of judged queries.

    Attributes:
        log_odds: float64 (n,).
        relevant: bool (n,).
        query: int (n,), the number of each pair's query.
        place: int (n,), the pair's place in its query's results; 0 is best.
        stage: int (n,), the stage of a cascade that scored it; 0 for a single reranker.
    """

    log_odds: Float64
    relevant: Bools
    query: NDArray[np.int64]
    place: NDArray[np.int64]
    stage: NDArray[np.int64]

    def of(self, chosen: Bools) -> "Pairs":
        """Some of the pairs."""
        return Pairs(*(values[chosen] for values in vars(self).values()))


def fitted(pairs: Pairs) -> tuple[Curve, Float64, dict[str, float]]:
    """The better of both curves, its probabilities out of sample (n,), and the Brier score of each out of sample.

    Raises:
        JudgementError: One class only, or too few pairs of a class.
    """
    counts = {"relevant": int(pairs.relevant.sum()), "other": int((~pairs.relevant).sum())}
    for name, count in counts.items():
        if count < FEWEST_PAIRS:
            raise JudgementError(
                f"the candidates hold {count} {name} passages; expected at least {FEWEST_PAIRS} of each class"
            )
    outside = {name: _out_of_sample(pairs, fit) for name, fit in FITS.items()}
    brier = {name: float(np.mean((values - pairs.relevant) ** 2)) for name, values in outside.items()}
    best = min(brier, key=lambda name: brier[name])
    return FITS[best](pairs), outside[best], brier


def _platt(pairs: Pairs) -> Curve:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e10).fit(pairs.log_odds[:, None], pairs.relevant)
    # A falling curve would turn the reranker's order around; a flat one says that its scores tell nothing.
    slope = max(float(model.coef_[0, 0]), 0.0)
    share = float(pairs.relevant.mean())
    return Platt(slope, float(model.intercept_[0]) if slope else float(np.log(share / (1 - share))))


def _isotonic(pairs: Pairs) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    # Nothing is certain: the ends stay as far from 0 and 1 as one pair more of the other class would take them.
    least = 1 / (len(pairs.relevant) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(pairs.log_odds, pairs.relevant)
    points = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    log_odds, probability = zip(*points, strict=True)
    return Isotonic(log_odds, probability)


FITS: dict[str, Callable[[Pairs], Curve]] = {"platt": _platt, "isotonic": _isotonic}


def _out_of_sample(pairs: Pairs, fit: Callable[[Pairs], Curve]) -> Float64:
    """Probabilities by curves that were fitted on other queries."""
    from sklearn.model_selection import StratifiedGroupKFold

    values = np.zeros(len(pairs.log_odds))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(pairs.log_odds[:, None], pairs.relevant, pairs.query):
        part = Pairs(*(column[train] for column in vars(pairs).values()))
        if part.relevant.all() or not part.relevant.any():
            raise JudgementError(
                f"the relevant passages belong to {len(set(pairs.query[pairs.relevant]))} queries; expected more, so "
                "that the curve can be measured on queries that it was not fitted on"
            )
        values[test] = fit(part)(pairs.log_odds[test])
    return values


def reliability(predicted: NDArray[np.floating], relevant: Bools) -> list[dict[str, Any]]:
    """Ten bins of equal width: number of pairs, mean prediction and share of relevant ones; empty bins are left out."""
    numbers = np.minimum((predicted * BINS).astype(int), BINS - 1)
    return [
        {
            "pairs": int(chosen.sum()),
            "predicted": float(predicted[chosen].mean()),
            "relevant": float(relevant[chosen].mean()),
        }
        for number in range(BINS)
        if (chosen := numbers == number).any()
    ]


def calibration_error(predicted: NDArray[np.floating], relevant: Bools) -> float:
    """Expected calibration error (Naeini et al., 2015): mean distance of prediction and share, by pairs in the bins."""
    bins = reliability(predicted, relevant)
    return float(sum(each["pairs"] * abs(each["predicted"] - each["relevant"]) for each in bins) / len(predicted))


def threshold(probability: Float64, relevant: Bools, precision: float) -> float | None:
    """The lowest probability at and above which at least `precision` of ten or more cases are relevant, or None."""
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    shares = np.cumsum(relevant[order]) / np.arange(1, len(order) + 1)
    # Equal probabilities are above a threshold together.
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
    good = [int(end) for end in ends if end + 1 >= FEWEST_ABOVE and shares[end] >= precision]
    return float(falling[good[-1]]) if good else None
