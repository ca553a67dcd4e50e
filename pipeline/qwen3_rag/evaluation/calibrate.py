"""Calibrates a store's reranker on judged queries."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from qwen3_rag.arguments import as_path, at_least
from qwen3_rag.calibration import Calibration, Curve, calibrations_of
from qwen3_rag.errors import InvalidArgumentError, JudgementError, ModelError
from qwen3_rag.evaluation.figures import check_installed
from qwen3_rag.evaluation.fitting import (
    FEWEST_PAIRS,
    FEWEST_QUERIES,
    Pairs,
    calibration_error,
    fitted,
    reliability,
    threshold,
)
from qwen3_rag.evaluation.judged import Judged, read_judged
from qwen3_rag.index.retriever import Mode
from qwen3_rag.models.binding import binding_text
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.progress import progress
from qwen3_rag.ranking import Retrieved, SearchOptions
from qwen3_rag.scores import RerankResult, best_first, probability
from qwen3_rag.searching import CALIBRATIONS

__all__ = ["calibrate"]

TOGETHER = 16  # queries searched at once
PRECISIONS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # for which the report shows thresholds
TOP = 10  # passages of a query that a user looks at


def calibrate(
    pipeline: Pipeline,
    queries: str | Path,
    judgements: str | Path,
    *,
    precision: float = 0.8,
    candidates: int = 100,
    mode: Mode = "dense",
    instruction: str | None = None,
    out: str | Path | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Fit log-odds to the probability of relevance on judged queries, and keep the curve in the store.

    From then on hits carry a `probability`, `search` takes `min_probability`, and results say whether they are
    `answered`, as long as reranker, revision, dtype class and instruction are the same. Passages that are not judged
    count as not relevant, and a document by its best passage. All figures are out of sample: each query's
    probabilities come from a curve that was fitted on other queries.

    Args:
        pipeline: The store, open with the reranker to calibrate.
        queries: File of queries; formats as in `evaluate`.
        judgements: File of judgements.
        precision: Share of relevant passages that the suggested thresholds aim at.
        candidates: Passages of each query that are scored.
        mode: Their first stage.
        instruction: As in `search`; a calibration holds for one instruction.
        out: Folder for `calibration.json` and the reliability diagram, `reliability.svg`.
        show_progress: A bar on a terminal, log lines elsewhere.

    Returns:
        The report: the chosen curve, its Brier score, expected calibration error before and after over all candidates
        and over the first ten of each query, the bins of the diagram, and the thresholds: for `precision`, and for
        others with the share of the relevant passages that stays.

    Raises:
        JudgementError: The files cannot be used, there are too few judged queries, or one class only.
        ModelError: The reranker returned NaN.
        MissingDependencyError: The extra `eval` is not installed.
    """
    check_installed("sklearn")
    if not isinstance(precision, int | float) or not 0 < precision <= 1:
        raise InvalidArgumentError(f"precision is {precision!r}; expected a share of more than 0, at most 1")
    options = SearchOptions(
        top_k=1, candidates=at_least(candidates, 1, "candidates"), mode=mode, instruction=instruction
    )
    files = as_path(queries, "queries"), as_path(judgements, "judgements")
    judged = read_judged(*files, files[1].stem)
    if len(judged.queries) < FEWEST_QUERIES:
        raise JudgementError(
            f"{files[1]} has {len(judged.queries)} judged queries; a calibration needs at least {FEWEST_QUERIES}, "
            "better 100"
        )
    pairs, binding = _pairs(pipeline, judged, options, show_progress)
    calibration = _calibrated(pairs, binding, precision, judged)
    kept = [each for each in calibrations_of(pipeline.store.meta(CALIBRATIONS)) if each.binding != binding]
    pipeline.store.set_meta(CALIBRATIONS, [each.as_json() for each in [*kept, calibration]])
    report = dict(calibration.report)
    if out is not None:
        _write(as_path(out, "out"), report)
    return report


