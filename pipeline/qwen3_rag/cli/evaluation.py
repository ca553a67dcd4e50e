"""The commands eval and calibrate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.cli.common import Json, State, Store, TrustUrls, print_json, print_notice, readable
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["calibrate_command", "evaluate_command"]


@readable
def evaluate_command(
    out: Annotated[Path, typer.Option(help="Folder of the report.", show_default=False)],
    data: Annotated[
        Path | None, typer.Argument(help="Folder in BEIR layout, or a file of judgements.", show_default=False)
    ] = None,
    mteb: Annotated[
        list[str] | None,
        typer.Option(help="In place of DATA: a task of mteb, or MTEB-R, CMTEB-R, MMTEB-R, MLDR, MTEB-Code, FollowIR."),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Search this store. [default: one of the data's corpus]")] = None,
    embedder: Annotated[str | None, typer.Option(help="For a new store: preset, folder or hub id.")] = None,
    reranker: Annotated[
        str | None, typer.Option(help="Preset, folder, hub id, or 'none'. [default: the store's]")
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="File of queries. [default: the data's queries.jsonl]")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A TREC run to measure too; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many judged queries.")] = None,
    candidates: Annotated[int, typer.Option(help="Passages that the reranker scores.")] = 100,
    mode: Annotated[str, typer.Option(help="First stage of the reranked run: dense, lexical or hybrid.")] = "dense",
    instruction: Annotated[str | None, typer.Option(help="For both models: a name or a sentence.")] = None,
    blend: Annotated[float, typer.Option(help="Weight of the first stage in the reranked order.")] = 0.0,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Try values: candidates=20,50,100; blend, mode, instruction likewise.")
    ] = None,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Measure a pipeline on judged queries; writes report.html, report.json and TREC runs.

    Example: qwen3-rag eval data/demo --out report --embedder demo --reranker demo-minilm --candidates 20
    """
    from qwen3_rag.evaluation import evaluate

    if (data is None) == (mteb is None):
        raise InvalidArgumentError(f"DATA is {data} and --mteb is {mteb}; expected one of them")
    if data is None:
        _mteb(mteb or [], out, embedder, reranker, candidates, as_json)
        return
    report = evaluate(
        data,
        out,
        store=store,
        embedder=embedder,
        reranker=reranker,
        queries=queries,
        runs=run or [],
        limit=limit,
        candidates=candidates,
        mode=mode,
        instruction=instruction,
        blend=blend,
        sweep=_sweep(sweep or []),
        trust_urls=trust_urls,
        show_progress=not State.quiet,
    )
    if as_json:
        print_json(report)
        return
    _show(report)
    print_notice(f"written: {out / 'report.html'}, {out / 'report.json'}, {out / 'runs'}")


def _mteb(
    names: list[str], out: Path, embedder: str | None, reranker: str | None, candidates: int, as_json: bool
) -> None:
    from qwen3_rag.evaluation.mteb_groups import evaluate_mteb

    models: dict[str, Any] = {
        "embedder": embedder or "0.6b",
        "reranker": None if reranker == "none" else reranker or "0.6b",
    }
    report = evaluate_mteb(names, out, **models, candidates=candidates, show_progress=not State.quiet)
    if as_json:
        print_json(report)
        return
    for name, score in report["tasks"].items():
        typer.echo(f"{name:40} {score:6.2f}")
    for name, row in report["groups"].items():
        published = "" if row["published"] is None else f"  published {row['published']:.2f}"
        typer.echo(f"{name:40} {row['score']:6.2f}{published}{'  DIFFERS' if row['differs'] else ''}")


def _sweep(texts: list[str]) -> dict[str, list[str]]:
    sweep = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise InvalidArgumentError(f"--sweep is {text!r}; expected a name and values, such as candidates=20,50,100")
        sweep[name] = values.split(",")
    return sweep


def _show(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    measures = list(next(iter(report["runs"].values())))
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(f"{report['queries']} queries")
    for measure in measures:
        table.add_column(measure, justify="right")
    rows = dict(report["runs"]) | ({"ceiling": report["ceiling"]} if "ceiling" in report else {})
    for name, values in rows.items():
        table.add_row(name, *(f"{values[measure]:.4f}" for measure in measures))
    console.print(table)
    for each in report["comparisons"][:1]:
        p = "" if each["p"] is None else f", p = {each['p']:.2g}"
        console.print(
            f"{each['second']} against {each['first']}: {each['difference']:+.4f} {each['measure']}{p}; "
            f"{each['wins']} wins, {each['losses']} losses, {each['ties']} ties"
        )
    for note in report["notes"]:
        print_notice(f"note: {note}")


@readable
def calibrate_command(
    store: Store,
    queries: Annotated[Path, typer.Argument(help="File of queries.", show_default=False)],
    judgements: Annotated[Path, typer.Argument(help="File of judgements (qrels).", show_default=False)],
    precision: Annotated[float, typer.Option(help="Share of relevant passages that thresholds aim at.")] = 0.8,
    candidates: Annotated[int, typer.Option(help="Passages of each query that are scored.")] = 100,
    mode: Annotated[str, typer.Option(help="Their first stage: dense, lexical or hybrid.")] = "dense",
    instruction: Annotated[str | None, typer.Option(help="As in search: a name or a sentence.")] = None,
    reranker: Annotated[str | None, typer.Option(help="Preset, folder or hub id. [default: the store's]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for calibration.json and reliability.svg.")] = None,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Calibrate a store's reranker on judged queries, so that hits carry a probability of relevance.

    Example: qwen3-rag calibrate my-store judged/queries.jsonl judged/qrels/test.tsv --precision 0.8
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.evaluation import calibrate

    with Pipeline.open(store, reranker=reranker, trust_urls=trust_urls) as pipeline:
        report = calibrate(
            pipeline,
            queries,
            judgements,
            precision=precision,
            candidates=candidates,
            mode=mode,  # type: ignore[arg-type]  # checked by SearchOptions
            instruction=instruction,
            out=out,
            show_progress=not State.quiet,
        )
    if as_json:
        print_json(report)
        return
    _show_calibration(report)


def _show_calibration(report: Mapping[str, Any]) -> None:
    typer.echo(f"{report['reranker']}: {report['pairs']} pairs of {report['queries']} queries")
    for stage in report["stages"]:
        if stage:
            typer.echo(f"{stage['curve']} curve, Brier score {stage['brier'][stage['curve']]:.4f}")
    for name, error in report["calibration error"].items():
        typer.echo(f"expected calibration error, {name}: {error['before']:.3f} before, {error['after']:.3f} after")
    precision = f"{report['precision']:.0%}"
    if report["min_probability"] is None:
        typer.echo(f"no probability above which {precision} of the passages are relevant")
    else:
        typer.echo(f"{precision} of the passages are relevant from min_probability={report['min_probability']:.3f} on")
    if report["answer_probability"] is None:
        typer.echo(f"no probability of the first hit above which it is relevant for {precision} of the queries")
    else:
        typer.echo(
            f"answered from a first hit of {report['answer_probability']:.3f} on: {report['answered']:.0%} of the "
            f"queries, {precision} of them rightly"
        )
    for row in report["thresholds"]:
        if row["min_probability"] is not None:
            typer.echo(
                f"  precision {row['precision']:.0%}: min_probability {row['min_probability']:.3f} keeps "
                f"{row['relevant kept']:.0%} of the relevant passages"
            )
    for note in report["notes"]:
        print_notice(f"note: {note}")
