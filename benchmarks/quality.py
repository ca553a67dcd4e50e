"""nDCG@10 of the demo models on collections in BEIR layout: first stage, reranker alone, and both blended.

    python benchmarks/quality.py data/demo --rerank 20
    python benchmarks/quality.py path/to/cranfield --queries 200

Runs through `Pipeline`, as a user would: exact search, one hit a document, measured by ir_measures.
"""

import argparse
import csv
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ir_measures
import numpy as np
from ir_measures import Qrel, ScoredDoc, nDCG

from qwen3_rag import Pipeline, Reranker, Results
from qwen3_rag.scores import RerankResult

MEASURE = nDCG @ 10
BLENDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
Queries = dict[str, str]


def judged(folder: Path, most: int | None) -> tuple[Queries, list[Qrel]]:
    """The first `most` judged queries of a collection, in the file's order, and their judgements."""
    with next((folder / "qrels").glob("*.tsv")).open(encoding="utf-8") as file:
        qrels = [Qrel(r["query-id"], r["corpus-id"], int(r["score"])) for r in csv.DictReader(file, delimiter="\t")]
    relevant = {qrel.query_id for qrel in qrels if qrel.relevance > 0}
    records = map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())
    queries = {r["_id"]: r["text"] for r in records if r["_id"] in relevant}
    queries = dict(list(queries.items())[:most])
    return queries, [qrel for qrel in qrels if qrel.query_id in queries]


def score(queries: Queries, qrels: list[Qrel], search: Callable[[str], Results]) -> dict[str, float]:
    """nDCG@10 of each query."""
    run = [ScoredDoc(name, hit.document_id, -float(hit.rank)) for name, text in queries.items() for hit in search(text)]
    return {str(m.query_id): float(m.value) for m in ir_measures.iter_calc([MEASURE], qrels, run)}


def _halves(by_query: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The blend that is best on every other query, with its figure and the first stage's on the rest."""
    names = sorted(by_query["first stage"])
    halves = {"chosen on": names[::2], "measured on": names[1::2]}

    def mean(mode: str, half: str) -> float:
        return sum(by_query[mode].get(name, 0.0) for name in halves[half]) / len(halves[half])

    best = max((name for name in by_query if name.startswith("blend")), key=lambda name: mean(name, "chosen on"))
    return {half: {mode: round(mean(mode, half), 4) for mode in ("first stage", best)} for half in halves}


class Remembering:
    """A reranker that reads each pair once, so that a second order of the same candidates costs nothing."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker, self.scores = reranker, {}
        self.describe = reranker.describe

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: object = None,
    ) -> RerankResult:
        """Log-odds as the reranker gives them."""
        new = [text for text in documents if (query, text, instruction) not in self.scores]
        for text, value in zip(new, self.reranker.log_odds(query, new, instruction), strict=True):
            self.scores[query, text, instruction] = value
        values = [self.scores[query, text, instruction] for text in documents]
        return RerankResult(np.array(values, dtype=np.float32), np.zeros(len(values), dtype=np.int64))


def evaluate(
    folder: Path, store: Path, *, queries: int | None = None, rerank: int = 0, instruction: str | None = None
) -> dict[str, Any]:
    """Index a collection with the demo models and measure it.

    Args:
        folder: A collection in BEIR layout.
        store: Where to create the store, or an existing store of this collection.
        queries: Measure the first so many judged ones; None for all.
        rerank: Candidates to rerank; 0 measures the first stage only.
        instruction: For the reranker.
    """
    texts, qrels = judged(folder, queries)
    started = time.monotonic()
    remembering = Remembering(Reranker("demo", max_length=1024))
    opened = (
        Pipeline.open(store, reranker=remembering) if store.exists() else Pipeline.create(store, "demo", remembering)
    )
    with opened as pipeline:
        passages = pipeline.index(folder / "corpus.jsonl", show_progress=True).passages
        indexed = time.monotonic()
        modes: dict[str, dict[str, Any]] = {
            "first stage": {"rerank": False},
            "lexical": {"rerank": False, "mode": "lexical"},
            "hybrid": {"rerank": False, "mode": "hybrid"},
        }
        if rerank:
            options = {"candidates": rerank, "instruction": instruction}
            modes |= {
                "reranker alone": options,
            } | {f"blend {b}": options | {"blend": b} for b in BLENDS}
        means, by_query = {}, {}
        for name, options in modes.items():
            values = score(texts, qrels, lambda q, o=options: pipeline.search(q, group_by_document=True, **o))  # type: ignore[misc]
            means[name] = round(sum(values.values()) / len(texts), 4)
            by_query[name] = {query: round(value, 3) for query, value in values.items()}
    halves = _halves(by_query) if rerank else None
    return {
        "collection": folder.name,
        "passages": passages,
        "queries": len(texts),
        "reranked": rerank,
        "nDCG@10": means,
        "blend chosen on one half, measured on the other": halves,
        "by query": by_query,
        "seconds": {"index": round(indexed - started, 1), "search": round(time.monotonic() - indexed, 1)},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--queries", type=int, help="number of judged queries; by default all")
    parser.add_argument("--rerank", type=int, default=0, help="candidates to rerank; 0 for the first stage only")
    parser.add_argument("--instruction", help="for the reranker: a preset's name or a sentence")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("qwen3_rag").setLevel(logging.INFO)
    rows = []
    for folder in options.folders:
        with TemporaryDirectory() as place:
            row = evaluate(
                folder,
                Path(place) / "store",
                queries=options.queries,
                rerank=options.rerank,
                instruction=options.instruction,
            )
        rows.append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "by query"}))
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
