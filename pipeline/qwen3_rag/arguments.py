"""Argument checks for public functions; each error shows the value and what was expected."""

import reprlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from qwen3_rag.errors import InvalidArgumentError, UnknownNameError

__all__ = [
    "API_KEY",
    "ATTENTION",
    "DTYPES",
    "NOTHING",
    "as_path",
    "at_least",
    "check_cancel",
    "check_ids",
    "check_instructions",
    "check_query",
    "check_seconds",
    "check_url",
    "one_of",
    "one_or_many",
    "shown",
    "text_list",
]

API_KEY = "QWEN3_RAG_API_KEY"  # environment variable with the server's key
NOTHING: Mapping[str, Any] = MappingProxyType({})


def shown(value: object) -> str:
    """The repr of a value for an error message, shortened if the full repr fails."""
    try:
        return repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an int of too many digits
        pass
    try:
        return reprlib.repr(value)
    except ValueError:
        return f"<{type(value).__name__}>"


def as_path(value: str | Path, name: str) -> Path:
    """A path with a leading `~` expanded; `~name` of an unknown user is kept literally, as in a shell."""
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise InvalidArgumentError(f"{name} is {shown(value)}; expected a path (str or Path)")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value).absolute()  # absolute, so that `~` is not expanded again


def check_cancel(cancel: threading.Event | None) -> threading.Event | None:
    """The event that cancels a search from another thread, or None."""
    if cancel is not None and not isinstance(cancel, threading.Event):
        raise InvalidArgumentError(f"cancel is {shown(cancel)}; expected a threading.Event")
    return cancel


def text_list(value: Sequence[str], name: str) -> list[str]:
    """A list of texts; a single string is an error, not a list of characters."""
    if isinstance(value, str | bytes):
        raise InvalidArgumentError(f"{name} is the single text {value[:60]!r}; expected a list of texts: [{name}]")
    try:
        texts = list(value)
    except TypeError:
        raise InvalidArgumentError(f"{name} is {shown(value)}; expected a list of texts") from None
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidArgumentError(f"{name}[{position}] is {shown(text)}; expected a text (str)")
    return texts


def check_ids(ids: Sequence[str]) -> list[str]:
    """A list of document ids, each valid Unicode."""
    names = text_list(ids, "ids")
    for position, name in enumerate(names):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"ids[{position}] is {name!a}, which has a lone surrogate; expected valid Unicode"
            ) from None
    return names


def one_or_many(value: str | Sequence[str], name: str) -> tuple[list[str], bool]:
    """A list of texts, and whether the value was a single text."""
    return ([value], True) if isinstance(value, str) else (text_list(value, name), False)


def check_query(query: object) -> str:
    """A query that is not empty or blank."""
    if not isinstance(query, str) or not query.strip():
        raise InvalidArgumentError(f"query is {shown(query)}; expected a non-empty text")
    return query


def check_seconds(value: float | None, name: str) -> float | None:
    """Seconds, not negative; None means no limit."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0):
        return value
    raise InvalidArgumentError(f"{name} is {shown(value)}; expected seconds, 0 or more")


def check_url(url: str) -> str:
    """The server's base URL, without a trailing `/v1`.

    Raises:
        InvalidArgumentError: The URL is not http or https, has no host, or contains a user, a password, a query or a
            fragment, which would be stored.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgumentError(f"the server's URL is {shown!r}…; expected http://host:port or https://host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidArgumentError(
            f"the server's URL {shown!r}… has a user, a password, a query or a fragment; expected none: "
            f"pass a key in the environment variable {API_KEY}"
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def at_least(value: object, least: int, name: str) -> int:
    """An integer of at least `least`; booleans and floats such as 2.0 are rejected."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(f"{name} is {shown(value)}; expected a whole number of at least {least}")
    return value


def check_instructions(instructions: Mapping[str, str]) -> dict[str, str]:
    """User-defined instructions by name; each is a sentence of at least two words."""
    if not isinstance(instructions, Mapping):
        raise InvalidArgumentError(f"instructions is {instructions!r}; expected a mapping of names to instructions")
    for name, text in instructions.items():
        if not isinstance(name, str) or not isinstance(text, str) or len(text.split()) < 2:
            raise InvalidArgumentError(f"instructions[{name!r}] is {text!r}; expected a sentence of at least two words")
    return dict(instructions)


DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
ATTENTION = ("auto", "flash", "sdpa", "math")


def one_of(value: object, known: Sequence[str], name: str) -> str:
    """A name that is in the list `known`."""
    if not isinstance(value, str) or value not in known:
        raise UnknownNameError(name, value, list(known))
    return value
