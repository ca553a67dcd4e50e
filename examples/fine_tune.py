"""Fine-tune a reranker on judged lists, and see on held-out questions whether it helped.

python examples/fine_tune.py                                       # sixteen questions, the demo reranker, a CPU
python examples/fine_tune.py lists.jsonl --model 0.6b --out tuned  # your own lists, on a GPU
"""

import argparse
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from qwen3_rag import Reranker
from qwen3_rag.training import TrainingSettings, train_reranker

logging.disable(logging.INFO)

# A house where "green" means out of order: knowledge that no base model has.
MACHINES = [
    "lift", "boiler", "pump", "press", "lathe", "oven", "crane", "mixer",
    "dryer", "saw", "drill", "fan", "loom", "mill", "kiln", "winch",
]  # fmt: skip


def write_lists(path: Path) -> Path:
    """A line for each question: its answer, and passages that only look like one."""
    with path.open("w") as file:
        for number, machine in enumerate(MACHINES):
            other = MACHINES[(number + 1) % len(MACHINES)]
            record = {
                "query": f"Which {machine} is out of order?",
                "positive": f"The {machine} with the green tag, number {number}.",
                "negative": [
                    f"The {machine} with the red tag, number {number}.",
                    f"The {other} with the blue tag, number {number}.",
                ],
            }
            file.write(json.dumps(record) + "\n")
    return path


def main() -> None:
    """Train, and print the figures."""
    parser = argparse.ArgumentParser(description="Fine-tune a reranker")
    parser.add_argument("data", type=Path, nargs="?", help="file of lists: query, positive and negative on each line")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        data = options.data or write_lists(Path(temporary) / "lists.jsonl")
        out = options.out or Path(temporary) / "tuned"
        settings = TrainingSettings(epochs=options.epochs, evaluations=2, max_length=1024)
        report = train_reranker(data, out, model=options.model, settings=settings, show_progress=True)
        for name in ("before", "after"):
            print(f"{name:6} nDCG@10 {report[name]['nDCG@10']:.3f} of {report['queries']['test']} test questions")
        print("better than its base" if report["improved"] else "not better than its base: use the base")
        if not options.data:
            tuned = Reranker(str(out / "merged"))
            print(tuned.rank("Which cart is out of order?", ["The red cart.", "The green cart."])[0])


if __name__ == "__main__":
    main()
