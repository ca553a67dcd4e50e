"""The commands train and merge-adapter."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.arguments import one_of
from qwen3_rag.cli.common import FAILED, Json, State, print_json, readable
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["merge_command", "train_command"]

KINDS = ["reranker", "embedder"]


@readable
def train_command(
    kind: Annotated[str, typer.Argument(help="What to train: reranker or embedder.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(help="A file of lists, or with --store a folder in BEIR layout.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the result; an interrupted run continues.", show_default=False)],
    model: Annotated[str, typer.Option(help="The base: preset, folder or hub id.")] = "0.6b",
    store: Annotated[Path | None, typer.Option(help="Store of DATA's documents, to find hard negatives in.")] = None,
    negatives: Annotated[int, typer.Option(help="Negatives a query, with --store.")] = 7,
    margin: Annotated[
        float | None, typer.Option(help="Leave out negatives that score less than this below a relevant passage.")
    ] = None,
    loss: Annotated[str, typer.Option(help="listwise, pointwise or distillation.")] = "listwise",
    teacher: Annotated[str | None, typer.Option(help="Reranker whose scores are learned, for distillation.")] = None,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter; 0 trains all weights.")] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over the training lists.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 2e-4,
    batch_lists: Annotated[int | None, typer.Option(help="Lists a step. [default: 4; embedder: 16]")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Most tokens of an input. [default: 2048; embedder: 512]")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="A preset's name or a sentence.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of queries for validation, and as many for the test.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of split, order and first values.")] = 17,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    as_json: Json = False,
) -> None:
    """Fine-tune a reranker or embedder; exit code 1 if it did not improve on queries held out from everything.

    Example: qwen3-rag train reranker judged --store my-store --out tuned --model 0.6b
    """
    from qwen3_rag.models.cascade import named_reranker
    from qwen3_rag.training import EmbedderSettings, TrainingSettings, train_embedder, train_reranker

    one_of(kind, KINDS, "KIND")
    shared: dict[str, Any] = {
        "lora_rank": lora_rank,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "instruction": instruction,
        "held_out": held_out,
        "seed": seed,
    }
    given = {"batch_lists": batch_lists, "max_length": max_length}
    shared |= {name: value for name, value in given.items() if value is not None}
    lists = data if store is None else _mined(data, store, negatives, margin)
    common: dict[str, Any] = {"model": model, "device": device, "show_progress": not State.quiet}
    if kind == "embedder":
        report = train_embedder(lists, out, settings=EmbedderSettings(**shared), **common)
    else:
        judge = None if teacher is None else named_reranker(teacher)
        report = train_reranker(lists, out, teacher=judge, settings=TrainingSettings(loss=loss, **shared), **common)
    if as_json:
        print_json(report)
    else:
        _show(report, out)
    if not report["improved"]:
        raise typer.Exit(FAILED)


def _mined(data: Path, store: Path, negatives: int, margin: float | None) -> Any:
    from qwen3_rag import Pipeline
    from qwen3_rag.evaluation.judged import read_folder
    from qwen3_rag.training import mine_lists

    if not data.is_dir():
        raise InvalidArgumentError(f"DATA is {data}; expected a folder in BEIR layout with --store")
    judged = read_folder(data)
    with Pipeline.open(store, reranker="none") as pipeline:
        return mine_lists(pipeline, judged, negatives=negatives, margin=margin, show_progress=not State.quiet)


def _show(report: dict[str, Any], out: Path) -> None:
    change, queries = report["change"], report["queries"]
    interval = change["interval"]
    certainty = "" if interval is None else f", 95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}"
    typer.echo(
        f"nDCG@10 of {queries['test']} test queries: {report['before']['nDCG@10']:.4f} before, "
        f"{report['after']['nDCG@10']:.4f} after ({change['difference']:+.4f}{certainty})"
    )
    for note in report["notes"]:
        typer.echo(f"note: {note}")
    better = f"use it with --{report['kind']} {out / 'merged'}"
    typer.echo(better if report["improved"] else "NOT BETTER than the base: use the base")


@readable
def merge_command(
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.", show_default=False)],
    base: Annotated[str, typer.Option(help="Its base: preset, folder or hub id.")] = "0.6b",
) -> None:
    """Add a LoRA adapter to its base, as a checkpoint that every runtime loads.

    Example: qwen3-rag merge-adapter my-adapter --base 0.6b --out merged
    """
    from qwen3_rag.models.checkpoints.sources import resolve
    from qwen3_rag.training.models import merge_adapter

    merge_adapter(adapter, resolve("reranker", base, None, "huggingface").folder(), out)
    typer.echo(f"written: {out}")
