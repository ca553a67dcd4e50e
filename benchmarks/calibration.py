"""Calibration of a reranker on collections in BEIR layout: expected calibration error and thresholds.

    python benchmarks/calibration.py path/to/cranfield path/to/cosqa --reranker demo-minilm --queries 200

Stores and scored pairs are those of quality.py. Figures go to results/calibration.json, and the reliability diagram of
the first collection to `--plot`.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qwen3_rag import Pipeline, Reranker
from qwen3_rag.evaluation import calibrate
from qwen3_rag.evaluation.remembering import RememberingReranker

KEPT = ("queries", "pairs", "relevant", "stages", "calibration error", "thresholds", "precision", "min_probability")


def measured(folder: Path, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The figures of one collection; the store keeps the calibration."""
    place = options.kept / f"{folder.name} demo"
    queries = out / "queries.jsonl"
    lines = (folder / "queries.jsonl").read_text("utf-8").splitlines(keepends=True)
    queries.write_text("".join(lines[: options.queries]), "utf-8")
    with (
        closing(RememberingReranker(Reranker(options.reranker), place / options.reranker / "scores.db")) as reranker,
        Pipeline.open(place / "store", "demo", reranker) as pipeline,
    ):
        report = calibrate(
            pipeline,
            queries,
            folder / "qrels/test.tsv",
            candidates=options.candidates,
            precision=options.precision,
            out=out,
        )
    kept = {name: report[name] for name in (*KEPT, "answer_probability", "answered")}
    return {"collection": folder.name, "reranker": options.reranker, "candidates": options.candidates} | kept


def main() -> None:
    """Measure, and print a line a collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--reranker", default="demo-minilm")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--queries", type=int, help="first so many queries; by default all")
    parser.add_argument("--precision", type=float, default=0.5)
    parser.add_argument("--kept", type=Path, default=Path(".benchmarks/quality"))
    parser.add_argument("--plot", type=Path, help="where the diagram of the first collection goes")
    options = parser.parse_args()
    rows = []
    for folder in options.folders:
        with TemporaryDirectory() as temporary:
            out = Path(temporary)
            rows.append(measured(folder, options, out))
            print(json.dumps(rows[-1]), flush=True)
            if options.plot and len(rows) == 1:
                options.plot.write_bytes((out / "reliability.svg").read_bytes())
    (Path(__file__).parent / "results/calibration.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
