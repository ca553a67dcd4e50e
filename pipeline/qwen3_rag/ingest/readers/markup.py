"""HTML, Word and EPUB: parsed in another process, put together here."""

import re
from collections.abc import Iterator

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.child import parse
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.parsed import Builder, Parsed, heading

__all__ = ["epub", "html", "word"]

LARGEST_HTML = 10 << 20  # bytes; text written by people stays far below
CHARSET = re.compile(rb"""(?i)<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""")
PARSERS = "qwen3_rag.ingest.parsers"


def html(file: File) -> Iterator[Parsed]:
    """Read an HTML page; the title is its <title>, else the first heading, else the file name."""
    if len(file.bytes) > LARGEST_HTML:
        raise IngestError(f"{file.path}: too large: more than {LARGEST_HTML >> 20} MiB, the maximum for HTML")
    return _parsed(file, f"{PARSERS}.html:html", _decoded(file).encode())


def word(file: File) -> Iterator[Parsed]:
    """Read a Word document (.docx); headings come from paragraph styles."""
    return _parsed(file, f"{PARSERS}.archives:word", file.bytes)


def epub(file: File) -> Iterator[Parsed]:
    """Read an EPUB book, its chapters in reading order."""
    return _parsed(file, f"{PARSERS}.archives:epub", file.bytes)


def _decoded(file: File) -> str:
    declared = CHARSET.search(file.head[:2048])
    if declared and file.encoding not in ("utf-8", "utf-8-sig", "utf-16"):
        try:
            return file.bytes.decode(declared.group(1).decode())
        except (LookupError, UnicodeDecodeError):
            pass
    return file.text


def _parsed(file: File, parser: str, content: bytes) -> Iterator[Parsed]:
    builder, partial = Builder(), None
    begun: list[str] = []
    try:
        for name, *values in parse(file, parser, content):
            if name == "title":
                builder.title = heading(values[0])
            elif name == "heading":
                builder.heading(*values)
            elif name == "more":
                begun.append(values[0])
            elif name == "block":
                builder.block("".join([*begun, values[1]]), values[0])
                begun.clear()
    except ContentError as error:
        partial = error
    parsed = builder.parsed(file.stem, partial.reason if partial else None)
    if parsed.document.text:
        yield parsed
    elif partial:
        raise partial
