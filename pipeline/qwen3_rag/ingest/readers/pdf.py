"""PDF with PDFium: text page by page, headings from the outline."""

import re
import threading
from collections.abc import Iterator
from typing import Any

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import File, imported
from qwen3_rag.ingest.parsed import Outline, Parsed, Section
from qwen3_rag.records import Document

__all__ = ["pdf"]

ONE_AT_A_TIME = threading.Lock()  # PDFium is not thread-safe
HYPHENATED = re.compile("\ufffe|\u00ad\r?\n|\x02")  # how PDFium marks a word hyphenated at a line break
NO_TITLE = re.compile(r"(?i)^(untitled|microsoft word|document\d*$)|\.(docx?|dvi|tex|indd|pdf)$")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f]|[\ufdd0-\ufdef\uffff]")


def pdf(file: File) -> Iterator[Parsed]:
    """Read a PDF; the title is its metadata's if that looks like one, else the file name."""
    pdfium = imported(lambda: __import__("pypdfium2"), "pypdfium2", "PDF")
    with ONE_AT_A_TIME:
        try:
            document = pdfium.PdfDocument(file.bytes)
        except pdfium.PdfiumError as error:
            why = "encrypted: it needs a password" if "assword" in str(error) else f"broken PDF: {error}"
            raise IngestError(f"{file.path}: {why}") from error
        try:
            pages = [_page(document, number) for number in range(len(document))]
            outline = [entry for entry in _outline(document) if entry[2] is not None]
            title = _title(document.get_metadata_dict(skip_empty=True).get("Title", ""))
        except pdfium.PdfiumError as error:
            raise IngestError(f"{file.path}: broken PDF: {error}") from error
        finally:
            document.close()
    if not any(page.strip() for page in pages):
        raise IngestError(f"{file.path}: {len(pages)} pages without text; run OCR on scanned documents first")
    yield _put_together(pages, outline, title or file.stem)


def _page(document: Any, number: int) -> str:
    page = document[number]
    text = page.get_textpage().get_text_bounded()
    return CONTROLS.sub("", HYPHENATED.sub("", text).replace("\r\n", "\n").replace("\r", "\n")).strip()


def _outline(document: Any) -> Iterator[tuple[int, str, int | None]]:
    """Level, title and page of each outline entry."""
    for entry in document.get_toc(max_depth=6):
        target = entry.get_dest()
        yield entry.level, entry.get_title(), None if target is None else target.get_index()


def _title(name: str) -> str:
    """The title in the metadata, or "" if it is a word processor's placeholder or a file name."""
    name = " ".join(CONTROLS.sub("", name).split())
    return "" if NO_TITLE.search(name) else name[:200]


def _put_together(pages: list[str], outline: list[tuple[int, str, int | None]], title: str) -> Parsed:
    starts, length = [], 0
    for page in pages:
        starts.append(length)
        length += len(page) + 2
    text = "\n\n".join(pages)
    enclosing = Outline()
    marks: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    for level, heading, number in outline:
        if number is None or not 0 <= number < len(pages):
            continue
        enclosing.enter(level, heading)
        # An outline entry gives only a page: search that page for the heading's words.
        words = r"\s+".join(re.escape(word) for word in heading.split()[:12])
        match = re.search(words, text[starts[number] : starts[number] + len(pages[number])]) if words else None
        place = starts[number] + (match.start() if match else 0)
        marks.append((max(place, marks[-1][0]), enclosing.path(title)))
    ends = [place for place, _ in marks[1:]] + [len(text)]
    sections = tuple(
        Section(start, stop, path) for (start, path), stop in zip(marks, ends, strict=True) if text[start:stop].strip()
    )
    return Parsed(Document(text, title=title), sections, tuple(starts))
