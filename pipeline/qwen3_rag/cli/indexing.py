"""Commands that fill a store: index and sync."""

import runpy
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import WITHHELD, Json, State, TrustUrls, print_json, readable
from qwen3_rag.errors import IngestError, InvalidArgumentError

if TYPE_CHECKING:
    from qwen3_rag import Pipeline
    from qwen3_rag.records import IndexReport

__all__ = ["index", "sync"]

Paths = Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)]
Where = Annotated[
    Path, typer.Option("--store", help="The store's folder; created if it does not exist.", show_default=False)
]
Embedder = Annotated[str | None, typer.Option(help="For a new store: preset, folder or hub id. [default: 0.6b]")]
Second = Annotated[str | None, typer.Option(help="For a new store: preset, folder, hub id, or 'none'. [default: 0.6b]")]
Include = Annotated[list[str] | None, typer.Option(help="Only files that match this glob; may be repeated.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Skip files and folders that match this glob.")]
Hidden = Annotated[bool, typer.Option("--hidden", help="Include files whose name begins with a dot.")]
Ignored = Annotated[bool, typer.Option("--ignored", help="Include files that a .gitignore excludes.")]
Links = Annotated[bool, typer.Option("--follow-links", help="Follow symbolic links.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a file that cannot be read instead of skipping it.")]
Reread = Annotated[bool, typer.Option("--reread", help="Read unchanged files again, for example with a new --reader.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try files again whose content could not be read.")]
Reader = Annotated[list[Path] | None, typer.Option(help="A Python file that registers your own readers.")]


@readable
def index(
    paths: Paths,
    store: Where,
    embedder: Embedder = None,
    reranker: Second = None,
    include: Include = None,
    exclude: Exclude = None,
    hidden: Hidden = False,
    ignored: Ignored = False,
    follow_links: Links = False,
    strict: Strict = False,
    reread: Reread = False,
    retry: Retry = False,
    reader: Reader = None,
    trust_urls: TrustUrls = False,
    as_json: Json = False,
) -> None:
    """Read files and folders into a store.

    Example: qwen3-rag index docs/ --store my-store --embedder demo --reranker demo
    """
    selection = _selection(include, exclude, hidden, ignored, follow_links, strict, reread, retry)
    with _opened(paths, store, embedder, reranker, reader, trust_urls) as pipeline:
        _say(pipeline.index(paths, show_progress=not State.quiet, **selection), as_json)


@readable
def sync(
    paths: Paths,
    store: Where,
    embedder: Embedder = None,
    reranker: Second = None,
    include: Include = None,
    exclude: Exclude = None,
    hidden: Hidden = False,
    ignored: Ignored = False,
    follow_links: Links = False,
    strict: Strict = False,
    reread: Reread = False,
    retry: Retry = False,
    reader: Reader = None,
    trust_urls: TrustUrls = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove documents even if most files of a folder are gone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep running; synchronise at every change.")] = False,
    as_json: Json = False,
) -> None:
    """Make a store match files and folders: read new and changed files, remove deleted ones.

    If more than half of a folder's files are gone, it asks before it removes their documents; where nobody can answer,
    it removes nothing and exits with 3, unless --force.

    Example: qwen3-rag sync docs/ --store my-store --exclude "drafts/" --watch
    """
    if dry_run and watch:
        raise InvalidArgumentError("--dry-run and --watch exclude each other; expected one of them")
    selection = _selection(include, exclude, hidden, ignored, follow_links, strict, reread, retry) | {"force": force}
    with _opened(paths, store, embedder, reranker, reader, trust_urls) as pipeline:
        if watch:
            signal.signal(signal.SIGTERM, _end)
            for report in pipeline.watch(paths, show_progress=not State.quiet, **selection):
                _say(report, as_json)
            return
        report = pipeline.sync(paths, show_progress=not State.quiet, dry_run=dry_run, **selection)
        _say(report, as_json, dry_run)
        if report.withheld and not dry_run:
            if not _agreed(report.withheld):
                raise typer.Exit(WITHHELD)
            _say(pipeline.sync(paths, show_progress=not State.quiet, **selection | {"force": True}), as_json)


def _end(*_: object) -> None:
    """End as after an interrupt: what is committed is kept, and the store is closed."""
    raise SystemExit(0)


def _agreed(files: int) -> bool:
    """Whether a user at a terminal wants the documents of so many files removed."""
    return sys.stdin.isatty() and typer.confirm(f"{files} files are gone. Remove their documents?", err=True)


def _selection(
    include: list[str] | None,
    exclude: list[str] | None,
    hidden: bool,
    ignored: bool,
    follow_links: bool,
    strict: bool,
    reread: bool,
    retry: bool,
) -> dict[str, Any]:
    return {
        "include": include or [],
        "exclude": exclude or [],
        "hidden": hidden,
        "ignored": ignored,
        "follow_links": follow_links,
        "strict": strict,
        "reread": reread,
        "retry": retry,
    }


def _opened(
    paths: list[Path],
    store: Path,
    embedder: str | None,
    reranker: str | None,
    readers: list[Path] | None,
    trust_urls: bool,
) -> "Pipeline":
    """The open store, created if it does not exist, unless a path to index is missing."""
    from qwen3_rag import Pipeline
    from qwen3_rag.index.database import FILE
    from qwen3_rag.ingest.folders import Folders

    store = as_path(store, "--store")
    for path in readers or []:
        try:
            runpy.run_path(str(as_path(path, "--reader")))
        except (OSError, SyntaxError) as error:
            raise IngestError(f"--reader {path}: {error}") from error
    Folders.roots_of(paths)
    if (store / FILE).exists():
        if reranker is not None:
            raise InvalidArgumentError(f"--reranker {reranker} passed, but {store} exists and remembers its own")
        return Pipeline.open(store, embedder=embedder, trust_urls=trust_urls)
    return Pipeline.create(store, embedder or "0.6b", reranker or "0.6b")


def _kinds(report: "IndexReport") -> str:
    """Suffixes of unsupported files, the most frequent first."""
    by_count = sorted(report.ignored.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in by_count)


def _say(report: "IndexReport", as_json: bool, dry_run: bool = False) -> None:
    if as_json:
        print_json(asdict(report))
        return
    for action, path in report.actions:
        typer.echo(f"{action:8} {path}")
    if dry_run:
        typer.echo(
            f"{report.files} files to read, {report.files_unchanged} unchanged; nothing was done"
            + (f"; {len(report.skipped)} cannot be read" if report.skipped else "")
        )
        return
    more = {
        "removed": report.removed,
        "moved": report.moved,
        f"files of other kinds ({_kinds(report)})": sum(report.ignored.values()),
        "files gone whose documents stay": report.withheld,
        "files or folders skipped": len(report.skipped),
    }
    typer.echo(
        f"{report.documents} documents written in {report.passages} passages ({report.embedded} embedded), "
        f"{report.unchanged} unchanged; {report.files} files read, {report.files_unchanged} unchanged"
        + "".join(f", {count} {name}" for name, count in more.items() if count)
    )
    if State.quiet:  # else they were logged as they came
        for path, reason in report.skipped:
            typer.echo(f"skipped {path}: {reason}", err=True)
