"""Commands that read a store: search, get and list."""

import re
import sys
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import typer

from qwen3_rag.arguments import at_least
from qwen3_rag.cli.common import (
    FAILED,
    Json,
    Store,
    TrustUrls,
    as_candidates,
    as_object,
    print_json,
    print_notice,
    readable,
)

__all__ = ["get", "list_documents", "search"]


@readable
def search(
    store: Store,
    query: Annotated[str, typer.Argument(help="The query, in any language.", show_default=False)],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Hits to show.")] = 10,
    candidates: Annotated[
        str | None, typer.Option(help="Passages to rerank, or 'auto': no more than it pays. [default: 100]")
    ] = None,
    filter: Annotated[str | None, typer.Option(help='Metadata filter as JSON: {"lang": "en"}')] = None,
    instruction: Annotated[str | None, typer.Option(help="A preset's name or a sentence.")] = None,
    mode: Annotated[str, typer.Option(help="dense, lexical or hybrid.")] = "dense",
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Second stage.")] = True,
    blend: Annotated[float, typer.Option(help="Weight of the first stage in the order, 0 to 1.")] = 0.0,
    min_score: Annotated[float | None, typer.Option(help="Minimum score of reranked hits.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(help="Minimum probability of hits, by the store's calibration.")
    ] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which reranking stops.")] = None,
    group: Annotated[bool, typer.Option("--group", help="One hit per document.")] = False,
    distinct: Annotated[bool, typer.Option("--distinct", help="Of equal passages, only the best.")] = False,
    neighbours: Annotated[int, typer.Option(help="Passages to show before and after each hit.")] = 0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show ranks and scores of both stages, and the time of each.")
    ] = False,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Search a store.

    Example: qwen3-rag search my-store "who repairs leaking roofs?" --filter '{"lang": "en"}' --explain
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.presenting import show_explained, show_results

    condition, depth = None if filter is None else as_object(filter, "--filter"), as_candidates(candidates)
    with Pipeline.open(store, trust_urls=trust_urls) as pipeline:
        results = pipeline.search(
            query,
            top_k=top_k,
            candidates=depth,
            filter=condition,
            instruction=instruction,
            mode=mode,  # type: ignore[arg-type]  # checked by search, with an error that lists the modes
            rerank=rerank,
            blend=blend,
            min_score=min_score,
            min_probability=min_probability,
            deadline=deadline,
            group_by_document=group,
            distinct=distinct,
            neighbours=neighbours,
        )
    if as_json:
        timings: dict[str, Any] = {"timings": results.timings} if explain else {}
        for hit in results:
            print_json(asdict(hit) | timings)
        for notice in (results.degraded, results.uncalibrated):
            if notice:
                print_notice(notice)
    elif explain:
        show_explained(results)
    else:
        show_results(results)


@readable
def get(
    store: Store,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of documents; ID:12:5 is five lines from line 12.", show_default=False)
    ],
    page: Annotated[int | None, typer.Option(help="Only this page, from 1.")] = None,
    as_json: Json = False,
) -> None:
    """Print documents as they were indexed, or some of their lines; exit code 1 if one does not exist.

    Example: qwen3-rag get my-store docs/report.md:120:20
    """
    from qwen3_rag import Pipeline

    missing = False
    with Pipeline.open(store) as pipeline:
        for name in ids:
            document_id, lines = _range(name) if pipeline.get([name]) == [None] else (name, None)
            (document,) = pipeline.get([document_id])
            part = pipeline.read_part(document_id, lines=lines, page=page)
            if document is None or part is None:
                missing = True
                print_notice(f"error: there is no document {name!r}")
            elif as_json:
                print_json(asdict(document) | {"text": part})
            else:
                typer.echo(part)
    if missing:
        raise typer.Exit(FAILED)


def _range(name: str) -> tuple[str, tuple[int, int] | None]:
    """An id and the lines that follow it: `ID:from:count`, or `ID:from` for the rest."""
    match = re.fullmatch(r"(.+?):(\d{1,9})(?::(\d{1,9}))?", name, re.DOTALL)
    if match is None:
        return name, None
    return match[1], (int(match[2]), int(match[3] or sys.maxsize))


@readable
def list_documents(
    store: Store,
    prefix: Annotated[str, typer.Argument(help="Only documents whose id starts with this.")] = "",
    limit: Annotated[int | None, typer.Option(help="Documents to show. [default: all]")] = None,
    as_json: Json = False,
) -> None:
    """List the documents of a store in order of their ids.

    Example: qwen3-rag list my-store docs/ --limit 20
    """
    from qwen3_rag import Pipeline

    with Pipeline.open(store) as pipeline:
        for entry in islice(pipeline.documents(prefix), limit and at_least(limit, 1, "--limit")):
            if as_json:
                print_json(asdict(entry))
            else:
                title = f"  {entry.title}" if entry.title else ""
                typer.echo(f"{entry.id}{title}  ({entry.passages} passage{'s' if entry.passages != 1 else ''})")
