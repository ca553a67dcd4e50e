"""Folders: indexing beside the embedder's own speed on the same passages, and a sync of files that are as they were.

    python benchmarks/folder.py [--files 60] [--unchanged 10000] [--embedder demo] [--rounds 2]

Files are those of Python's standard library, which every machine has. In the same run, and by turns, the embedder is
called once with the same passages that the folder is split into; the ratio of the rates is what reading, cutting and
writing cost.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from qwen3_rag import Embedder, Pipeline
from qwen3_rag.ingest.indexer import prepare
from qwen3_rag.ingest.readers import read
from qwen3_rag.settings import Settings

OUT = Path(__file__).parent / "results" / "folder.json"


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def streaming(files: int, rounds: int, embedder: Embedder) -> dict[str, object]:
    """Passages a second of the embedder alone and of a sync, the best of some rounds each."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "files"
        folder.mkdir()
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]:
            shutil.copy(path, folder)
        texts = [
            text
            for path in sorted(folder.iterdir())
            for parsed in read(path)
            for text in prepare(parsed, embedder, Settings()).texts
        ]
        texts = list(dict.fromkeys(texts))
        embedder.encode_document(texts[:8])
        alone, synced = [], []
        for turn in range(rounds):
            alone.append(seconds(lambda: embedder.encode_document(texts)))
            with Pipeline.create(Path(place) / f"store-{turn}", embedder, None) as pipeline:
                synced.append(seconds(lambda store=pipeline: store.sync(folder)))  # type: ignore[misc]
            print(
                f"round {turn + 1}: {len(texts)} passages, alone {alone[-1]:.1f} s, sync {synced[-1]:.1f} s", flush=True
            )
    return {
        "files": files,
        "passages": len(texts),
        "embedder alone, passages/s": round(len(texts) / min(alone), 2),
        "sync, passages/s": round(len(texts) / min(synced), 2),
        "sync / embedder alone": round(min(alone) / min(synced), 3),
        "peak memory MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def unchanged(files: int, embedder: Embedder) -> dict[str, object]:
    """Seconds of a sync of files that are as they were."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "files"
        for number in range(files):
            path = folder / str(number % 100) / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("the same text")
            os.utime(path, (0, 0))
        # The file's name is its title, which stands before the text; without it there is one text to embed.
        with Pipeline.create(Path(place) / "store", embedder, None, titles=False) as pipeline:
            pipeline.sync(folder)
            taken = [seconds(lambda: pipeline.sync(folder)) for _ in range(3)]
            assert pipeline.sync(folder).files_unchanged == files
    return {"unchanged files": files, "sync of unchanged files, s": round(min(taken), 3)}


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--unchanged", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--embedder", default="demo")
    options = parser.parse_args()
    embedder = Embedder(options.embedder)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    figures = {"processor": processor, "cores": os.cpu_count(), "embedder": options.embedder}
    figures |= unchanged(options.unchanged, embedder) | streaming(options.files, options.rounds, embedder)
    print(json.dumps(figures, indent=1))
    OUT.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
