"""Run in the environment of `make peers`: score and embed with `runtime="vllm"`, and write the results as JSON.

python vllm_in_process.py JOB.json      {"causal", "classifier", "merged", "embedder": folders; "pairs", "out"}
"""

import json
import sys
import threading
from pathlib import Path

from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError

MAX_LENGTH = 400  # tokens; the longest pair is truncated


def options(**more: object) -> dict[str, object]:
    return {"enforce_eager": True, "max_model_len": 512, "block_size": 32, "max_num_seqs": 64, **more}


def refused(model: str, results: dict[str, object], **wrong: object) -> str:
    try:
        Reranker(model, runtime="vllm", max_length=MAX_LENGTH, runtime_options=options(**wrong)).log_odds("q", ["d"])
    except InvalidArgumentError as error:
        return str(error)
    return f"nothing: {results}"


def main(job: dict[str, object]) -> dict[str, object]:
    pairs = [(query, document) for query, document in job["pairs"]]
    results: dict[str, object] = {}
    results["unknown option"] = refused(job["causal"], results, tensor_paralel_size=2)
    results["own option"] = refused(job["causal"], results, trust_remote_code=True)
    for kind in ("causal", "classifier", "merged"):
        reranker = Reranker(
            job[kind], runtime="vllm", dtype="float32", max_length=MAX_LENGTH, runtime_options=options()
        )
        scored = list(reranker.loaded.score("web search", [(query, [document]) for query, document in pairs]))
        by_index = {i: value for part in scored for i, value in zip(part.indices, part.log_odds.tolist(), strict=True)}
        results[kind] = [by_index[i] for i in sorted(by_index)]
        results[f"{kind} more"] = [sum(part.truncated for part in scored), len(by_index), reranker.runs_on]
        cancel = threading.Event()
        cancel.set()
        stopped = reranker.read("q", ["a", "b"], cancel=cancel)
        results[f"{kind} cancelled"] = [stopped.stopped, int(stopped.read.sum())]
        reranker.unload()
    embedder = Embedder(
        job["embedder"],
        runtime="vllm",
        dtype="float32",
        dimensions=48,
        runtime_options=options(),
        max_length=MAX_LENGTH,
    )
    results["documents"] = embedder.encode_document([document for _, document in pairs]).tolist()
    results["queries"] = embedder.encode_query([query for query, _ in pairs]).tolist()
    results["spans"] = embedder.spans("a text 中文").tolist()
    return results


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(job["out"]).write_text(json.dumps(main(job)), "utf-8")
