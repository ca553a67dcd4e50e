"""One-line descriptions of paths, which come with hits from below them."""

from collections.abc import Mapping

from qwen3_rag.errors import InvalidArgumentError

__all__ = ["DESCRIPTIONS", "context_of", "described"]

DESCRIPTIONS = "descriptions"  # the store's key
LONGEST = 500  # characters


def described(known: Mapping[str, str], path: str, text: str | None) -> dict[str, str]:
    """The descriptions with one added or replaced, or removed where `text` is None.

    Raises:
        InvalidArgumentError: The path is empty, or the text is empty, too long or has several lines.
    """
    if not isinstance(path, str) or not path.rstrip("/"):
        raise InvalidArgumentError(f"path is {path!r}; expected a file, a folder, or the beginning of an id")
    others = {name: value for name, value in known.items() if name != path.rstrip("/")}
    if text is None:
        return others
    line = text.strip() if isinstance(text, str) else ""
    if not line or len(line) > LONGEST or len(line.splitlines()) > 1:
        raise InvalidArgumentError(f"text is {text!r:.200}; expected one line of at most {LONGEST} characters")
    return others | {path.rstrip("/"): line}


def context_of(known: Mapping[str, str], *names: str | None) -> tuple[str, ...]:
    """Descriptions of a document's source or id and of what is above them, the longest path first."""
    paths = [name for name in names if name]
    above = [path for path in known if any(each == path or each.startswith(path + "/") for each in paths)]
    return tuple(known[path] for path in sorted(above, key=len, reverse=True))
