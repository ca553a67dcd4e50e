"""`qwen3-rag demo`: index and search a small collection with small models, offline."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qwen3_rag.index.database import FILE
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.presenting import show_results
from qwen3_rag.records import Results
from qwen3_rag.resources import data_folder

__all__ = ["QUESTIONS", "Question", "run_demo"]

RERANKER = "demo-minilm"
CANDIDATES = 20


@dataclass(frozen=True)
class Question:
    """A question of the demo, and the id of the passage that answers it; without `rerank` only the first stage runs."""

    heading: str
    text: str
    answer: str
    rerank: bool = True


QUESTIONS = (
    Question(
        "A question that the first stage gets wrong",
        "Why are some people's eyes blue when no such dye exists in the lens or retina of the eye?",
        "sci-iris-eye",
    ),
    Question(
        "A question about code",
        "how to run a function only after the last keystroke",
        "code-debounce",
    ),
    Question(
        "An English question, answered in Japanese; this reranker reads English only, so the first stage decides",
        "Why is manga hardly ever printed in colour?",
        "mul-ja-manga",
        rerank=False,
    ),
)


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
        pipeline = Pipeline.create(store, Embedder("demo"), Reranker(RERANKER))
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
        for question in QUESTIONS:
            console.print(f"\n[bold cyan]{question.heading}:[/bold cyan]\n{escape(question.text)}")
            results = pipeline.search(question.text, top_k=3, candidates=CANDIDATES, rerank=question.rerank)
            show_results(results, console)
            _show_change(pipeline, question, results, console)
        _show_models(pipeline, console)


def _show_change(pipeline: Pipeline, question: Question, results: Results, console: Console) -> None:
    """Say what the second stage changed at the top."""
    if question.rerank and results and results[0].retrieval_rank != 1:
        (before,) = pipeline.search(question.text, top_k=1, rerank=False)
        console.print(
            f"[green]The first stage alone answers with “{escape(before.title or before.id)}”; reading question and "
            f"passage together lifts “{escape(results[0].title or results[0].id)}” from place "
            f"{results[0].retrieval_rank} to the top.[/green]"
        )


def _show_models(pipeline: Pipeline, console: Console) -> None:
    info = pipeline.info()
    console.print()
    notes = {
        "embedder": "multilingual-e5-small, 384 dimensions, about 100 languages",
        "reranker": "MiniLM cross-encoder trained on MS MARCO, English",
    }
    for stage, note in notes.items():
        runs_on = info[stage]["runs_on"]
        where = ", ".join(runs_on.values()) if isinstance(runs_on, dict) else runs_on
        console.print(f"[dim]{stage}: {note} ({where})[/dim]")
    console.print(f"[dim]index: {info['index']['type']}, on the {info['index']['device']}[/dim]")
    console.print(
        "[dim]The Qwen3 models read more than 100 languages and code, follow your instructions and take texts of 32K "
        'tokens: Pipeline.create(path, embedder="0.6b", reranker="0.6b")[/dim]'
    )
