"""PDF with PDFium: the title, the outline, then the text page by page."""

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import imported
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.visual_order import RIGHT_TO_LEFT, in_logical_order

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
        text = _ordered(content, content.get_text_bounded())
    return CONTROLS.sub("", HYPHENATED.sub("", text).replace("\r\n", "\n").replace("\r", "\n")).strip()


def _ordered(content: Any, text: str) -> str:
    """A page's text; lines of Arabic and Hebrew that are stored as they look are put into the order they are read."""
    if not RIGHT_TO_LEFT.search(text):
        return text
    whole: str = content.get_text_range()
    # The same characters, but for white space, as PDFium numbers them; outside the BMP it counts otherwise.
    numbers, places = _not_blank(whole), _not_blank(text)
    if len(whole) != content.count_chars() or [whole[n] for n in numbers] != [text[p] for p in places]:
        return text
    number_at = dict(zip(places, numbers, strict=True))
    return in_logical_order(text, lambda place: float(content.get_charbox(number_at[place])[0]))


def _not_blank(text: str) -> list[int]:
    return [place for place, character in enumerate(text) if not character.isspace()]


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
