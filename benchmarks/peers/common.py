"""What the peers' scripts share: the job they read, the timing, and the JSON they print. Standard library only.

A job is a JSON file: {"query": text, "documents": [texts], "instruction": text}. A script is called as
`python benchmarks/peers/NAME.py MODEL JOB [settings]` and its last line of output is one JSON object:
{"seconds": …, "cold_seconds": …, "settings": {…}, "log_odds": [… in the order of the documents]}.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def parser(about: str | None) -> argparse.ArgumentParser:
    """Arguments that every peer understands; a script adds its own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a transformers checkpoint, tokenizer.json beside it")
    parser.add_argument("job", type=Path, help="JSON file with query, documents and instruction")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=None, help="documents of the first, untimed run; default: all")
    return parser


def read_job(path: Path) -> tuple[str, list[str], str]:
    """Query, documents and instruction of a job."""
    job = json.loads(path.read_text("utf-8"))
    return job.get("query", ""), job["documents"], job.get("instruction", "")


def head_and_tails(path: Path) -> tuple[str, list[str]]:
    """The official format's text before the documents, and each document with what follows it."""
    query, documents, instruction = read_job(path)
    head = f"{PREFIX}<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"
    return head, [f" {document}{SUFFIX}" for document in documents]


def batches(lengths: Sequence[int], size: int, by_length: bool = True) -> list[list[int]]:
    """Positions in batches of `size`; the longest first, so that memory is allocated once, or in input order."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i]) if by_length else list(range(len(lengths)))
    return [order[start : start + size] for start in range(0, len(order), size)]


def settings_of(options: argparse.Namespace, **further: Any) -> dict[str, Any]:
    """The settings to print, without the paths."""
    kept = {name: value for name, value in vars(options).items() if name not in ("model", "job", "warm_up")}
    return kept | further


def report(
    run: Callable[[Sequence[Any]], Any], items: Sequence[Any], warm_up: int | None, settings: dict[str, Any], key: str
) -> None:
    """Run once untimed on the first `warm_up` items, once timed on all, and print the result.

    Args:
        run: Gives a list of numbers, one for each item, out of text: tokenizing counts.
        items: What is scored.
        warm_up: Items of the first run, or None for all.
        settings: Printed as they are.
        key: Name of the numbers in what is printed.
    """
    began = time.perf_counter()
    if warm_up != 0:
        run(items[:warm_up])
    cold = time.perf_counter() - began
    began = time.perf_counter()
    scores = run(items)
    seconds = time.perf_counter() - began
    sys.stdout.flush()
    print(json.dumps({"seconds": seconds, "cold_seconds": cold, "settings": settings, key: list(map(float, scores))}))
