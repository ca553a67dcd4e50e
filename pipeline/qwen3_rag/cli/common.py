"""Shared by the commands: options, one-line errors and output."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.errors import InvalidArgumentError, Qwen3RagError

__all__ = [
    "FAILED",
    "MISUSED",
    "WITHHELD",
    "Json",
    "State",
    "Store",
    "TrustUrls",
    "as_candidates",
    "as_object",
    "print_json",
    "readable",
]

FAILED, MISUSED, WITHHELD = 1, 2, 3  # exit codes; 0 is success, 3 a sync that removed nothing because most was gone

Store = Annotated[Path, typer.Argument(help="The store's folder.", show_default=False)]
TrustUrls = Annotated[
    bool, typer.Option("--trust-urls", help="Use model servers that only the store names; texts are sent to them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class State:
    """Global options, given before the command."""

    debug = False
    quiet = False


def readable(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command to print expected errors as one line and exit with a status code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            raise  # the reader closed the pipe
        except (Qwen3RagError, OSError) as error:
            if State.debug:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(MISUSED if isinstance(error, InvalidArgumentError) else FAILED) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; committed work is kept and the next run continues from it", err=True)
            raise typer.Exit(130) from None

    return run


def as_object(text: str, option: str) -> dict[str, Any]:
    """Parse a JSON object passed as an option.

    Raises:
        InvalidArgumentError: The text is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{option} is {text!r}, which is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f'{option} is {text!r}; expected an object such as {{"lang": "en"}}')
    return value


def as_candidates(text: str | None) -> Any:
    """The option --candidates: a whole number, or "auto".

    Raises:
        InvalidArgumentError: Anything else.
    """
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise InvalidArgumentError(f"--candidates is {text!r}; expected a whole number or 'auto'") from None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_notice(text: str) -> None:
    """Print a message to stderr, so that it does not mix with piped output."""
    typer.echo(text, err=True)
