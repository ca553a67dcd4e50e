"""PDF with PDFium: the title, the outline, then the text page by page."""

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import imported
from qwen3_rag.ingest.messages import Event

__all__ = ["pdf"]

# How PDFium marks a word hyphenated at a line break.
HYPHENATED = re.compile("\ufffe|\u00ad\r?\n|\x02")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f]|[\ufdd0-\ufdef\uffff]")
ENTRIES = 10_000  # entries of an outline
LONGEST_ENTRY = 1000  # characters


def pdf(content: bytes) -> Iterator[list[Event]]:
    """Parse a PDF; pages that cannot be read are empty, and named in an error at the end."""
    pdfium = imported(lambda: __import__("pypdfium2"), "pypdfium2", "PDF")
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        encrypted = "assword" in str(error)
        raise IngestError("encrypted: it needs a password" if encrypted else f"damaged PDF: {error}") from error
    with closing(document):
        yield [("title", _title(document, pdfium.PdfiumError))]
        yield list(_outline(document, pdfium.PdfiumError))
        yield from _pages(document, pdfium.PdfiumError)


def _pages(document: Any, failure: type[Exception]) -> Iterator[list[Event]]:
    damaged = []
    for number in range(len(document)):
        try:
            text = _page(document, number)
        except failure:
            damaged.append(number + 1)
            text = ""
        yield [("page", text)]
    if damaged:
        numbers = ", ".join(map(str, damaged[:10])) + (" …" if len(damaged) > 10 else "")
        raise IngestError(f"damaged PDF: {len(damaged)} of {len(document)} pages cannot be read: {numbers}")


def _page(document: Any, number: int) -> str:
    with closing(document[number]) as page, closing(page.get_textpage()) as content:
        text = content.get_text_bounded()
    return CONTROLS.sub("", HYPHENATED.sub("", text).replace("\r\n", "\n").replace("\r", "\n")).strip()


def _title(document: Any, failure: type[Exception]) -> str:
    try:
        title = document.get_metadata_dict(skip_empty=True).get("Title", "")
    except failure:
        return ""
    return CONTROLS.sub("", title)[:LONGEST_ENTRY]


def _outline(document: Any, failure: type[Exception]) -> Iterator[Event]:
    """Outline entries that lead to a page."""
    try:
        for count, entry in enumerate(document.get_toc(max_depth=6)):
            target = entry.get_dest()
            page = None if target is None else target.get_index()
            if page is not None:
                yield ("outline", entry.level, CONTROLS.sub("", entry.get_title())[:LONGEST_ENTRY], page)
            if count >= ENTRIES:
                return
    except failure:
        return