def _pairs(
    pipeline: Pipeline, judged: Judged, options: SearchOptions, show_progress: bool
) -> tuple[Pairs, dict[str, Any]]:
    """Each query's documents by their best passage."""
    rows: list[tuple[float, bool, int, int, int]] = []
    names, binding = list(judged.queries), dict[str, Any]()
    with progress("calibrate", len(names), show_progress) as count:
        for start in range(0, len(names), TOGETHER):
            group = names[start : start + TOGETHER]
            candidates, scores, binding = pipeline.searcher.scored([judged.queries[name] for name in group], options)
            for offset, (name, found, result) in enumerate(zip(group, candidates, scores, strict=True)):
                if result is not None:
                    rows += _rows(start + offset, judged.grades[name], found, result)
                count(1)
    if not rows:
        raise JudgementError("no judged query has a candidate; expected a store with the judged documents")
    columns = list(zip(*rows, strict=True))
    types = (np.float64, np.bool_, np.int64, np.int64, np.int64)
    return Pairs(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True))), binding


def _rows(
    query: int, grades: dict[str, int], candidates: list[Retrieved], result: RerankResult
) -> list[tuple[float, bool, int, int, int]]:
    if missing := int((~result.read).sum()):
        raise ModelError(f"{missing} of {len(result.read)} log-odds are NaN; expected a score of every candidate")
    best: dict[str, tuple[float, bool, int, int, int]] = {}
    for index in best_first(result):
        document = candidates[index].passage.document_id
        if document not in best:
            score, stage = float(result.log_odds[index]), int(result.stage[index])
            best[document] = score, grades.get(document, 0) > 0, query, len(best), stage
    return list(best.values())


def _calibrated(pairs: Pairs, binding: dict[str, Any], precision: float, judged: Judged) -> Calibration:
    """The curves of all stages, and what they are worth."""
    curves: list[Curve | None] = []
    outside = np.full(len(pairs.log_odds), np.nan)
    chosen: list[dict[str, Any] | None] = []
    last = int(pairs.stage.max())
    for stage in range(last + 1):
        of_stage = pairs.stage == stage
        part = pairs.of(of_stage)
        few = min(int(part.relevant.sum()), int((~part.relevant).sum())) < FEWEST_PAIRS
        if stage < last and few:
            curves.append(None)  # what the last stage did not score is seldom relevant
            chosen.append(None)
            continue
        curve, values, brier = fitted(part)
        curves.append(curve)
        outside[of_stage] = values
        chosen.append({"curve": type(curve).__name__.lower(), "brier": brier})
    known = ~np.isnan(outside)
    pairs, outside = pairs.of(known), outside[known]
    first = pairs.place == 0
    thresholds = {
        "min_probability": threshold(outside, pairs.relevant, precision),
        "answer_probability": threshold(outside[first], pairs.relevant[first], precision),
    }
    before = probability(pairs.log_odds)
    report = {
        "reranker": binding_text(binding),
        "queries": len(judged.queries),
        "pairs": len(outside),
        "relevant": int(pairs.relevant.sum()),
        "stages": chosen,
        "calibration error": {
            name: {
                "before": calibration_error(before[part], pairs.relevant[part]),
                "after": calibration_error(outside[part], pairs.relevant[part]),
            }
            for name, part in (("all", pairs.place >= 0), (f"first {TOP}", pairs.place < TOP))
        },
        "bins": {"before": reliability(before, pairs.relevant), "after": reliability(outside, pairs.relevant)},
        "thresholds": [_reached(outside, pairs.relevant, wished) for wished in PRECISIONS],
        "precision": precision,
        **thresholds,
        "answered": _share(outside[first], thresholds["answer_probability"]),
        "notes": list(judged.notes),
    }
    return Calibration(binding, tuple(curves), precision, **thresholds, report=report)


def _reached(predicted: np.ndarray, relevant: np.ndarray, precision: float) -> dict[str, float | None]:
    """The threshold for a precision, and the share of the relevant passages that is above it."""
    least = threshold(predicted, relevant, precision)
    kept = None if least is None else float(relevant[predicted >= least].sum() / relevant.sum())
    return {"precision": precision, "min_probability": least, "relevant kept": kept}


def _share(best: np.ndarray, least: float | None) -> float | None:
    """Share of the queries that count as answered."""
    return None if least is None else float((best >= least).mean())


def _write(folder: Path, report: dict[str, Any]) -> None:
    from qwen3_rag.evaluation.plots import reliability_diagram

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calibration.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (folder / "reliability.svg").write_text(reliability_diagram(report["bins"]), "utf-8")
