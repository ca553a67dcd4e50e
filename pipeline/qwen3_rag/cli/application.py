"""The application: options before the command, settings from files, and the entry point."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from qwen3_rag.cli import evaluation, indexing, maintenance, searching, serving, training
from qwen3_rag.cli.common import FAILED, State
from qwen3_rag.cli.configuration import ENVIRONMENT, read_settings, show_settings

__all__ = ["app", "main"]

app = typer.Typer(
    help="Two-stage retrieval with the Qwen3 models: index files, search them, rerank the candidates.",
    epilog="Settings come from flags, then from the environment (QWEN3_RAG_SEARCH_TOP_K=5), then from qwen3-rag.toml "
    "here or in a folder above, or config.toml in the user's configuration folder; `qwen3-rag config` shows which came "
    "from where.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": ENVIRONMENT, "help_option_names": ["-h", "--help"]},
)
for command in (
    indexing.index, indexing.sync, searching.search, searching.get, maintenance.info, maintenance.status,
    maintenance.describe, maintenance.delete,
    maintenance.optimize, maintenance.verify, maintenance.backup, maintenance.recut, maintenance.reembed,
    maintenance.demo,
):  # fmt: skip
    app.command()(command)
app.command()(serving.mcp)
app.command()(serving.serve)
app.command("list")(searching.list_documents)
app.command("eval")(evaluation.evaluate_command)
app.command("calibrate")(evaluation.calibrate_command)
app.command("train")(training.train_command)
app.command("merge-adapter")(training.merge_command)
app.command("verify-model")(maintenance.verify_model_command)
app.command("config")(show_settings)


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and log lines of everything.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No log lines and no progress.")] = False,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings, in place of the usual ones.")] = None,
) -> None:
    State.debug, State.quiet = debug, quiet
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("qwen3_rag").setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.INFO)
    read_settings(context, config)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except BrokenPipeError:
        # What is left to be written has no reader; Python would complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:  # the last resort, so that a user sees a line rather than a traceback
        if State.debug:
            raise
        typer.echo(f"error: {type(error).__name__}: {error} (run with --debug for the traceback)", err=True)
        sys.exit(FAILED)
