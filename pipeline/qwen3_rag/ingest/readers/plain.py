"""Plain text: the document's text is the file's."""

from collections.abc import Iterator

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Parsed, heading
from qwen3_rag.records import Document

__all__ = ["text"]

RULES = "=~*#-"  # signs of which a line under a title is made; over it as well, but for the dash


def text(file: File) -> Iterator[Parsed]:
    """A text file; its title is an underlined first line, else its name."""
    if file.text.strip():
        title = _underlined(file.text)
        yield Parsed(Document(file.text, title=heading(title) if title else file.stem))


def _underlined(text: str) -> str | None:
    """The first line, if a rule lies under it; there may be one over it too."""
    lines = [line.strip() for line in text.lstrip().split("\n", 3)[:3]]
    if len(lines) == 3 and _rule(lines[0], RULES[:-1]) and lines[1] and _rule(lines[2], RULES):
        return lines[1]
    return lines[0] if len(lines) > 1 and _rule(lines[1], RULES) else None


def _rule(line: str, signs: str) -> bool:
    return len(line) > 2 and line[0] in signs and not line.strip(line[0])
