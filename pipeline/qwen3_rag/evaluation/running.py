"""Runs of a pipeline over judged queries, searched as `Pipeline.search` searches them, and how long they took."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qwen3_rag.evaluation.judged import Judged, Run
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.progress import progress
from qwen3_rag.records import Results

__all__ = ["DEPTH", "FEW", "Searched", "searched"]

DEPTH = 100  # documents of a run
FEW = 10  # documents of a run of adaptive depth, which depends on how many are wanted
SHOWN = 3  # documents of a query whose text is kept


@dataclass
class Searched:
    """What searches brought.

    Attributes:
        run: Documents of each query; a document's score falls with its rank.
        log_odds: (log-odds, grade) of the reranked passages, for the distribution of scores.
        seconds: Of each stage, one value a query.
        texts: The best passage of each query's first documents, to be shown.
        reread: Candidates of each query that the reranker scored.
    """

    run: Run = field(default_factory=dict)
    log_odds: list[tuple[float, int]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    reread: list[int] = field(default_factory=list)

    def latency(self) -> dict[str, dict[str, float]]:
        """Milliseconds of each stage: median and 95th percentile."""
        return {
            stage: {f"p{point}": round(1000 * float(np.percentile(values, point)), 2) for point in (50, 95)}
            for stage, values in self.seconds.items()
        }


def searched(
    pipeline: Pipeline, judged: Judged, label: str, show_progress: bool, timed: bool, **options: Any
) -> Searched:
    """Search every judged query.

    Args:
        pipeline: The pipeline.
        judged: The queries.
        label: Of the progress bar.
        show_progress: Show a bar on a terminal, log lines elsewhere.
        timed: One query at a time, so that times are those of a single caller; otherwise together, without times.
        **options: Of `Pipeline.search`.
    """
    result = Searched()
    candidates = options.get("candidates") or DEPTH
    top_k = FEW if candidates == "auto" else min(DEPTH, candidates)
    options = {"top_k": top_k, "group_by_document": True} | options
    if not timed:
        for query, results in zip(
            judged.queries, pipeline.search_many([*judged.queries.values()], **options), strict=True
        ):
            _add(result, query, results, judged)
        return result
    with progress(label, len(judged.queries), show_progress) as count:
        for query, text in judged.queries.items():
            results = pipeline.search(text, **options)
            _add(result, query, results, judged)
            for stage, seconds in results.timings.items():
                result.seconds.setdefault(stage, []).append(seconds)
            count(1)
    return result


def _add(result: Searched, query: str, results: Results, judged: Judged) -> None:
    grades = judged.grades[query]
    result.reread.append(results.reread)
    result.run[query] = {hit.document_id: 1 / hit.rank for hit in results}
    result.texts[query] = [(hit.document_id, hit.text) for hit in results[:SHOWN]]
    result.log_odds += [(hit.log_odds, grades.get(hit.document_id, 0)) for hit in results if hit.log_odds is not None]
