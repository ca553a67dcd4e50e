"""Training speed: tokens a second of rows that share their query, beside plain padded rows of pairs, in one run.

    python benchmarks/training.py --model path/to/reranker
    python benchmarks/training.py --tokenizer path/to/qwen3-tokenizer --layers 4

Without a model, the 0.6B architecture with random weights and fewer layers. Both make the same gradient; tokens are
those of the pairs' inputs, so that both count the same work.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bench import make_model

from qwen3_rag.models.checkpoints.formats import RerankFormat
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.training import TrainingList
from qwen3_rag.training.losses import listwise
from qwen3_rag.training.models import Lora, TrainedReranker
from qwen3_rag.training.rows import encode, packed_rows, pair_rows

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results/training.json"
TURNS = 5


def lists_of(count: int, documents: int) -> list[TrainingList]:
    """Lists of data/demo's passages, each under a question of another passage's title."""
    records = [json.loads(line) for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]
    lists = []
    for number in range(count):
        part = records[number * documents : (number + 1) * documents]
        texts = tuple(dict.fromkeys(record["text"] for record in part))
        grades = (1,) + (0,) * (len(texts) - 1)
        lists.append(
            TrainingList(str(number), f"What is said about {part[0]['title'] or part[0]['text'][:40]}?", texts, grades)
        )
    return lists


def main() -> None:
    """Measure both in turns, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--documents", type=int, default=8, help="documents a list")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = options.model
        if folder is None:
            folder = Path(temporary)
            make_model(folder, options.tokenizer, options.layers)
        row = measured(folder, options)
    print(json.dumps(row))
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [other for other in kept if other["model"] != row["model"]] + [row]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both, and how far their gradients are apart."""
    trained = TrainedReranker(folder, Lora(), options.device, "auto", 1)
    form = RerankFormat(trained.tokens, 2048)
    instruction = resolve_instruction(None, {})
    items = [(one, encode(one, form, instruction)) for one in lists_of(TURNS + 1, options.documents)]
    seconds: dict[str, list[float]] = {"packed": [], "pairs": []}
    tokens = [sum(map(len, encoded.inputs)) for _, encoded in items]
    for number, (one, encoded) in enumerate(items):
        for name, stack in (("packed", packed_rows), ("pairs", pair_rows)):
            began = time.perf_counter()
            loss = listwise(
                trained.log_odds(stack([encoded], 0)), torch.tensor(one.grades, device=trained.device), None
            )
            torch.autograd.backward(loss)
            if trained.device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first is a warm-up
                seconds[name].append(tokens[number] / (time.perf_counter() - began))
            trained.model.zero_grad()
    speed = {name: round(statistics.median(values), 1) for name, values in seconds.items()}
    return {
        "machine": platform.processor() or platform.machine(),
        "device": str(trained.device),
        "dtype": trained.dtype,
        "model": options.model.name.rpartition("-")[0] or options.model.name
        if options.model
        else f"0.6B architecture, {options.layers} layers",
        "documents a list": options.documents,
        "tokens a pair": round(sum(tokens) / sum(len(one.documents) for one, _ in items), 1),
        "tokens a second": speed,
        "ratio": round(speed["packed"] / speed["pairs"], 2),
    }


if __name__ == "__main__":
    main()
