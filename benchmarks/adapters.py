"""Many callers of one reranker through the LangChain adapter: threads and async tasks beside one call after another.

    python benchmarks/adapters.py --model demo

The same queries and documents in each of three turns; the medians, in pairs a second. Results go to
results/adapters.json.
"""

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from langchain_core.documents import Document

from langchain_qwen3_rag import Qwen3Rerank

ROOT = Path(__file__).parent.parent
TURNS = 3


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--documents", type=int, default=4, help="documents a call: few, so that sharing matters")
    options = parser.parse_args()
    records = [json.loads(line) for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]
    documents = [Document(record["text"]) for record in records[: options.documents]]
    queries = [f"What is said about {record['text'][:40]}?" for record in records[: options.callers]]
    compressor = Qwen3Rerank(model=options.model)
    compressor.compress_documents(documents, "warm up")

    def serial() -> None:
        for query in queries:
            compressor.compress_documents(documents, query)

    def threads() -> None:
        with ThreadPoolExecutor(options.callers) as pool:
            list(pool.map(lambda query: compressor.compress_documents(documents, query), queries))

    def tasks() -> None:
        async def gathered() -> None:
            await asyncio.gather(*(compressor.acompress_documents(documents, query) for query in queries))

        asyncio.run(gathered())

    ways: dict[str, Callable[[], None]] = {"one after another": serial, "threads": threads, "tasks": tasks}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    pairs = options.documents * options.callers
    speed = {name: round(pairs / statistics.median(values), 1) for name, values in seconds.items()}
    row = {
        "machine": platform.processor() or platform.machine(),
        "model": options.model,
        "callers": options.callers,
        "documents a call": options.documents,
        "pairs a second": speed,
        "ratio": {name: round(speed[name] / speed["one after another"], 2) for name in ("threads", "tasks")},
    }
    print(json.dumps(row))
    (Path(__file__).parent / "results/adapters.json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
