"""Plain text: the document's text is the file's."""

import re
from collections.abc import Iterator

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Parsed, heading
from qwen3_rag.records import Document

__all__ = ["text"]

UNDERLINED = re.compile(
    r"\s*(?:([=~*#])\1{2,}[ \t]*\r?\n)?[ \t]*(\S[^\r\n]*)\r?\n[ \t]*([=~*#-])\3{2,}[ \t]*(?:\r?\n|$)"
)


def text(file: File) -> Iterator[Parsed]:
    """A text file; its title is an underlined first line, else its name."""
    if file.text.strip():
        first = UNDERLINED.match(file.text)
        yield Parsed(Document(file.text, title=heading(first.group(2)) if first else file.stem))
