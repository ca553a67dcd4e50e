"""What an evaluation found, as the plain values of `report.json`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwen3_rag.evaluation.figures import MAIN, ByQuery, by_query, compared, mean
from qwen3_rag.evaluation.judged import Judged, Run
from qwen3_rag.evaluation.running import Searched

__all__ = ["summary"]

SHOWN = 10  # best and worst queries


def summary(
    judged: Judged,
    stages: Mapping[str, Searched],
    others: Mapping[str, Run],
    extra: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Measures of all runs, comparisons, latency, and the queries that the reranker helped and hurt most."""
    runs = {name: stage.run for name, stage in stages.items()} | dict(others)
    values = {name: by_query(judged, run) for name, run in runs.items()}
    notes = [*judged.notes, *notes, *_short(others, judged, extra["candidates"])]
    report: dict[str, Any] = {
        "collection": judged.name,
        "queries": len(judged.queries),
        "runs": {name: _rounded(mean(each)) for name, each in values.items()},
        "comparisons": _comparisons(values, extra.get("mode", "")),
        "latency ms": {name: stage.latency() for name, stage in stages.items()},
        "best": [],
        "worst": [],
        "notes": notes,
        **{name: value for name, value in extra.items() if value is not None},
    }
    if "reranked" in stages:
        report |= _extremes(judged, values[extra["mode"]], values["reranked"], stages["reranked"])
    return report


def _short(others: Mapping[str, Run], judged: Judged, candidates: int) -> Iterator[str]:
    """Notes on runs that lack judged queries, or have fewer documents than would be reranked."""
    for name, run in others.items():
        counts = {query: len(run.get(query, ())) for query in judged.queries}
        missing = sum(not count for count in counts.values())
        if missing:
            yield f"the run {name} lacks {missing} of {len(counts)} judged queries, which count as 0"
        few = {query: count for query, count in counts.items() if 0 < count < candidates}
        if few:
            query = min(few, key=lambda query: few[query])
            yield (
                f"the run {name} has fewer than {candidates} documents for {len(few)} queries; "
                f"the fewest, {few[query]}, for {query!r}"
            )


def _comparisons(values: Mapping[str, ByQuery], mode: str) -> list[dict[str, Any]]:
    """The reranked run against its first stage, and all others against the first run."""
    names = list(values)
    pairs = [(mode, "reranked")] if "reranked" in values else []
    pairs += [(names[0], name) for name in names[1:] if (names[0], name) not in pairs]
    return [{"first": a, "second": b, "measure": MAIN} | compared(values[a][MAIN], values[b][MAIN]) for a, b in pairs]


def _extremes(judged: Judged, first: ByQuery, second: ByQuery, stage: Searched) -> dict[str, Any]:
    """The queries that the reranker helped and hurt most."""
    change = {query: second[MAIN][query] - first[MAIN][query] for query in judged.queries}
    order = sorted(change, key=lambda query: change[query])

    def row(query: str) -> dict[str, Any]:
        hits = [
            {"document": name, "grade": judged.grades[query].get(name, 0), "text": text}
            for name, text in stage.texts[query]
        ]
        figures = {"before": first[MAIN][query], "after": second[MAIN][query]}
        return {"id": query, "query": judged.queries[query], "hits": hits} | _rounded(figures)

    return {
        "best": [row(query) for query in reversed(order[-SHOWN:]) if change[query] > 0],
        "worst": [row(query) for query in order[:SHOWN] if change[query] < 0],
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) if math.isfinite(value) else value for name, value in values.items()}
