"""Reranking without a GPU: seconds and nDCG@10 of full depth, fewer candidates, adaptive depth, cascade and int8.

    python benchmarks/laptop.py path/to/cranfield --tokenizer path/to/qwen3-tokenizer --queries 60

Seconds are those of the 0.6B architecture with random weights, because time depends on shapes only. Quality is that of
trained models in the same roles: `demo-minilm` reads last, in the place of Qwen3, and in a cascade the weaker `demo`
chooses what it reads. Adaptive depths are the mean depths that the trained models stopped at. Stores and scored pairs
are those of quality.py.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bench import make_model

from qwen3_rag import Cascade, Pipeline, Reranker
from qwen3_rag.evaluation.figures import MAIN, by_query, compared
from qwen3_rag.evaluation.judged import Judged, read_folder
from qwen3_rag.evaluation.remembering import RememberingReranker
from qwen3_rag.evaluation.running import searched
from qwen3_rag.models.adaptive import WINDOW

FULL, FEW, LAST = 100, 20, 16
TIMED = 3  # queries
Read = tuple[Reranker, int, int]  # a reranker, the candidates it reads, and how many at once
Quality = dict[str, tuple[float, dict[str, Any] | None, tuple[float, ...]]]


class CountingReranker(RememberingReranker):
    """Remembers scores, and counts the pairs that each call was asked for."""

    def __init__(self, reranker: Reranker, path: Path) -> None:
        super().__init__(reranker, path)
        self.asked = 0

    def read(self, query: str, documents: Sequence[str], *options: Any) -> Any:
        """As the reranker does."""
        self.asked += len(documents)
        return super().read(query, documents, *options)


def quality(judged: Judged, place: Path) -> Quality:
    """nDCG@10 of each way, its difference to full depth, and the mean number of pairs of each reranker."""
    figures: Quality = {}
    with ExitStack() as stack:
        small, last = (
            stack.enter_context(closing(CountingReranker(Reranker(name), _folder(place / name) / "scores.db")))
            for name in ("demo", "demo-minilm")
        )
        ways: dict[str, tuple[Any, dict[str, Any]]] = {
            "full depth": (last, {"candidates": FULL}),
            "20 candidates": (last, {"candidates": FEW}),
            "adaptive": (last, {"candidates": "auto"}),
            "cascade": (Cascade([(small, FULL), (last, LAST)]), {"candidates": FULL}),
            "cascade, adaptive": (Cascade([(small, FULL), (last, LAST)]), {"candidates": "auto"}),
            "first stage": (last, {"rerank": False}),
        }
        full: dict[str, float] = {}
        for name, (reranker, options) in ways.items():
            small.asked = last.asked = 0
            with Pipeline.open(place / "store", "demo", reranker) as pipeline:
                values = by_query(judged, searched(pipeline, judged, name, True, True, top_k=10, **options).run)[MAIN]
            full = full or values
            pairs = tuple(round(each.asked / len(values), 1) for each in (small, last) if each.asked)
            change = compared(full, values) if values is not full else None
            figures[name] = float(np.mean(list(values.values()))), change, pairs
            print(name, figures[name], flush=True)
    return figures


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def seconds(judged: Judged, place: Path, model: Path, figures: Quality) -> dict[str, dict[str, float]]:
    """Seconds a query of each way, by dtype of the large model."""
    with Pipeline.open(place / "store", "demo", "none") as pipeline:
        texts = list(judged.queries.values())[: TIMED + 1]
        candidates = [(text, [hit.text for hit in pipeline.search(text, top_k=FULL)]) for text in texts]
    minilm = Reranker("demo-minilm")
    adaptive = round(figures["adaptive"][2][-1])
    first, second = (round(pairs) for pairs in figures["cascade, adaptive"][2])
    result: dict[str, dict[str, float]] = {}
    for dtype in ("bfloat16", "int8"):
        large = Reranker(str(model), dtype=dtype)
        ways: dict[str, list[Read]] = {
            "full depth": [(large, FULL, FULL)],
            "20 candidates": [(large, FEW, FEW)],
            "adaptive": [(large, adaptive, WINDOW)],
            "cascade": [(minilm, FULL, FULL), (large, LAST, LAST)],
            "cascade, adaptive": [(minilm, first, WINDOW), (large, second, WINDOW)],
        }
        for reranker in (large, large, minilm):  # loads, warms and, after twenty seconds of work, compiles
            reranker.read(*candidates[0])
        result[dtype] = {name: median(_timed(reads, *each) for each in candidates[1:]) for name, reads in ways.items()}
        print(dtype, result[dtype], flush=True)
        large.unload()
    return result


def _timed(reads: list[Read], query: str, documents: list[str]) -> float:
    began = time.perf_counter()
    for reranker, count, window in reads:
        for start in range(0, count, window):
            reranker.read(query, documents[start : min(start + window, count)])
    return time.perf_counter() - began


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with Qwen3's tokenizer")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--kept", type=Path, default=Path(".benchmarks/quality"))
    options = parser.parse_args()
    folder = options.collection
    judged = read_folder(folder).first(options.queries)
    place = options.kept / f"{folder.name} demo"
    figures = quality(judged, place)
    with TemporaryDirectory() as temporary:
        make_model(Path(temporary), options.tokenizer)
        times = seconds(judged, place, Path(temporary), figures)
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "pairs": pairs,
            MAIN: round(value, 4),
            "against full depth": change and {"difference": change["difference"], "interval": change["interval"]},
            "seconds": {dtype: round(of_dtype[name], 2) for dtype, of_dtype in times.items() if name in of_dtype},
        }
        for name, (value, change, pairs) in figures.items()
    ]
    machine = {"machine": platform.processor() or platform.machine(), "cores": 2, "queries": len(judged.queries)}
    (Path(__file__).parent / "results/laptop.json").write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n")
    print(f"| | pairs | {MAIN} | bf16 s | int8 s |\n|---|---|---|---|---|")
    for row in rows:
        pairs = " + ".join(f"{each:g}" for each in row["pairs"])
        print(f"| {row['way']} | {pairs} | {row[MAIN]:.3f} | {' | '.join(map(str, row['seconds'].values()))} |")


if __name__ == "__main__":
    main()
