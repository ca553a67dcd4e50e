"""nDCG@10 of the demo models on collections in BEIR layout: first stage, rerankers alone, and both blended.

    python benchmarks/quality.py data/demo --rerank 20 --rerankers demo demo-minilm
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
RESAMPLED = 10_000  # bootstrap samples of the queries
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


def interval(first: dict[str, float], other: dict[str, float]) -> list[float]:
    """The 95 % confidence interval of the mean difference `other` - `first`, by a paired bootstrap over the queries."""
    difference = np.array([other.get(name, 0.0) - first.get(name, 0.0) for name in sorted(first)])
    samples = np.random.default_rng(0).integers(len(difference), size=(RESAMPLED, len(difference)))
    return [round(float(value), 3) for value in np.percentile(difference[samples].mean(axis=1), (2.5, 97.5))]


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
    folder: Path, store: Path, *, queries: int | None = None, rerank: int = 0, rerankers: Sequence[str] = ()
) -> dict[str, Any]:
    """Index a collection with the demo models and measure it.

    Args:
        folder: A collection in BEIR layout.
        store: Where to create the store, or an existing store of this collection.
        queries: Measure the first so many judged ones; None for all.
        rerank: Candidates to rerank.
        rerankers: Names of rerankers; none measures the first stage only.
    """
    texts, qrels = judged(folder, queries)
    started = time.monotonic()
    seconds, by_query = {}, {}
    opened = Pipeline.open(store, reranker=None) if store.exists() else Pipeline.create(store, "demo", None)
    with opened as pipeline:
        passages = pipeline.index(folder / "corpus.jsonl", show_progress=True).passages
        seconds["index"] = round(time.monotonic() - started, 1)
        modes: dict[str, dict[str, Any]] = {
            "first stage": {},
            "lexical": {"mode": "lexical"},
            "hybrid": {"mode": "hybrid"},
        }
        for name, options in modes.items():
            by_query[name] = score(texts, qrels, lambda q, o=options: pipeline.search(q, group_by_document=True, **o))  # type: ignore[misc]
    for reranker in rerankers:
        started = time.monotonic()
        with Pipeline.open(store, reranker=Remembering(Reranker(reranker))) as pipeline:
            for blend in (0.0, *BLENDS):
                name = f"{reranker}, blend {blend}" if blend else f"{reranker} alone"
                by_query[name] = score(
                    texts,
                    qrels,
                    lambda q, p=pipeline, b=blend: p.search(q, group_by_document=True, candidates=rerank, blend=b),  # type: ignore[misc]
                )
        seconds[reranker] = round(time.monotonic() - started, 1)
    first = by_query["first stage"]
    return {
        "collection": folder.name,
        "passages": passages,
        "queries": len(texts),
        "reranked": rerank if rerankers else 0,
        "nDCG@10": {name: round(sum(values.values()) / len(texts), 4) for name, values in by_query.items()},
        "95 % interval of the difference to the first stage": {
            name: interval(first, values) for name, values in by_query.items() if name != "first stage"
        },
        "by query": {
            name: {query: round(value, 3) for query, value in values.items()} for name, values in by_query.items()
        },
        "seconds": seconds,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--queries", type=int, help="number of judged queries; by default all")
    parser.add_argument("--rerank", type=int, default=50, help="candidates to rerank")
    parser.add_argument("--rerankers", nargs="*", default=[], help="presets or folders; none for the first stage only")
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
                rerankers=options.rerankers,
            )
        rows.append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "by query"}))
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
