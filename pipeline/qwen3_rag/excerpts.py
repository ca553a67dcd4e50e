"""A part of a document: by lines, by page, or by characters."""

from collections.abc import Sequence
from typing import Any

from qwen3_rag.arguments import at_least, shown
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["excerpt"]


def excerpt(
    text: str,
    pages: Sequence[int],
    lines: tuple[int, int] | None = None,
    page: int | None = None,
    characters: tuple[int, int] | None = None,
) -> str:
    """The lines, the page or the characters of a text; the whole text without any of them.

    Args:
        text: The text.
        pages: Offsets at which its pages start.
        lines: The first line, from 1, and how many. Lines past the end are left out.
        page: A page, from 1.
        characters: Start and end, as in a hit.

    Raises:
        InvalidArgumentError: More than one part, a page that the text does not have, or numbers out of range.
    """
    if sum(part is not None for part in (lines, page, characters)) > 1:
        raise InvalidArgumentError(
            f"lines={lines}, page={page}, characters={characters} were passed together; expected one of them"
        )
    if lines is not None:
        first, count = _pair(lines, "lines")
        return "".join(text.splitlines(keepends=True)[at_least(first, 1, "the first line") - 1 :][:count])
    if page is not None:
        if not pages or at_least(page, 1, "page") > len(pages):
            known = f"1 to {len(pages)}" if pages else "None, because the document has no pages"
            raise InvalidArgumentError(f"page is {page}; expected {known}")
        return text[pages[page - 1] : pages[page] if page < len(pages) else None].strip()
    return text if characters is None else text[slice(*_pair(characters, "characters"))]


def _pair(value: Any, name: str) -> tuple[int, int]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InvalidArgumentError(f"{name} is {shown(value)}; expected two numbers")
    return at_least(value[0], 0, name), at_least(value[1], 0, name)
