"""`make bench`: this package against its peers, in one run on one idle machine.

    python benchmarks/bench.py                      # everything; about 40 minutes on two cores without AMX
    python benchmarks/bench.py --parts rerank,callers  # some of it
    python benchmarks/bench.py --texts corpus.jsonl --tokenizer FOLDER

The model has the architecture of Qwen3-Reranker-0.6B and random weights: time depends on the shapes
only. Each system runs in a process of its own, is warmed up, and is timed on text, tokenizing included. Of each peer
several settings are tried on a tenth of the documents, and the fastest is then timed on all. Peers whose environment
is not there (`make peers`) are named and left out. Results: benchmarks/results/bench-<machine>.json and the plots.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OWN, PEERS, PEERS_CPU = Path(sys.executable), Path(".peers/bin/python"), Path(".peers-cpu/bin/python")
QUERY = "what similarity laws must be obeyed when constructing aeroelastic models of heated high speed aircraft ."
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# Parameters of the linear layers: what a token costs at least, twice that in operations.
LINEAR = 28 * (1024 * 128 * (16 + 8 + 8) + 16 * 128 * 1024 + 3 * 1024 * 3072)
PARTS = ("rerank", "embed", "callers", "overhead", "lengths", "candidates", "llama")
# System: script, interpreter, settings to choose from.
RERANKERS: dict[str, tuple[str, Path, list[list[str]]]] = {
    "native bf16": ("native_rerank", OWN, [["--dtype", "bfloat16"]]),
    "native int8": ("native_rerank", OWN, [["--dtype", "int8"]]),
    "sentence-transformers": (
        "sentence_transformers_rerank",
        OWN,
        [["--batch-size", "1"], ["--batch-size", "4"], ["--batch-size", "32"]],
    ),
    "official script": (
        "official_rerank",
        OWN,
        [["--batch-size", "1", "--last-logits"], ["--batch-size", "8", "--last-logits"], ["--batch-size", "8"]],
    ),
    "vLLM": (
        "vllm_rerank",
        PEERS,
        [
            ["--block-size", "32", "--batch-size", "64"],
            ["--block-size", "128", "--batch-size", "64"],
            ["--block-size", "32", "--batch-size", "8"],
        ],
    ),
    "OpenVINO bf16": (
        "openvino_rerank",
        PEERS_CPU,
        [["--batch-size", "1"], ["--batch-size", "2"], ["--batch-size", "4"]],
    ),
    "OpenVINO int8": (
        "openvino_rerank",
        PEERS_CPU,
        [["--batch-size", "1", "--weights", "int8", "--group-size", "32"]],
    ),
}
LLAMA = {
    "native bf16": RERANKERS["native bf16"],
    "llama.cpp q8_0": (
        "llama_cpp_rerank",
        PEERS_CPU,
        [["--batch-size", "1"], ["--batch-size", "4"], ["--batch-size", "1", "--no-flash"]],
    ),
}
EMBEDDERS: dict[str, tuple[str, Path, list[list[str]]]] = {
    "native bf16": ("native_embed", OWN, [["--dtype", "bfloat16"]]),
    "sentence-transformers": (
        "sentence_transformers_embed",
        OWN,
        [["--batch-size", "1"], ["--batch-size", "4"], ["--batch-size", "32"]],
    ),
}


def make_model(folder: Path, tokenizer: Path, layers: int = 28) -> None:
    """A checkpoint of the 0.6B architecture with random weights, or with fewer layers."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151_669,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())


def matmul_peak() -> dict[str, float]:
    """TFLOP/s of a bf16 product of the model's shape, plain and with a packed weight; the better is the peak."""
    import torch

    x, weight = (torch.randn(n, 1024, dtype=torch.bfloat16) for n in (2048, 3072))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2048)
    runs = {
        "2048x1024x3072": lambda: torch.nn.functional.linear(x, weight),
        "2048x1024x3072, packed": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""),
    }
    figures = {}
    for name, run in runs.items():
        seconds = []
        for _ in range(12):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        figures[name] = 2 * 2048 * 1024 * 3072 / min(seconds) / 1e12
    return figures


