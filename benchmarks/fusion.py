"""How to join dense and lexical candidates: reciprocal ranks against normalised scores, on judged collections.

    python benchmarks/fusion.py ../shared/collections/cranfield ../shared/collections/cosqa …

Both halves give their hundred best passages, by the package's own searches; nDCG@10, and the recall among the hundred
fused candidates, which is what a reranker can still make good of. Vectors are kept in .benchmarks/.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from embedded import Collection, embedded

from qwen3_rag import Document
from qwen3_rag.evaluation.figures import by_query, mean
from qwen3_rag.evaluation.judged import Run
from qwen3_rag.index.protocols import RowsAndScores
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.indexer import add_with_vectors

MEASURES = ("nDCG@10", "recall@100")
DEPTH = 100
Fusion = Callable[[RowsAndScores, RowsAndScores], dict[int, float]]


def alone(which: int) -> Fusion:
    """One half."""
    return lambda *halves: dict(zip(halves[which][0].tolist(), halves[which][1].tolist(), strict=True))


def ranks(constant: float, lexical: float = 1.0) -> Fusion:
    """Reciprocal ranks (Cormack et al., 2009)."""

    def fused(*halves: RowsAndScores) -> dict[int, float]:
        scores: dict[int, float] = {}
        for (numbers, _), weight in zip(halves, (1.0, lexical), strict=True):
            for rank, number in enumerate(numbers.tolist(), start=1):
                scores[number] = scores.get(number, 0.0) + weight / (constant + rank)
        return scores

    return fused


def scaled(lexical: float, from_zero: bool = True) -> Fusion:
    """Scores brought to 0 to 1 and added: 1 is a half's best, 0 its last, or for BM25 `from_zero` a score of 0."""

    def fused(*halves: RowsAndScores) -> dict[int, float]:
        scores: dict[int, float] = {}
        lows = [float(halves[0][1].min(initial=1.0)), 0.0 if from_zero else float(halves[1][1].min(initial=1e9))]
        for (numbers, values), weight, low in zip(halves, (1 - lexical, lexical), lows, strict=True):
            if len(values):
                span = float(values.max()) - low or 1.0
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
                    scores[number] = scores.get(number, 0.0) + weight * (value - low) / span
        return scores

    return fused


FUSIONS: dict[str, Fusion] = {
    "dense alone": alone(0),
    "lexical alone": alone(1),
    "reciprocal ranks, 60": ranks(60),
    "reciprocal ranks, 10": ranks(10),
    "reciprocal ranks, 60, lexical halved": ranks(60, 0.5),
    **{f"scores, lexical {w}": scaled(w) for w in (0.2, 0.3, 0.4, 0.5)},
    **{f"scores, lexical {w}, from its last": scaled(w, False) for w in (0.2, 0.3, 0.4, 0.5)},
}


def measured(collection: Collection) -> dict[str, dict[str, float]]:
    """Both measures of every fusion on a collection."""
    runs: dict[str, Run] = {name: {} for name in FUSIONS}
    with TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", {}, dimensions=collection.vectors.shape[1], vectors="float32")
        documents = [Document(text, name) for name, text in zip(collection.ids, collection.texts, strict=True)]
        add_with_vectors(store, documents, collection.vectors)
        retriever = Retriever(store)
        for (query, text), vector in zip(collection.judged.queries.items(), collection.query_vectors, strict=True):
            halves: list[RowsAndScores] = []
            for mode in ("dense", "lexical"):
                hits = retriever.search(text, vector, DEPTH, mode, None)  # type: ignore[arg-type]
                numbers = np.array([passage.number for passage, _ in hits], dtype=np.int64)
                halves.append((numbers, np.array([score for _, score in hits], dtype=np.float32)))
            for name, fusion in FUSIONS.items():
                best = sorted(fusion(halves[0], halves[1]).items(), key=lambda entry: -entry[1])[:DEPTH]
                runs[name][query] = {collection.ids[number]: score for number, score in best}
        store.close()
    means = {name: mean(by_query(collection.judged, run)) for name, run in runs.items()}
    return {name: {measure: round(figures[measure], 4) for measure in MEASURES} for name, figures in means.items()}


def main() -> None:
    """Print a table of means, and write the figures of each collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--queries", type=int, default=300, help="first so many judged queries")
    parser.add_argument("--kept", type=Path, default=Path(".benchmarks"), help="where vectors are kept")
    options = parser.parse_args()
    figures = {folder.name: measured(embedded(folder, options.kept, options.queries)) for folder in options.folders}
    means = {
        name: {m: round(float(np.mean([rows[name][m] for rows in figures.values()])), 4) for m in MEASURES}
        for name in FUSIONS
    }
    (Path(__file__).parent / "results/fusion.json").write_text(json.dumps({"mean": means, **figures}, indent=1) + "\n")
    print(f"| nDCG@10 / recall@100 | {' | '.join(figures)} | mean |\n|---|{'---|' * (len(figures) + 1)}")
    for name in FUSIONS:
        cells = [" / ".join(f"{value:.3f}" for value in rows[name].values()) for rows in [*figures.values(), means]]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
