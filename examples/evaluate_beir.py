"""Measure a pipeline on a folder in BEIR layout.

python examples/evaluate_beir.py                       # a quick look at data/demo, with the demo models
python examples/evaluate_beir.py judged --embedder 0.6b --reranker 0.6b --candidates 100
"""

import argparse
from pathlib import Path

from qwen3_rag.evaluation import evaluate

DEMO = Path(__file__).parent.parent / "data/demo"


def main() -> None:
    """Evaluate, and print what each stage finds."""
    parser = argparse.ArgumentParser(description="Measure a pipeline on a folder in BEIR layout")
    parser.add_argument("data", type=Path, nargs="?", help="folder with corpus.jsonl, queries.jsonl and qrels/")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--embedder", default="demo")
    parser.add_argument("--reranker", default="demo-minilm")
    parser.add_argument("--candidates", type=int, default=20)
    options = parser.parse_args()
    report = evaluate(
        options.data or DEMO,
        options.out,
        embedder=options.embedder,
        reranker=options.reranker,
        candidates=options.candidates,
        limit=None if options.data else 10,
        show_progress=True,
    )
    for name, values in report["runs"].items():
        print(f"{name:10}", "  ".join(f"{measure} {value:.3f}" for measure, value in values.items()))
    print(f"{'ceiling':10}", f"nDCG@10 {report['ceiling']['nDCG@10']:.3f} with the best order of the same candidates")


if __name__ == "__main__":
    main()
