"""`qwen3-rag demo`: index and search a small collection with small models, offline."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qwen3_rag.index.database import FILE
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.presenting import show_results
from qwen3_rag.resources import data_folder

__all__ = ["BLEND", "QUESTIONS", "run_demo"]

# Heading, question, id of the passage that answers it, instruction for the reranker.
QUESTIONS: tuple[tuple[str, str, str, str | None], ...] = (
    ("A question in English", "lens surgery for cloudy vision in old age", "sci-cataract", None),
    (
        "An English question, answered in another language",
        "Why is manga hardly ever printed in colour?",
        "mul-ja-manga",
        None,
    ),
    ("A question about code", "only search after the user stops typing", "code-debounce", "code-search"),
)
# The demo reranker is small, briefly trained and reads only English, so the first stage gets most of the weight.
# This blend costs no nDCG@10 on data/demo (benchmarks/quality.py).
BLEND = 0.8
CANDIDATES = 20


def run_demo(store: Path, show_progress: bool = True) -> None:
    """Create the store if needed, index the demo collection and answer three questions.

    Args:
        store: The store's folder; a second run on the same folder embeds nothing.
        show_progress: Show a progress bar on a terminal, log lines elsewhere.
    """
    console = Console()
    started = time.monotonic()
    if (store / FILE).exists():
        pipeline = Pipeline.open(store)
    else:
        pipeline = Pipeline.create(store, Embedder("demo"), Reranker("demo", max_length=1024))
    with pipeline:
        report = pipeline.index(data_folder("demo") / "corpus.jsonl", show_progress=show_progress)
        console.print(
            f"[bold]data/demo[/bold]: {len(pipeline)} documents, {report.embedded} passages embedded now, "
            f"in {time.monotonic() - started:.1f} s"
        )
        started = time.monotonic()
        if isinstance(pipeline.embedder, Embedder) and isinstance(pipeline.reranker, Reranker):
            # Load now, so that the first question's times do not include loading.
            _ = pipeline.embedder.loaded, pipeline.reranker.loaded
        console.print(f"[dim]models loaded in {time.monotonic() - started:.1f} s[/dim]")
        for heading, question, _, instruction in QUESTIONS:
            console.print(f"\n[bold cyan]{heading}:[/bold cyan] {escape(question)}")
            show_results(
                pipeline.search(question, top_k=3, candidates=CANDIDATES, blend=BLEND, instruction=instruction), console
            )
        _show_models(pipeline, console)


def _show_models(pipeline: Pipeline, console: Console) -> None:
    info = pipeline.info()
    console.print()
    notes = {
        "embedder": "multilingual-e5-small, 384 dimensions, about 100 languages",
        "reranker": "SmolLM2-135M with a LoRA adapter trained for this demo; reads English and code only",
    }
    for stage, note in notes.items():
        runs_on = info[stage]["runs_on"]
        where = ", ".join(runs_on.values()) if isinstance(runs_on, dict) else runs_on
        console.print(f"[dim]{stage}: {note} ({where})[/dim]")
    console.print(f"[dim]index: {info['index']['type']}, on the {info['index']['device']}[/dim]")
    console.print(
        f"[dim]order: {BLEND:.0%} first stage, {1 - BLEND:.0%} reranker. For real use take the Qwen3 models: "
        'Pipeline.create(path, embedder="0.6b", reranker="0.6b")[/dim]'
    )
