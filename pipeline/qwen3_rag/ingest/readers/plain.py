"""Plain text: the text is kept as it is."""

from collections.abc import Iterator

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Parsed, heading
from qwen3_rag.records import Document

__all__ = ["text"]

RULES = "=~*#-"  # characters that underline a title; all but the dash may also be above it


def text(file: File) -> Iterator[Parsed]:
    """Read a text file; the title is an underlined first line, else the file name."""
    if file.text.strip():
        title = _underlined(file.text)
        yield Parsed(Document(file.text, title=heading(title) if title else file.stem))


def _underlined(text: str) -> str | None:
    """The first line if it is underlined; it may have a line of the same kind above it."""
    lines = [line.strip() for line in text.lstrip().split("\n", 3)[:3]]
    if len(lines) == 3 and _rule(lines[0], RULES[:-1]) and lines[1] and _rule(lines[2], RULES):
        return lines[1]
    return lines[0] if len(lines) > 1 and _rule(lines[1], RULES) else None


def _rule(line: str, signs: str) -> bool:
    return len(line) > 2 and line[0] in signs and not line.strip(line[0])
