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
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ir_measures
from ir_measures import Qrel, ScoredDoc, nDCG

from qwen3_rag import Pipeline, Results

MEASURE = nDCG @ 10
BLEND = 0.5
Queries = dict[str, str]


def judged(folder: Path, most: int | None) -> tuple[Queries, list[Qrel]]:
    """The first `most` judged queries of a collection, in the file's order, and their judgements."""
    with next((folder / "qrels").glob("*.tsv")).open(encoding="utf-8") as file:
        qrels = [Qrel(r["query-id"], r["corpus-id"], int(r["score"])) for r in csv.DictReader(file, delimiter="\t")]
    wanted = {qrel.query_id for qrel in qrels if qrel.relevance > 0}
    records = map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())
    queries = {r["_id"]: r["text"] for r in records if r["_id"] in wanted}
    queries = dict(list(queries.items())[:most])
    return queries, [qrel for qrel in qrels if qrel.query_id in queries]


def score(queries: Queries, qrels: list[Qrel], search: Callable[[str], Results]) -> dict[str, float]:
    """nDCG@10 of each query."""
    run = [ScoredDoc(name, hit.document_id, -float(hit.rank)) for name, text in queries.items() for hit in search(text)]
    return {str(m.query_id): float(m.value) for m in ir_measures.iter_calc([MEASURE], qrels, run)}


def evaluate(
    folder: Path, store: Path, *, queries: int | None = None, rerank: int = 0, instruction: str | None = None
) -> dict[str, Any]:
    """Index a collection with the demo models and measure it.

    Args:
        folder: A collection in BEIR layout.
        store: Where to make the store, or a store of this collection made before.
        queries: Measure the first so many judged ones; None for all.
        rerank: Candidates to rerank; 0 measures the first stage only.
        instruction: For the reranker.
    """
    texts, qrels = judged(folder, queries)
    started = time.monotonic()
    made = Pipeline.open(store) if store.exists() else Pipeline.create(store, "demo", "demo")
    with made as pipeline:
        passages = pipeline.index(folder / "corpus.jsonl", show_progress=True).passages
        indexed = time.monotonic()
        modes: dict[str, dict[str, Any]] = {
            "first stage": {"rerank": False},
            "lexical": {"rerank": False, "mode": "lexical"},
            "hybrid": {"rerank": False, "mode": "hybrid"},
        }
        if rerank:
            options = {"candidates": rerank, "instruction": instruction}
            modes |= {"reranker alone": options, f"blend {BLEND}": options | {"blend": BLEND}}
        found = {}
        for name, options in modes.items():
            values = score(texts, qrels, lambda q, o=options: pipeline.search(q, group_by_document=True, **o))  # type: ignore[misc]
            found[name] = round(sum(values.values()) / len(texts), 4)
    return {
        "collection": folder.name,
        "passages": passages,
        "queries": len(texts),
        "reranked": rerank,
        "nDCG@10": found,
        "seconds": {"index": round(indexed - started, 1), "search": round(time.monotonic() - indexed, 1)},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--queries", type=int, help="first so many judged queries; all if not given")
    parser.add_argument("--rerank", type=int, default=0, help="candidates to rerank; 0 for the first stage only")
    parser.add_argument("--instruction", help="for the reranker: a preset's name or a sentence")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("qwen3_rag").setLevel(logging.INFO)
    rows = []
    for folder in given.folders:
        with TemporaryDirectory() as place:
            row = evaluate(
                folder,
                Path(place) / "store",
                queries=given.queries,
                rerank=given.rerank,
                instruction=given.instruction,
            )
        rows.append(row)
        print(json.dumps(row))
    if given.json:
        machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
