"""`search` and `get`: out of a store."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from qwen3_rag.cli.common import FAILED, Json, Store, TrustUrls, as_object, print_json, print_notice, readable

__all__ = ["get", "search"]


@readable
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
    deadline: Annotated[float | None, typer.Option(help="Seconds after which nothing further is reranked.")] = None,
    group: Annotated[bool, typer.Option("--group", help="One hit a document.")] = False,
    distinct: Annotated[bool, typer.Option("--distinct", help="Of passages with the same text only the best.")] = False,
    neighbours: Annotated[int, typer.Option(help="Passages before and after a hit to show with it.")] = 0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Ranks and scores of both stages, and the time of each.")
    ] = False,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Search a store.

    Example: qwen3-rag search my-store "who repairs leaking roofs?" --filter '{"lang": "en"}' --explain
    """
    from qwen3_rag import Pipeline
    from qwen3_rag.presenting import show_explained, show_results

    wanted = None if filter is None else as_object(filter, "--filter")
    with Pipeline.open(store, trust_urls=trust_urls) as pipeline:
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
            deadline=deadline,
            group_by_document=group,
            distinct=distinct,
            neighbours=neighbours,
        )
    if as_json:
        timings: dict[str, Any] = {"timings": results.timings} if explain else {}
        for hit in results:
            print_json(asdict(hit) | timings)
        if results.degraded:
            print_notice(results.degraded)
    elif explain:
        show_explained(results, mode)
    else:
        show_results(results)


@readable
def get(
    store: Store,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Print documents as they were indexed; exit code 1 if one is not there.

    Example: qwen3-rag get my-store report-2019 --json
    """
    from qwen3_rag import Pipeline

    with Pipeline.open(store) as pipeline:
        found = pipeline.get(ids)
    for name, document in zip(ids, found, strict=True):
        if document is None:
            print_notice(f"error: there is no document {name!r}")
        elif as_json:
            print_json(asdict(document))
        else:
            typer.echo(document.text)
    if None in found:
        raise typer.Exit(FAILED)
