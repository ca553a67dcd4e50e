"""`qwen3-rag serve` under load, beside vLLM's server and the same model in process, in one run.

    make peers
    python benchmarks/serving.py                 # about 12 minutes on two cores
    python benchmarks/serving.py --parts load --model 0.6b-layers --documents 4
    python benchmarks/serving.py --parts overhead

Load: 1 to 64 callers, each with its next request as soon as its last is answered. A request is a query with eight
passages by default. All three have the same checkpoint, number type and texts, tokenizing included; vLLM gets the
official template in the texts. The turns alternate. Overhead: the time of a request with one short document to a
server of a tiny model, less that of the same call in process. Results go to results/serving-<cores>-<processor>.json.
"""

import argparse
import json
import math
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from bench import make_model

from qwen3_rag import Reranker
from qwen3_rag.prompts import INSTRUCTIONS, RERANK_PREFIX, RERANK_SUFFIX, rerank_query

ROOT = Path(__file__).parent.parent
VLLM = ROOT / ".peers/bin/python"
CALLERS = (1, 4, 16, 64)
TURNS = 2
GROUPS = 12  # different lists of passages
KEY = "a-key-for-the-benchmark"
Ask = Callable[[str, Sequence[str]], list[float]]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="or 0.6b-layers: that architecture with random weights")
    parser.add_argument("--layers", type=int, default=7, help="of the model 0.6b-layers, which has 28")
    parser.add_argument("--tokenizer", type=Path, default=ROOT.parent / "shared/qwen3-tokenizer")
    parser.add_argument("--documents", type=int, default=8, help="passages of a request")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--parts", default="overhead,load")
    parser.add_argument("--callers", type=int, nargs="*", default=CALLERS)
    parser.add_argument("--out", type=Path, help="file of results")
    options = parser.parse_args()
    if options.out is None:
        name = re.sub(r"\(r\)| processor", "", f"serving-{os.cpu_count()}-cores-{processor()}".lower()).replace(
            " ", "-"
        )
        options.out = ROOT / "benchmarks/results" / f"{name}.json"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {processor()}"
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    results |= {"machine": machine, "date": time.strftime("%Y-%m-%d")}
    # In a thread, as in web servers: a program that computes in its main thread keeps that thread's helpers.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_measure, options, results).result()
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"saved {options.out}")


def _measure(options: argparse.Namespace, results: dict[str, Any]) -> None:
    if "overhead" in options.parts:
        results["overhead"] = overhead()
    if "load" in options.parts:
        with TemporaryDirectory() as name:
            model, label = options.model, options.model
            if model == "0.6b-layers":
                model, label = name, f"0.6B architecture, {options.layers} of 28 layers, random weights"
                make_model(Path(name), options.tokenizer, options.layers)
            rows = load(model, options.dtype, options.callers, options.documents)
        results["load"] = results.get("load", {}) | {label: rows}


def load(model: str, dtype: str, callers: Sequence[int], documents: int) -> dict[str, Any]:
    """Throughput and latency of the three for each number of callers."""
    texts = [json.loads(line)["text"] for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]
    reranker = Reranker(model, dtype=dtype, max_length=1024)
    folder = reranker.source.folder()
    reranker.warm_up()
    with ExitStack() as stack:
        systems: dict[str, Ask] = {
            "in process": lambda query, documents: reranker.score(query, documents).tolist(),
            "qwen3-rag serve": asking(stack.enter_context(own_server(str(folder), dtype)), _own),
        }
        if VLLM.exists():
            systems["vLLM"] = asking(stack.enter_context(vllm_server(folder, dtype)), _vllm)
        else:
            print("vLLM is not there (make peers), and left out")
        scores = {name: ask("What raises the tides?", texts[:documents]) for name, ask in systems.items()}
        differences = {
            name: max(abs(a - b) for a, b in zip(values, scores["in process"], strict=True))
            for name, values in scores.items()
        }
        print(f"largest difference of a score to in process: {differences}")
        rows: dict[str, Any] = {"dtype": dtype, "documents": documents, "differences": differences}
        rows["callers"] = {}
        for count in callers:
            measured: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in systems}
            for turn in range(TURNS):
                for name, ask in systems.items():
                    measured[name].append(_turn(ask, count, texts, documents, f"{count}, turn {turn}, "))
            rows["callers"][str(count)] = _row(count, measured)
    return rows


def _turn(ask: Ask, callers: int, texts: Sequence[str], documents: int, salt: str) -> tuple[float, list[float]]:
    """Pairs a second, and the seconds of each request."""
    # Every number of callers has the same passages in the same shares, and no query comes twice: a cache of prefixes
    # helps within a request only, as in use.
    requests = GROUPS * math.ceil(max(GROUPS, 2 * callers) / GROUPS)
    jobs = [
        (f"What is said about {texts[i % GROUPS][:50]}? {salt}{i}", _passages(texts, i % GROUPS, documents))
        for i in range(requests)
    ]

    def one(job: tuple[str, list[str]]) -> float:
        began = time.perf_counter()
        ask(*job)
        return time.perf_counter() - began

    with ThreadPoolExecutor(callers) as pool:
        began = time.perf_counter()
        seconds = list(pool.map(one, jobs))
        total = time.perf_counter() - began
    return requests * documents / total, seconds


