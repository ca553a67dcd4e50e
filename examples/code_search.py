"""Find the function that a sentence describes. Offline: a module of Python's standard library, the demo models.

python examples/code_search.py
python examples/code_search.py my-package/ "read a file in chunks"
"""

import sys
import sysconfig
import tempfile
from pathlib import Path

from qwen3_rag import Pipeline


def main() -> None:
    """Index source code, split at functions and classes, and search it."""
    module = Path(sysconfig.get_paths()["stdlib"]) / "shlex.py"
    code = Path(sys.argv[1]) if len(sys.argv) > 1 else module
    question = sys.argv[2] if len(sys.argv) > 2 else "split a command line into words"
    with (
        tempfile.TemporaryDirectory() as folder,
        Pipeline.create(Path(folder) / "store", embedder="demo", reranker="demo-minilm") as pipeline,
    ):
        pipeline.index(code, include=["*.py"])
        # For code the sum of both stages is better than the demo's reranker alone. The Qwen3 rerankers take
        # instruction="code-search" in its place.
        for hit in pipeline.search(question, top_k=3, candidates=20, mode="hybrid", blend=0.5):
            first = next(line for line in hit.text.splitlines() if line.strip())
            print(f"{hit.rank}. {hit.cite()}\n   {first.strip()}")


if __name__ == "__main__":
    main()