class Bench:
    """The model, the texts, and what has been measured so far."""

    def __init__(self, folder: Path, texts: list[str], out: Path) -> None:
        from qwen3_rag.models.checkpoints.tokens import Tokens

        self.only: list[str] = []
        self.first = False
        self.folder, self.model, self.texts, self.out = folder, folder / "model", texts, out
        self.tokens = Tokens(self.model)
        self.results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}

    def count(self, documents: Sequence[str]) -> int:
        """Tokens of the documents with their suffix: what no engine can do without."""
        return sum(len(ids) + 9 for ids in self.tokens.encode([f" {d}" for d in documents]))

    def of_length(self, tokens: int, count: int) -> list[str]:
        """Documents of about so many tokens, cut out of the texts laid end to end."""
        whole = "\n".join(self.texts)
        spans = self.tokens.spans(whole)
        starts = [(i * tokens) % (len(spans) - tokens) for i in range(count)]
        return [whole[spans[s][0] : spans[s + tokens - 1][1]] for s in starts]

    def run(self, system: tuple[str, Path, list[list[str]]], documents: Sequence[str], settings: list[str]) -> Any:
        """Seconds and scores of one system with one choice of settings, in a process of its own."""
        script, python, _ = system
        job = self.folder / "job.json"
        job.write_text(json.dumps({"query": QUERY, "documents": list(documents), "instruction": INSTRUCTION}))
        command = [str(python), str(HERE / "peers" / f"{script}.py"), str(self.model), str(job), *settings]
        warm_up = min(len(documents), 6)
        done = subprocess.run(
            [*command, "--warm-up", str(warm_up), "--threads", str(os.cpu_count())],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{script} {settings} failed:\n{done.stderr[-2000:]}")
        # A peer may log to the same stream.
        return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith('{"seconds"')))

    def best(self, name: str, systems: dict[str, Any], documents: Sequence[str]) -> tuple[list[str], dict[str, float]]:
        """The fastest of a system's settings on a tenth of the documents, and the seconds of all."""
        choices = systems[name][2]
        if len(choices) == 1 or self.first:
            return choices[0], {}
        part = documents[:: max(1, len(documents) // 10)]
        tried = {" ".join(choice): self.run(systems[name], part, choice)["seconds"] for choice in choices}
        return choices[min(range(len(choices)), key=lambda i: list(tried.values())[i])], tried

    def compare(self, systems: dict[str, Any], documents: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        """Every system at its best on the same documents, beside the native one."""
        tokens = self.count(documents)
        figures: dict[str, Any] = {"documents": len(documents), "candidate tokens": tokens, "systems": {}}
        for name in names:
            if not systems[name][1].exists():
                say(f"  {name}: left out, {systems[name][1]} is not there (make peers)")
                continue
            try:
                chosen, tried = self.best(name, systems, documents)
                result = self.run(systems[name], documents, chosen)
            except (RuntimeError, StopIteration, ValueError) as error:
                say(f"  {name}: left out: {error}")
                continue
            figures["systems"][name] = row = {
                "seconds": round(result["seconds"], 2),
                "documents per second": round(len(documents) / result["seconds"], 2),
                "share of peak": round(2 * LINEAR * tokens / result["seconds"] / 1e12 / self.peak, 3),
                "first call": round(result["cold_seconds"], 2),
                "settings": result["settings"],
                "settings tried (seconds)": {key: round(value, 2) for key, value in tried.items()},
            }
            own = figures["systems"].get("native bf16", row)["seconds"]
            row["times the native seconds"] = round(row["seconds"] / own, 2)
            say(f"  {name}: {row['seconds']} s, {row['times the native seconds']} x native, {row['share of peak']:.0%}")
        return figures

    @property
    def peak(self) -> float:
        """TFLOP/s."""
        return max(self.results["matmul peak (bf16 TFLOP/s)"].values())

    def keep(self, part: str, figures: Any) -> None:
        """Write a part's results at once: the next may take long."""
        self.results[part] = figures
        self.out.write_text(json.dumps(self.results, indent=1, ensure_ascii=False) + "\n")

    def part_rerank(self) -> dict[str, Any]:
        """100 abstracts for one query, every system; with --systems some, their rows put beside those there are."""
        before = self.results.get("rerank", {}).get("systems", {}) if self.only else {}
        figures = self.compare(RERANKERS, self.texts[:100], self.only or list(RERANKERS))
        figures["systems"] = before | figures["systems"]
        own = figures["systems"]["native bf16"]["seconds"]
        for row in figures["systems"].values():
            row["times the native seconds"] = round(row["seconds"] / own, 2)
        return figures

    def part_llama(self) -> dict[str, Any]:
        """llama.cpp's wheel, on fewer documents: it is slow, being built without AVX-512."""
        return self.compare(LLAMA, self.texts[:16], list(LLAMA))

    def part_embed(self) -> dict[str, Any]:
        """Documents into vectors."""
        return self.compare(EMBEDDERS, self.texts[:48], list(EMBEDDERS))

    def part_lengths(self) -> list[dict[str, Any]]:
        """Documents of one length, about 4,000 tokens in all; peers at the setting that won on the abstracts."""
        figures = []
        for length in (64, 512, 2048):
            say(f" {length} tokens each")
            documents = self.of_length(length, max(2, 4000 // length))
            figures.append({"tokens each": length} | self.compare(self.chosen(), documents, list(self.chosen())))
        return figures

    def part_candidates(self) -> list[dict[str, Any]]:
        """Numbers of candidates; the largest for the native engine alone."""
        figures = []
        for count in (10, 300):
            say(f" {count} candidates")
            names = list(self.chosen()) if count <= 100 else ["native bf16"]
            figures.append({"candidates": count} | self.compare(self.chosen(), self.texts[:count], names))
        return figures

    def chosen(self) -> dict[str, Any]:
        """The main peers, each with the settings that won in the part `rerank`."""
        systems = {}
        for name in ("native bf16", "sentence-transformers", "vLLM"):
            script, python, choices = RERANKERS[name]
            tried = self.results.get("rerank", {}).get("systems", {}).get(name, {}).get("settings tried (seconds)")
            systems[name] = (script, python, [min(tried, key=tried.get).split()] if tried else choices[:1])
        return systems

    def part_callers(self) -> dict[str, Any]:
        """32 queries of 4 short candidates: as one large batch, and by 1 to 32 callers at once."""
        from qwen3_rag import Reranker

        reranker = Reranker(str(self.model), dtype="bfloat16", runtime_options={"compile": True})
        documents = self.of_length(64, 128)
        jobs = [(f"{QUERY} {i}", documents[4 * i : 4 * i + 4]) for i in range(32)]
        pairs = [(query, document) for query, four in jobs for document in four]
        reranker.predict(pairs[:32])
        seconds = {"one large batch": _timed(lambda: reranker.predict(pairs))}
        for callers in (1, 4, 16, 32):
            with ThreadPoolExecutor(callers) as pool:
                seconds[f"{callers} callers"] = _timed(
                    lambda pool=pool: list(pool.map(lambda j: reranker.log_odds(*j), jobs))
                )
        large = seconds["one large batch"]
        figures = {name: {"seconds": round(s, 2), "of one batch": round(large / s, 3)} for name, s in seconds.items()}
        for name, row in figures.items():
            say(f"  {name}: {row['seconds']} s, {row['of one batch']:.2f} of the large batch's throughput")
        return figures

    def part_overhead(self) -> dict[str, Any]:
        """What `Pipeline.search` takes beside its two models."""
        from qwen3_rag import Document, Embedder, Pipeline, Reranker

        embedder, reranker = Embedder(str(self.model)), Reranker(str(self.model))
        spent: list[float] = []
        _watch(embedder.loaded, "embed_queries", spent)
        _watch(reranker.loaded, "read", spent)
        documents = [Document(text, id=str(i)) for i, text in enumerate(self.of_length(48, 60))]
        with Pipeline.create(self.folder / "store", embedder, reranker) as pipeline:
            pipeline.add(documents)
            pipeline.search("warm up", candidates=10)
            spent.clear()
            results = pipeline.search(QUERY, candidates=20)
        total = results.timings["total"]
        figures = {
            "total": round(total, 3),
            "models": round(sum(spent), 3),
            "share beside": round(1 - sum(spent) / total, 4),
        }
        say(f"  {figures}")
        return figures


def _watch(target: Any, name: str, spent: list[float]) -> None:
    real = getattr(target, name)

    def timed(*positional: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*positional, **options)
        finally:
            spent.append(time.perf_counter() - began)

    setattr(target, name, timed)


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def say(line: str) -> None:
    """Show progress at once."""
    print(line, flush=True)


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    packages = ("qwen3-rag", "torch", "transformers", "sentence-transformers")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "bf16": [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags],
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def main() -> None:
    """Run the selected parts, keeping each part's results as it ends."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--parts", default=",".join(PARTS))
    arguments.add_argument("--texts", type=Path, default=Path("../shared/collections/cranfield/corpus.jsonl"))
    arguments.add_argument("--tokenizer", type=Path, default=Path("../shared/qwen3-tokenizer"))
    arguments.add_argument("--systems", default="", help="of the part rerank, separated by commas")
    arguments.add_argument("--first-setting", action="store_true", help="no choosing among a peer's settings")
    arguments.add_argument("--name", help="of the results' file; by default the processor's")
    options = arguments.parse_args()
    for path in (options.texts, options.tokenizer / "tokenizer.json"):
        if not path.is_file():
            arguments.error(f"{path} is not there; pass --texts and --tokenizer (any Qwen3 model's folder)")
    texts = [json.loads(line)["text"] for line in options.texts.read_text("utf-8").splitlines()]
    here = machine()
    name = options.name or f"{here['cores']}-cores-{here['processor']}".replace(" ", "-").lower()
    RESULTS.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        make_model(Path(folder) / "model", options.tokenizer)
        bench = Bench(Path(folder), [text for text in texts if text.strip()], RESULTS / f"bench-{name}.json")
        bench.only = [system for system in options.systems.split(",") if system]
        bench.first = options.first_setting
        bench.keep("machine", here)
        bench.keep("matmul peak (bf16 TFLOP/s)", {k: round(v, 3) for k, v in matmul_peak().items()})
        say(f"{here['processor']}, {here['cores']} cores {here['bf16']}, peak {bench.peak:.3f} TFLOP/s")
        for part in options.parts.split(","):
            say(part)
            bench.keep(part, getattr(bench, f"part_{part}")())
    say(f"written: {bench.out}")


if __name__ == "__main__":
    main()
