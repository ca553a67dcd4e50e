"""The command line: `qwen3-rag index | search | info | delete | optimize | verify | verify-model | demo`."""

import json
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.errors import InvalidArgumentError, Qwen3RagError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Two-stage retrieval with the Qwen3 models: index files, search them, rerank what is found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
FAILED, MISUSED = 1, 2  # exit codes; 0 is success

Store = Annotated[Path, typer.Argument(help="The store's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class _State:
    debug = False
    quiet = False


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and log lines of everything.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No log lines and no progress.")] = False,
) -> None:
    _State.debug, _State.quiet = debug, quiet
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("qwen3_rag").setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.INFO)


def _readable(command: Callable[..., None]) -> Callable[..., None]:
    """Errors raised on purpose become one line and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (Qwen3RagError, OSError) as error:
            if _State.debug:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(MISUSED if isinstance(error, InvalidArgumentError) else FAILED) from None

    return run


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{option} is {text!r}, which is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f'{option} is {text!r}; expected an object, as {{"lang": "en"}}')
    return value


@app.command()
@_readable
def index(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders: .jsonl, .txt, .md.", show_default=False)],
    store: Annotated[Path, typer.Option(help="The store's folder; made if it is not there.", show_default=False)],
    embedder: Annotated[
        str | None, typer.Option(help="For a new store: preset, folder or hub id. [default: 0.6b]")
    ] = None,
    reranker: Annotated[str | None, typer.Option(help="For a new store: the same, or 'none'. [default: 0.6b]")] = None,
) -> None:
    """Read files and folders into a store.

    Example: qwen3-rag index docs/ --store my-store --embedder demo --reranker demo
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.index.database import FILE
    from qwen3_rag.ingest.readers import source_files

    source_files(paths)  # before a store is made for paths that are not there
    if (store / FILE).exists():
        if reranker is not None:
            raise InvalidArgumentError(f"--reranker {reranker} given, but {store} exists and remembers its own")
        pipeline = Pipeline.open(store, embedder=embedder)
    else:
        second = reranker or "0.6b"
        pipeline = Pipeline.create(store, embedder or "0.6b", None if second == "none" else second)
    with pipeline:
        report = pipeline.index(paths, show_progress=not _State.quiet)
    typer.echo(
        f"{report.documents} documents written in {report.passages} passages ({report.embedded} embedded), "
        f"{report.unchanged} unchanged"
    )


@app.command()
@_readable
def search(
    store: Store,
    query: Annotated[str, typer.Argument(help="What to look for, in any language.", show_default=False)],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Hits to show.")] = 10,
    candidates: Annotated[int | None, typer.Option(help="Passages to rerank. [default: 100]")] = None,
    filter: Annotated[str | None, typer.Option(help='Metadata filter as JSON: {"lang": "en"}')] = None,
    instruction: Annotated[str | None, typer.Option(help="A preset's name or a sentence.")] = None,
    mode: Annotated[str, typer.Option(help="dense, lexical or hybrid.")] = "dense",
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Second stage.")] = True,
    blend: Annotated[float, typer.Option(help="Weight of the first stage in the order, 0 to 1.")] = 0.0,
    min_score: Annotated[float | None, typer.Option(help="Least probability of reranked hits.")] = None,
    as_json: Json = False,
) -> None:
    """Search a store.

    Example: qwen3-rag search my-store "who repairs leaking roofs?" --filter '{"lang": "en"}'
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.presenting import show_results

    wanted = None if filter is None else _object(filter, "--filter")
    with Pipeline.open(store) as pipeline:
        results = pipeline.search(
            query,
            top_k=top_k,
            candidates=candidates,
            filter=wanted,
            instruction=instruction,
            mode=mode,  # type: ignore[arg-type]  # checked by search, with an error that lists the modes
            rerank=rerank,
            blend=blend,
            min_score=min_score,
        )
    if as_json:
        for hit in results:
            typer.echo(json.dumps(asdict(hit), ensure_ascii=False))
        if results.degraded:
            typer.echo(results.degraded, err=True)
    else:
        show_results(results)


@app.command()
@_readable
def info(store: Store, as_json: Json = False) -> None:
    """Show what a store holds and what runs it."""
    from qwen3_rag import Pipeline
    from qwen3_rag.presenting import show_tree

    with Pipeline.open(store) as pipeline:
        found = pipeline.info()
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        show_tree(found)


@app.command()
@_readable
def delete(
    store: Store,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.", show_default=False)],
) -> None:
    """Delete documents; ids that are not there are passed over.

    Example: qwen3-rag delete my-store report-2019 report-2020
    """
    from qwen3_rag import Pipeline

    with Pipeline.open(store) as pipeline:
        typer.echo(f"{pipeline.delete(ids)} of {len(set(ids))} documents deleted")


@app.command()
@_readable
def optimize(
    store: Store,
    index: Annotated[str, typer.Option(help="auto, flat (exact) or ivf (approximate); kept.")] = "auto",
    recall: Annotated[float, typer.Option(help="Least recall@100 of an approximate index; kept.")] = 0.99,
    queries: Annotated[
        Path | None, typer.Option(help="A file of questions, one a line, to measure that on.", show_default=False)
    ] = None,
) -> None:
    """Give back the space of what was deleted, and make the indexes for search anew.

    Example: qwen3-rag optimize my-store --index ivf --recall 0.98
    """
    from qwen3_rag import Pipeline

    lines = None
    if queries is not None:
        lines = [line.strip() for line in queries.read_text("utf-8").splitlines() if line.strip()]
        if not lines:
            raise InvalidArgumentError(f"--queries {queries} holds no questions; expected one a line")
    with Pipeline.open(store) as pipeline:
        pipeline.optimize(index, recall=recall, queries=lines)
        found = pipeline.info()
    made = found["index"]
    reached = f", recall@100 {made['recall@100']} on {made['measured_on']}" if "recall@100" in made else ""
    typer.echo(f"{found['passages']} passages, {found['bytes']} bytes; {made['type']}{reached}")


@app.command()
@_readable
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


@app.command("verify-model")
@_readable
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


@app.command()
@_readable
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
        run_demo(Path(folder) / "store" if store is None else Path(folder), not _State.quiet)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except Exception as error:  # the last resort, so that a user sees a line rather than a traceback
        if _State.debug:
            raise
        typer.echo(f"error: {type(error).__name__}: {error} (run with --debug for the traceback)", err=True)
        sys.exit(FAILED)
