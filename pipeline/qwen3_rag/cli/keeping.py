"""Commands that look after a store and its models: info, delete, optimize, verify, verify-model, demo."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import FAILED, Json, State, Store, TrustUrls, print_json, readable
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["delete", "demo", "info", "optimize", "verify", "verify_model_command"]


@readable
def info(store: Store, as_json: Json = False) -> None:
    """Show what a store holds and what runs it.

    Example: qwen3-rag info my-store --json
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.presenting import show_tree

    with Pipeline.open(store) as pipeline:
        found = pipeline.info()
    if as_json:
        print_json(found)
    else:
        show_tree(found)


@readable
def delete(
    store: Store,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of documents; - reads them from a pipe, one a line.", show_default=False)
    ],
) -> None:
    """Delete documents; ids that are not there are passed over.

    Example: qwen3-rag delete my-store report-2019 report-2020
    """
    from qwen3_rag import Pipeline

    if ids == ["-"]:
        ids = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]

    with Pipeline.open(store) as pipeline:
        typer.echo(f"{pipeline.delete(ids)} of {len(set(ids))} documents deleted")


@readable
def optimize(
    store: Store,
    index: Annotated[str, typer.Option(help="auto, flat (exact) or ivf (approximate); kept.")] = "auto",
    recall: Annotated[float, typer.Option(help="Least recall@100 of an approximate index; kept.")] = 0.99,
    queries: Annotated[
        Path | None, typer.Option(help="A file of questions, one a line, to measure that on.", show_default=False)
    ] = None,
    trust_urls: TrustUrls = False,
) -> None:
    """Give back the space of what was deleted, and make the indexes for search anew.

    Example: qwen3-rag optimize my-store --index ivf --recall 0.98
    """
    from qwen3_rag import Pipeline

    lines = None
    if queries is not None:
        text = as_path(queries, "--queries").read_text("utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise InvalidArgumentError(f"--queries {queries} holds no questions; expected one a line")
    with Pipeline.open(store, trust_urls=trust_urls) as pipeline:
        pipeline.optimize(index, recall=recall, queries=lines)
        found = pipeline.info()
    made = found["index"]
    reached = f", recall@100 {made['recall@100']} on {made['measured_on']}" if "recall@100" in made else ""
    typer.echo(f"{found['passages']} passages, {found['bytes']} bytes; {made['type']}{reached}")


@readable
def verify(store: Store) -> None:
    """Read the whole store back and compare every checksum; exit code 1 if anything is damaged."""
    from qwen3_rag import Pipeline

    with Pipeline.open(store) as pipeline:
        faults = pipeline.verify()
        documents = len(pipeline)
    for fault in faults:
        typer.echo(fault)
    typer.echo(f"{documents} documents: {'everything is as it was written' if not faults else f'{len(faults)} faults'}")
    if faults:
        raise typer.Exit(FAILED)


@readable
def verify_model_command(
    model: Annotated[str, typer.Argument(help="Reranker: preset, folder or hub id.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="float32 shows exact agreement.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Score fixed pairs natively and by the official formula, and say whether they agree."""
    from qwen3_rag import Reranker
    from qwen3_rag.models.checking import verify_model
    from qwen3_rag.presenting import show_check

    check = verify_model(Reranker(model, dtype=dtype, device=device))
    show_check(model, check)
    if not check.agrees:
        raise typer.Exit(FAILED)


@readable
def demo(
    store: Annotated[
        Path | None, typer.Option(help="Keep the demo's store here. [default: a temporary folder]")
    ] = None,
) -> None:
    """Index the demo collection with the demo models and answer three questions. Works offline."""
    from tempfile import TemporaryDirectory

    from qwen3_rag.demo import run_demo

    where: AbstractContextManager[Any] = TemporaryDirectory() if store is None else nullcontext(store)
    with where as folder:
        run_demo(Path(folder) / "store" if store is None else as_path(store, "--store"), not State.quiet)
