"""`search_many` beside a loop over `search`: the same queries, options and store, in one run.

    python benchmarks/many.py                       # 300 queries over 20,000 passages; about 3 minutes on two cores

Passages: texts of the collections with vectors of the demo embedder in float32, repeated with noise until there are
enough. Queries: the collections' own. Results: benchmarks/results/many-<passages>.json.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from embedded import embedded

from qwen3_rag import Document, Embedder, Pipeline, Reranker, Results

HERE = Path(__file__).parent
COLLECTIONS = ("cranfield", "cosqa", "xquad-en", "limit-small")
NOISE = 0.35  # length of what is added to a unit vector
RERANKED = 60  # queries of the parts with the reranker


def timed(call: Callable[[], list[Results]]) -> tuple[float, list[Results]]:
    """Seconds and results."""
    began = time.perf_counter()
    results = call()
    return time.perf_counter() - began, results


def compare(pipeline: Pipeline, queries: list[str], **options: Any) -> dict[str, Any]:
    """The loop and `search_many`, the faster of two runs each, and how far their scores are apart."""
    pipeline.search_many(queries[:8], **options)
    loops = [timed(lambda: [pipeline.search(query, **options) for query in queries]) for _ in range(2)]
    together = [timed(lambda: pipeline.search_many(queries, **options)) for _ in range(2)]
    (loop, one), (many, other) = min(loops, key=lambda run: run[0]), min(together, key=lambda run: run[0])
    pairs = [(a, b) for results in zip(one, other, strict=True) for a, b in zip(*results, strict=True)]
    differences = [abs(a.retrieval_score - b.retrieval_score) for a, b in pairs]
    differences += [abs((a.log_odds or 0) - (b.log_odds or 0)) for a, b in pairs]
    figures = {
        "queries": len(queries),
        "loop s": round(loop, 2),
        "search_many s": round(many, 2),
        "times as fast": round(loop / many, 2),
        "largest difference of a score": float(f"{max(differences):.1e}"),
        "same hits": sum(a.id == b.id for a, b in pairs) / len(pairs),
    }
    print(options, json.dumps(figures), flush=True)
    return figures


def main() -> None:
    """Run all parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks"), help="where vectors are kept")
    parser.add_argument("--collections", type=Path, default=HERE.parent.parent / "shared/collections")
    options = parser.parse_args()
    held = [embedded(options.collections / name, options.folder, 150) for name in COLLECTIONS]
    texts = [text for one in held for text in one.texts]
    base = np.concatenate([one.vectors for one in held]).astype(np.float32)
    queries = [query for one in held for query in one.judged.queries.values()][: options.queries]
    if len(queries) < options.queries:
        sys.exit(f"--queries is {options.queries}; the collections have {len(queries)}")
    generator = np.random.default_rng(0)
    rows = base[np.arange(options.passages) % len(base)]
    rows = rows + generator.normal(size=rows.shape).astype(np.float32) * (NOISE / rows.shape[1] ** 0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    documents = [Document(texts[i % len(texts)] or "empty", id=str(i)) for i in range(options.passages)]
    embedder, reranker = Embedder("demo", dtype="float32"), Reranker("demo", dtype="float32")
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "passages": options.passages}
    with tempfile.TemporaryDirectory() as folder, Pipeline.create(Path(folder) / "store", embedder, reranker) as store:
        store.add(documents, vectors=rows)
        store.optimize("flat")
        for mode in ("dense", "hybrid"):
            results[f"{mode}, first stage"] = compare(store, queries, mode=mode, rerank=False)
        results["dense, 4 candidates reranked"] = compare(store, queries[:RERANKED], top_k=4, candidates=4)
    out = HERE / f"results/many-{options.passages}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
