"""Measures of runs by ir_measures, their ceiling, and the comparison of two runs query by query."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3_rag.errors import MissingDependencyError
from qwen3_rag.evaluation.judged import Judged, Run

__all__ = ["MEASURES", "ByQuery", "by_query", "ceiling", "check_installed", "compared", "mean"]

ByQuery = dict[str, dict[str, float]]  # measure to query to value
MEASURES = ("nDCG@10", "MRR@10", "MAP", "recall@10", "recall@100")
MAIN = "nDCG@10"


def check_installed(*more: str, purpose: str = "evaluation", extra: str = "eval") -> None:
    """Check that an extra is there before hours of work need it.

    Args:
        more: Packages that the extra has besides those of `eval`.
        purpose: What needs them, for the error.
        extra: Name of the extra, for the error.

    Raises:
        MissingDependencyError: One of its packages is missing.
    """
    for package in (*more, "ir_measures", "scipy", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, purpose, f"pip install 'qwen3-rag[{extra}]'")


def _measures() -> dict[str, Any]:
    from ir_measures import AP, RR, R, nDCG

    return dict(zip(MEASURES, (nDCG @ 10, RR @ 10, AP, R @ 10, R @ 100), strict=True))


def by_query(judged: Judged, run: Run) -> ByQuery:
    """Every measure of every judged query; 0 where the run has nothing."""
    import ir_measures

    measures = _measures()
    names = {str(measure): name for name, measure in measures.items()}
    ranked = {q: {d: -float(rank) for rank, d in enumerate(hits)} for q, hits in run.items() if q in judged.queries}
    values: ByQuery = {name: dict.fromkeys(judged.queries, 0.0) for name in MEASURES}
    for each in ir_measures.iter_calc(list(measures.values()), judged.grades, ranked):
        if each.query_id in judged.queries:
            values[names[str(each.measure)]][each.query_id] = float(each.value)
    return values


def mean(values: ByQuery, queries: Sequence[str] | None = None) -> dict[str, float]:
    """The mean of each measure, over all queries or some."""
    return {
        name: float(np.mean([of_query[query] for query in (queries or of_query)])) for name, of_query in values.items()
    }


def ceiling(judged: Judged, run: Run) -> ByQuery:
    """The measures of the best order that a second stage could give to the candidates of a run."""
    best = {
        query: {
            d: float(judged.grades[query].get(d, 0))
            for d in sorted(hits, key=lambda d: -judged.grades[query].get(d, 0))
        }
        for query, hits in run.items()
        if query in judged.queries
    }
    return by_query(judged, best)


def compared(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, Any]:
    """The mean difference `second` - `first` with its 95 % interval, a paired t-test, wins, losses and ties."""
    from scipy import stats

    difference = np.array([second[query] - first[query] for query in first])
    result: dict[str, Any] = {
        "difference": float(difference.mean()),
        "wins": int((difference > 0).sum()),
        "losses": int((difference < 0).sum()),
        "ties": int((difference == 0).sum()),
    }
    if len(difference) < 2 or not difference.std():
        return result | {"p": None, "interval": None}
    interval = stats.bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(0))
    low, high = interval.confidence_interval
    return result | {"p": float(stats.ttest_1samp(difference, 0).pvalue), "interval": [float(low), float(high)]}
