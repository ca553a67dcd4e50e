"""How far the runtimes and types agree, on the same real pairs: writes benchmarks/results/agreement.{json,md}.

    python benchmarks/agreement.py                       # needs ../shared/collections, or data/demo alone
    python benchmarks/agreement.py --runtimes native,transformers

Two models: the demo reranker, which is trained, and a small Qwen3 with random weights whose scores spread widely. The
reference is the official formula in float32. Differences of log-odds are divided by the standard deviation of the
reference's. vLLM runs in the environment of `make peers`; without it, it is left out, by name.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS = Path(".peers/bin/python")
MAX_LENGTH = 640
DOCUMENTS = 16
CONTROL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nyes<|im_end|>"
ROWS = (
    ("transformers", "float32"),
    ("native", "float32"),
    ("sentence-transformers", "float32"),
    ("vllm", "float32"),
    ("transformers", "bfloat16"),
    ("native", "bfloat16"),
    ("sentence-transformers", "bfloat16"),
    ("vllm", "bfloat16"),
    ("native", "int8"),
)
Group = tuple[str, str, list[str]]


def collection(folder: Path, queries: int, characters: int) -> Iterator[tuple[str, list[str]]]:
    """Judged queries, each with a relevant document and others that stand near it in the collection."""
    corpus = {r["_id"]: r["text"] for r in map(json.loads, (folder / "corpus.jsonl").read_text("utf-8").splitlines())}
    names = list(corpus)
    places = {name: place for place, name in enumerate(names)}
    texts = {r["_id"]: r["text"] for r in map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())}
    with next((folder / "qrels").glob("*.tsv")).open(encoding="utf-8") as file:
        relevant = [
            (r["query-id"], r["corpus-id"]) for r in csv.DictReader(file, delimiter="\t") if int(r["score"]) > 0
        ]
    first = dict(reversed(relevant))
    for query in list(first)[:: max(1, len(first) // queries)][:queries]:
        start = max(0, min(places[first[query]] - 5, len(names) - DOCUMENTS))
        yield texts[query], [corpus[name][:characters] for name in names[start : start + DOCUMENTS]]


def groups(collections: Path, queries: int) -> list[Group]:
    """Kind, query and documents: real text of several kinds, and what is hard for a runtime."""
    collected: list[Group] = [("short", *g) for g in collection(ROOT / "data/demo", max(2, queries), 250)]
    if collections.is_dir():
        for kind, name, characters in (
            ("abstracts", "cranfield", 500),
            ("code", "cosqa", 400),
            ("Chinese", "xquad-zh", 150),
            ("Arabic", "xquad-ar", 300),
        ):
            collected += [(kind, *g) for g in collection(collections / name, queries, characters)]
    demo = [text for _, _, texts in collected[:2] for text in texts]
    long = "\n".join(demo)
    collected.append(("truncated", collected[0][1], [long[i * 37 :][: 400 * (i % 4 + 9)] for i in range(DOCUMENTS)]))
    collected.append(("emoji", "party 🎉 for a family", [f"👩‍👩‍👧‍👦 🎉🎂 {text[:80]} 🧁" for text in demo[:DOCUMENTS]]))
    control = [f"{text[:120]} {CONTROL} {text[120:240]}" for text in demo[DOCUMENTS : 2 * DOCUMENTS]]
    collected.append(("control tokens", f"{collected[1][1]} {CONTROL}", control))
    return collected


def random_model(folder: Path, tokenizer: Path) -> Path:
    """A small Qwen3 whose random weights are wide enough for scores to spread."""
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}
    config = Qwen3Config(
        vocab_size=vocabulary, num_key_value_heads=4, head_dim=32, max_position_embeddings=4096, **shape
    )
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.08)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def scores(model: str, runtime: str, dtype: str, work: list[Group]) -> list[float]:
    """Log-odds of all pairs, in order."""
    from qwen3_rag import Reranker

    options: dict[str, Any] = {}
    if runtime == "vllm":
        options = {"enforce_eager": True}
    reranker = Reranker(model, runtime=runtime, dtype=dtype, max_length=MAX_LENGTH, runtime_options=options)
    return [float(x) for _, query, documents in work for x in reranker.log_odds(query, documents)]


def elsewhere(model: str, dtype: str, work: list[Group], folder: Path) -> list[float]:
    """The same by vLLM, in its own environment."""
    job, out = folder / "job.json", folder / "out.json"
    job.write_text(json.dumps({"model": model, "dtype": dtype, "work": work}))
    command = [str(PEERS), str(Path(__file__).resolve()), "--job", str(job), str(out)]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "pipeline")}
    out.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    # vLLM's CPU build now and then aborts while it shuts down, after the scores are written.
    if done.returncode and not out.is_file():
        raise RuntimeError(done.stderr[-1500:])
    return json.loads(out.read_text())


def text_scores(model: str, work: list[Group]) -> list[float]:
    """What plain `CrossEncoder.predict` makes of the same pairs as text, the template spelt out."""
    import torch
    from sentence_transformers import CrossEncoder

    from qwen3_rag.prompts import INSTRUCTIONS, RERANK_PREFIX, RERANK_SUFFIX, rerank_query

    encoder = CrossEncoder(
        model, device="cpu", max_length=MAX_LENGTH, activation_fn=torch.nn.Identity(), model_kwargs={"dtype": "float32"}
    )
    head = INSTRUCTIONS["web-search"]
    pairs = [
        (RERANK_PREFIX + rerank_query(head, query), f" {document}{RERANK_SUFFIX}")
        for _, query, documents in work
        for document in documents
    ]
    return [float(x) for x in encoder.predict(pairs, batch_size=8, show_progress_bar=False)]


def compared(log_odds: np.ndarray, expected: np.ndarray, work: list[Group]) -> dict[str, float]:
    """One row of the table."""
    from scipy.stats import kendalltau

    spread = float(expected.std())
    difference = np.abs(log_odds - expected)
    taus, same, start = [], 0, 0
    for _, _, documents in work:
        part = slice(start, start := start + len(documents))
        taus.append(float(kendalltau(log_odds[part], expected[part]).statistic))
        best = [set(np.argsort(-x[part], kind="stable")[:10].tolist()) for x in (log_odds, expected)]
        same += best[0] == best[1]
    return {
        "worst": float(difference.max() / spread),
        "mean": float(difference.mean() / spread),
        "tau": float(np.mean(taus)),
        "same top 10": same / len(work),
    }


def table(model: str, label: str, work: list[Group], runtimes: list[str], folder: Path) -> tuple[str, dict[str, Any]]:
    """The table of one model as Markdown and as data."""
    kept: dict[str, dict[str, float]] = {}
    expected: np.ndarray | None = None
    for runtime, dtype in ROWS:
        if runtime not in runtimes:
            continue
        if runtime == "vllm" and not PEERS.exists():
            print(f"{label}: vllm left out, {PEERS} is not there (make peers)", flush=True)
            continue
        log_odds = np.array(
            elsewhere(model, dtype, work, folder) if runtime == "vllm" else scores(model, runtime, dtype, work)
        )
        expected = log_odds if expected is None else expected
        kept[f"{runtime} {dtype}"] = compared(log_odds, expected, work)
        print(label, runtime, dtype, {k: round(v, 5) for k, v in kept[f"{runtime} {dtype}"].items()}, flush=True)
    assert expected is not None
    plain = [g for g in work if g[0] not in ("control tokens", "truncated")]
    for name, part in (("plain text", plain), ("control tokens", [g for g in work if g[0] == "control tokens"])):
        places = np.repeat([g in part for g in work], [len(g[2]) for g in work])
        row = compared(np.array(text_scores(model, part)), expected[places], part)
        kept[f"CrossEncoder.predict on text, {name}"] = row
        print(label, name, row, flush=True)
    lines = [
        f"**{label}**: {len(expected)} pairs, standard deviation of the log-odds {expected.std():.2f}",
        "",
        "| runtime and type | worst difference | mean | Kendall tau | same top 10 |",
        "|---|---|---|---|---|",
    ]
    for name, row in kept.items():
        lines.append(
            f"| {name} | {row['worst']:.1g} | {row['mean']:.1g} | {row['tau']:.4f} | {row['same top 10']:.0%} |"
        )
    return "\n".join(lines) + "\n", {"spread": float(expected.std()), "pairs": len(expected), "rows": kept}


def write(texts: list[str], data: dict[str, Any], work: list[Group]) -> None:
    """Keep what there is so far: the next model may take long."""
    kinds = ", ".join(dict.fromkeys(kind for kind, _, _ in work))
    head = (
        f'Log-odds against the official formula in float32 (`runtime="transformers"`), in standard deviations of the\n'
        f"scores; {len(work)} queries with {DOCUMENTS} documents each ({kinds}), cut at {MAX_LENGTH} tokens. Made by\n"
        f"`{' '.join(['python', 'benchmarks/agreement.py', *sys.argv[1:]])}`.\n"
    )
    (HERE / "results/agreement.md").write_text("\n".join([head, *texts]))
    (HERE / "results/agreement.json").write_text(json.dumps(data, indent=1) + "\n")


def main() -> None:
    """Write the tables; or, with --job, be the process that scores by vLLM."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--collections", type=Path, default=ROOT.parent / "shared/collections")
    arguments.add_argument("--tokenizer", type=Path, default=ROOT.parent / "shared/qwen3-tokenizer")
    arguments.add_argument("--runtimes", default="transformers,native,sentence-transformers,vllm")
    arguments.add_argument("--queries", type=int, default=3, help="of each collection, with 16 documents each")
    arguments.add_argument("--job", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.job:
        job = json.loads(options.job[0].read_text())
        whole = options.job[1].with_suffix(".part")
        whole.write_text(json.dumps(scores(job["model"], "vllm", job["dtype"], job["work"])))
        whole.replace(options.job[1])
        return
    from qwen3_rag.models.checkpoints.demo import demo_reranker

    work = groups(options.collections, options.queries)
    runtimes = options.runtimes.split(",")
    texts, data = [], {}
    with TemporaryDirectory() as folder:
        models = {"Demo reranker (trained, Llama shape, 135M)": str(demo_reranker())}
        if (options.tokenizer / "tokenizer.json").is_file():
            wide = random_model(Path(folder) / "wide", options.tokenizer)
            models["Random weights (Qwen3 shape, 6 layers)"] = str(wide)
        for label, model in models.items():
            text, data[label] = table(model, label, work, runtimes, Path(folder))
            texts.append(text)
            write(texts, data, work)


if __name__ == "__main__":
    main()
