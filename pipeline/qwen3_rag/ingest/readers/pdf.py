"""PDF: parsed in another process; pages and outline are put together here."""

import re
from collections.abc import Iterator

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.child import parse
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.parsed import Outline, Parsed, Section
from qwen3_rag.ingest.running_heads import without_running_heads
from qwen3_rag.records import Document

__all__ = ["pdf"]

NO_TITLE = re.compile(r"(?i)^(untitled|microsoft word|document\d*$)|\.(docx?|dvi|tex|indd|pdf)$")
Entry = tuple[int, str, int]  # level, title and page from 0


def pdf(file: File) -> Iterator[Parsed]:
    """Read a PDF; the title is its metadata's if that looks like one, else the file name."""
    pages: list[str] = []
    outline: list[Entry] = []
    begun: list[str] = []
    title, partial = "", None
    try:
        for name, *values in parse(file, "qwen3_rag.ingest.parsers.pdf:pdf", file.bytes):
            if name == "title":
                title = _title(values[0])
            elif name == "outline":
                outline.append((values[0], values[1], values[2]))
            elif name == "more":
                begun.append(values[0])
            elif name == "page":
                pages.append("".join([*begun, values[0]]))
                begun.clear()
    except ContentError as error:
        partial = error
    if not any(page.strip() for page in pages):
        raise partial or IngestError(
            f"{file.path}: {len(pages)} pages without text; run OCR on scanned documents first"
        )
    pages = without_running_heads(pages)
    yield _put_together(pages, outline, title or file.stem, partial.reason if partial else None)


def _title(name: str) -> str:
    """The title in the metadata, or "" if it is a word processor's placeholder or a file name."""
    name = " ".join(name.split())
    return "" if NO_TITLE.search(name) else name[:200]


def _put_together(pages: list[str], outline: list[Entry], title: str, partial: str | None) -> Parsed:
    starts, length = [], 0
    for page in pages:
        starts.append(length)
        length += len(page) + 2
    text = "\n\n".join(pages)
    enclosing = Outline()
    marks: list[tuple[int, tuple[str, ...], int]] = [(0, (), 0)]  # place, headings, length of its own
    for level, heading, number in outline:
        if not 0 <= number < len(pages):
            continue
        enclosing.enter(level, heading)
        # An outline entry gives only a page: search that page for the heading's words.
        words = r"\s+".join(re.escape(word) for word in heading.split()[:12])
        match = re.search(words, text[starts[number] : starts[number] + len(pages[number])]) if words else None
        place = starts[number] + (match.start() if match else 0)
        length = match.end() - match.start() if match and place >= marks[-1][0] else 0
        marks.append((max(place, marks[-1][0]), enclosing.path(title), length))
    ends = [place for place, _, _ in marks[1:]] + [len(text)]
    sections = tuple(
        Section(start, stop, path, heading_length=min(length, stop - start))
        for (start, path, length), stop in zip(marks, ends, strict=True)
        if text[start:stop].strip()
    )
    return Parsed(Document(text, title=title), sections, tuple(starts), partial)
