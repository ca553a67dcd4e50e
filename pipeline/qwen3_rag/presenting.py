"""Print results, store information and checks on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from qwen3_rag.models.verification import PUBLISHED_TOLERANCE, Check
from qwen3_rag.records import HEADINGS, Results

__all__ = ["excerpt", "show_check", "show_explained", "show_results", "show_tree"]

EXCERPT = 220  # characters of a passage in a table
LINES = 6  # lines of a passage in a table


def excerpt(text: str, length: int = EXCERPT, lines: int = 1) -> str:
    """The start of a text on one line; with `lines` above 1, a longer text such as code keeps its line breaks."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    shown = "\n".join(kept[:lines]) if 1 < lines < len(kept) else " ".join(text.split())
    shown = shown if len(shown) <= length else shown[: length - 1].rstrip()
    return shown if len("".join(shown.split())) == len("".join(text.split())) else shown + "…"


def show_results(results: Results, console: Console | None = None) -> None:
    """Print a table of hits, and a line with the time of each stage."""
    console = console or Console()
    if not results:
        console.print("no hits")
    else:
        table = Table(show_edge=False, pad_edge=False)
        calibrated = any(hit.probability is not None for hit in results)
        table.add_column("#", justify="right")
        table.add_column("score", justify="right")
        if calibrated:
            table.add_column("prob.", justify="right")
        table.add_column("1st", justify="right")
        table.add_column("passage", overflow="fold")
        for hit in results:
            score = ["–" if hit.score is None else f"{hit.score:.3f}"]
            if calibrated:
                score.append("–" if hit.probability is None else f"{hit.probability:.2f}")
            heading = f"  {escape(HEADINGS.join(hit.headings))}" if hit.headings else ""
            page = f"  [dim]page {hit.page}[/dim]" if hit.page else ""
            above = f"\n[dim]{escape(hit.context[0])}[/dim]" if hit.context else ""
            head = f"[bold]{escape(hit.title or hit.id)}[/bold]{heading}{page}  [dim]{escape(hit.id)}[/dim]"
            table.add_row(
                str(hit.rank),
                *score,
                str(hit.retrieval_rank),
                f"{head}{above}\n{escape(excerpt(hit.text, lines=LINES))}",
            )
        console.print(table)
    _show_times(results, console)


def _show_times(results: Results, console: Console) -> None:
    stages = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in results.timings.items())
    reread = f"; {results.reread} candidates reranked" if results.reread else ""
    console.print(f"[dim]{stages}{reread}[/dim]")
    if results.answered is False:
        console.print("[yellow]no hit is probable enough to be an answer[/yellow]")
    for notice in filter(None, (results.degraded, results.uncalibrated)):
        console.print(f"[yellow]{escape(notice)}[/yellow]")
    if results.truncated:
        console.print(f"[yellow]{results.truncated} candidates were cut to the reranker's max_length[/yellow]")


def show_explained(results: Results, console: Console | None = None) -> None:
    """Print the rank and score in both stages and the location of each hit, and the time of each stage."""
    console = console or Console()
    lines = results.explain().split("\n")
    for hit, place, stages in zip(results, lines[::2], lines[1::2], strict=False):
        console.print(f"[bold]{escape(place)}[/bold]\n{escape(stages)}\n   {escape(excerpt(hit.text))}")
    _show_times(results, console)


def show_tree(values: Mapping[str, Any], console: Console | None = None) -> None:
    """Print nested values, one per line."""
    tree = Tree(escape(str(values.get("path", ""))))
    _grow(tree, {key: value for key, value in values.items() if key != "path"})
    (console or Console()).print(tree)


def _grow(tree: Tree, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            _grow(tree.add(key), value)
        elif value not in (None, {}):
            tree.add(f"{key}: {escape(str(value))}")


def show_check(model: str, check: Check, console: Console | None = None) -> None:
    """Print both runtimes' log-odds for each test pair, and whether they agree."""
    console = console or Console()
    table = Table(show_edge=False, pad_edge=False)
    for name in ("query", "document"):
        table.add_column(name, max_width=36, no_wrap=True)
    for name in ("native", "reference", "difference"):
        table.add_column(name, justify="right")
    for pair in check.comparisons:
        figures = (f"{pair.native:.4f}", f"{pair.reference:.4f}", f"{abs(pair.native - pair.reference):.1e}")
        table.add_row(escape(excerpt(pair.query, 36)), escape(excerpt(pair.document, 36)), *figures)
    console.print(table)
    for published, measured in check.published:
        console.print(f"published {published}, here {measured:.3f} (tolerance {PUBLISHED_TOLERANCE})")
    verdict = "[green]agrees[/green]" if check.agrees else "[red]DISAGREES[/red]"
    console.print(f"{escape(model)} {verdict}: worst difference {check.worst:.1e}, tolerance {check.tolerance:.1e}")
