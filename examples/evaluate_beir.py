"""Measure a pipeline on a folder in BEIR layout.

python examples/evaluate_beir.py data/demo --embedder demo --reranker demo-minilm --candidates 20
"""

import argparse
from pathlib import Path

from qwen3_rag.evaluation import evaluate


def main() -> None:
    """Evaluate, and print what each stage finds."""
    parser = argparse.ArgumentParser(description="Measure a pipeline on a folder in BEIR layout")
    parser.add_argument("data", type=Path, help="folder with corpus.jsonl, queries.jsonl and qrels/")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--embedder", default="0.6b")
    parser.add_argument("--reranker", default="0.6b")
    parser.add_argument("--candidates", type=int, default=100)
    options = parser.parse_args()
    report = evaluate(
        options.data,
        options.out,
        embedder=options.embedder,
        reranker=options.reranker,
        candidates=options.candidates,
        show_progress=True,
    )
    for name, values in report["runs"].items():
        print(f"{name:10}", "  ".join(f"{measure} {value:.3f}" for measure, value in values.items()))
    print(f"{'ceiling':10}", f"nDCG@10 {report['ceiling']['nDCG@10']:.3f} with the best order of the same candidates")


if __name__ == "__main__":
    main()
