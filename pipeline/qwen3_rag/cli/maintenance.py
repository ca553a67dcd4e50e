"""Commands that maintain a store and its models."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import FAILED, Json, State, Store, TrustUrls, print_json, print_notice, readable
from qwen3_rag.errors import InvalidArgumentError

__all__ = [
    "backup", "delete", "demo", "describe", "info", "optimize", "recut", "reembed", "status", "verify",
    "verify_model_command",
]  # fmt: skip


@readable
def info(store: Store, as_json: Json = False) -> None:
    """Show the contents of a store, its models and its indexes.

    Example: qwen3-rag info my-store --json
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.presenting import show_tree

    with Pipeline.open(store) as pipeline:
        details = pipeline.info()
    if as_json:
        print_json(details)
    else:
        show_tree(details)


@readable
def status(store: Store, as_json: Json = False) -> None:
    """Show how far a store agrees with its files: what could not be read, and why.

    Example: qwen3-rag status my-store
    """
    from qwen3_rag import Pipeline

    with Pipeline.open(store) as pipeline:
        details = pipeline.status()
    if as_json:
        print_json(details)
        return
    typer.echo(f"{details['documents']} documents in {details['passages']} passages, from {details['files']} files")
    for path, reason in details["unreadable"].items():
        typer.echo(f"unreadable {path}: {reason}")
    for path in details["unfinished"]:
        typer.echo(f"unfinished {path}: the next run reads it")


@readable
def describe(
    store: Store,
    path: Annotated[str | None, typer.Argument(help="A file or folder, or the beginning of ids.")] = None,
    text: Annotated[str | None, typer.Argument(help="What is there, in one line.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the description of PATH.")] = False,
    as_json: Json = False,
) -> None:
    """Describe a path in one line, which comes with hits from there; without PATH, show all descriptions.

    Example: qwen3-rag describe my-store docs/board "minutes of the board, since 2019"
    """
    from qwen3_rag import Pipeline

    if (path is None) != (text is None) and not (remove and path is not None):
        raise InvalidArgumentError(f"PATH is {path!r} and TEXT is {text!r}; expected both, or PATH with --remove")
    with Pipeline.open(store) as pipeline:
        if path is not None:
            # Files are known by their full path; what is no file here may be the beginning of ids.
            known = str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path
            pipeline.describe(known, None if remove else text)
            return
        descriptions = pipeline.descriptions()
    for name, line in sorted(descriptions.items()):
        print_json({"path": name, "text": line}) if as_json else typer.echo(f"{name}  {line}")


@readable
def recut(
    store: Store,
    chunk_tokens: Annotated[int | None, typer.Option(help="Most tokens of a passage. [default: as before]")] = None,
    chunk_overlap: Annotated[int | None, typer.Option(help="Tokens repeated. [default: as before]")] = None,
    tables: Annotated[str | None, typer.Option(help="rows, text or drop. [default: as before]")] = None,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Cut the documents of a store into other passages, in place; an interrupted run goes on.

    Example: qwen3-rag recut my-store --chunk-tokens 200 --chunk-overlap 0
    """
    from qwen3_rag import Pipeline

    given = {"chunk_tokens": chunk_tokens, "chunk_overlap": chunk_overlap, "tables": tables}
    changed = {name: value for name, value in given.items() if value is not None}
    with Pipeline.open(store, trust_urls=trust_urls) as pipeline:
        report = pipeline.recut(show_progress=not State.quiet, **changed)
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(
        f"{report.documents} documents in {report.passages} other passages ({report.embedded} embedded), "
        f"{report.unchanged} unchanged"
    )


@readable
def delete(
    store: Store,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of documents; - reads them from stdin, one per line.", show_default=False)
    ],
) -> None:
    """Delete documents; unknown ids are ignored.

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
    index: Annotated[str, typer.Option(help="auto, flat (exact) or ivf (approximate); remembered.")] = "auto",
    recall: Annotated[float, typer.Option(help="Minimum recall@100 of an approximate index; remembered.")] = 0.99,
    queries: Annotated[
        Path | None, typer.Option(help="A file of questions, one per line, to measure recall on.", show_default=False)
    ] = None,
    trust_urls: TrustUrls = False,
) -> None:
    """Reclaim the space of deleted documents and rebuild the search indexes.

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
        details = pipeline.info()
    index_details = details["index"]
    reached = (
        f", recall@100 {index_details['recall@100']} on {index_details['measured_on']}"
        if "recall@100" in index_details
        else ""
    )
    typer.echo(f"{details['passages']} passages, {details['bytes']} bytes; {index_details['type']}{reached}")


@readable
def backup(
    store: Store, to: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)]
) -> None:
    """Copy a store, also while it is in use.

    Example: qwen3-rag backup my-store /backups/my-store-monday
    """
    from qwen3_rag import Pipeline

    with Pipeline.open(store) as pipeline:
        pipeline.backup(to)
    print_notice(f"{store} was copied to {to}")


@readable
def reembed(
    store: Store,
    to: Annotated[Path, typer.Argument(help="A new folder, or that of an interrupted run.", show_default=False)],
    embedder: Annotated[str | None, typer.Option(help="Preset, folder or hub id. [default: the store's]")] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens of a passage. [default: the store's]")] = None,
    chunk_overlap: Annotated[int | None, typer.Option(help="Tokens repeated. [default: the store's]")] = None,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Make a new store from a store's texts, with another embedder or cut differently; the old one is not changed.

    Example: qwen3-rag reembed my-store my-store-4b --embedder 4b
    """
    from qwen3_rag import Pipeline

    settings = {"chunk_tokens": chunk_tokens, "chunk_overlap": chunk_overlap}
    passed: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    with Pipeline.open(store, trust_urls=trust_urls) as pipeline:
        report = pipeline.reembed(to, embedder, show_progress=not State.quiet, **passed)
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(
            f"{report.documents} documents written in {report.passages} passages ({report.embedded} embedded), "
            f"{report.unchanged} were there already"
        )


@readable
def verify(store: Store) -> None:
    """Read the whole store and compare every checksum; exit code 1 if anything is damaged.

    Example: qwen3-rag verify my-store
    """
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
    """Score fixed pairs natively and by the official formula, and say whether they agree.

    Example: qwen3-rag verify-model Qwen/Qwen3-Reranker-0.6B
    """
    from qwen3_rag import Reranker
    from qwen3_rag.models.verification import verify_model
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
    """Index the demo collection with the demo models and answer three questions. Works offline.

    Example: qwen3-rag demo --store demo-store
    """
    from tempfile import TemporaryDirectory

    from qwen3_rag.demo import run_demo

    where: AbstractContextManager[Any] = TemporaryDirectory() if store is None else nullcontext(store)
    with where as folder:
        run_demo(Path(folder) / "store" if store is None else as_path(store, "--store"), not State.quiet)