def _passages(texts: Sequence[str], start: int, count: int) -> list[str]:
    return [texts[(start * 5 + i * 7) % len(texts)] for i in range(count)]


def _row(callers: int, measured: dict[str, list[tuple[float, list[float]]]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, turns in measured.items():
        seconds = sorted(value for _, values in turns for value in values)
        row[name] = {
            "pairs_per_second": round(statistics.mean(rate for rate, _ in turns), 2),
            "p50": round(statistics.median(seconds), 3),
            "p99": round(seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))], 3),
        }
    own = row["qwen3-rag serve"]["pairs_per_second"]
    for name in ("in process", "vLLM"):
        if name in row:
            row[f"serve / {name}"] = round(own / row[name]["pairs_per_second"], 3)
    print(f"{callers} callers: {json.dumps(row)}", flush=True)
    return row


def overhead(requests: int = 400) -> dict[str, Any]:
    """Milliseconds of a request beyond the model's work."""
    with TemporaryDirectory() as name:
        folder = _tiny(Path(name))
        reranker = Reranker(str(folder), dtype="float32")
        reranker.warm_up()  # as the server does
        with own_server(str(folder), "float32") as url:
            http = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"})
            body = {"query": "what raises the tides", "documents": ["The moon raises the tides."]}
            timed: dict[str, list[float]] = {"in process": [], "server": []}
            for _ in range(requests):
                began = time.perf_counter()
                reranker.score(body["query"], body["documents"])  # type: ignore[arg-type]
                between = time.perf_counter()
                http.post("/v1/rerank", json=body).raise_for_status()
                timed["in process"].append(between - began)
                timed["server"].append(time.perf_counter() - between)
            client = _empty_request(http, requests)
    medians = {name: statistics.median(values[requests // 10 :]) * 1000 for name, values in timed.items()}
    row = {
        "in_process_ms": round(medians["in process"], 3),
        "server_ms": round(medians["server"], 3),
        "overhead_ms": round(medians["server"] - medians["in process"], 3),
        "health_ms": round(client, 3),
    }
    print(f"overhead, median of {requests}, the client's own time included: {json.dumps(row)}")
    return row


def _empty_request(http: httpx2.Client, requests: int) -> float:
    seconds = []
    for _ in range(requests):
        began = time.perf_counter()
        http.get("/health").raise_for_status()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


def _tiny(folder: Path) -> Path:
    """A checkpoint whose work is small beside a request, with the demo's tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    source = Reranker("demo").source.folder()
    tokens = json.loads((source / "config.json").read_text())["vocab_size"]
    config = Qwen3Config(
        vocab_size=tokens, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=40_960, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


@contextmanager
def own_server(model: str, dtype: str) -> Iterator[str]:
    """`qwen3-rag serve` as a process; its address."""
    command = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "--quiet", "serve"]
    port = _free_port()
    command += ["--reranker", model, "--dtype", dtype, "--max-length", "1024", "--port", str(port)]
    with _process(command, port, "/ready", os.environ | {"QWEN3_RAG_SERVER_KEYS": KEY}) as url:
        yield url


@contextmanager
def vllm_server(folder: Path, dtype: str) -> Iterator[str]:
    """The address of a vLLM server, which runs as a process."""
    port = _free_port()
    overrides = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax", "num_labels": 1}
    command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--runner", "pooling"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--max-model-len", "1024"]
    command += ["--max-num-seqs", "64", "--max-num-batched-tokens", "2048", "--block-size", "32"]
    command += ["--api-key", KEY, "--convert", "classify", "--hf-overrides", json.dumps(overrides)]
    # By default it leaves a core to its scheduler, which on two cores is half of the machine.
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
    }
    with _process(command, port, "/health", environment) as url:
        yield url


@contextmanager
def _process(command: Sequence[str], port: int, ready: str, environment: dict[str, str]) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    with TemporaryDirectory() as name:
        log = Path(name) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        try:
            _wait(process, url + ready, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(1200):
        try:
            if httpx2.get(url, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"{url} does not answer:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def asking(url: str, scores: Callable[[httpx2.Client, str, Sequence[str]], list[float]]) -> Ask:
    """Requests to a server, over connections that stay open."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    http = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=600, limits=limits)
    return lambda query, documents: scores(http, query, documents)


def _own(http: httpx2.Client, query: str, documents: Sequence[str]) -> list[float]:
    response = http.post("/score", json={"text_1": query, "text_2": list(documents)}).raise_for_status()
    return [row["score"] for row in response.json()["data"]]


def _vllm(http: httpx2.Client, query: str, documents: Sequence[str]) -> list[float]:
    head = RERANK_PREFIX + rerank_query(INSTRUCTIONS["web-search"], query)
    tails = [f" {document}{RERANK_SUFFIX}" for document in documents]
    response = http.post("/score", json={"text_1": head, "text_2": tails}).raise_for_status()
    return [row["score"] for row in response.json()["data"]]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def processor() -> str:
    """The processor's name."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1].strip() if found else platform.processor()


if __name__ == "__main__":
    main()
