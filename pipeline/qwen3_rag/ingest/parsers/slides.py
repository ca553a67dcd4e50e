"""PowerPoint: slide by slide, with titles, tables and notes."""

from collections.abc import Iterator

from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.flow import Flow, Table, add_table
from qwen3_rag.ingest.parsers.html import Parts
from qwen3_rag.ingest.parsers.packages import Package, opened

__all__ = ["powerpoint"]

TITLES = ("title", "ctrTitle")
REPEATED = ("sldNum", "dt", "ftr", "hdr")  # placeholders with the same text on every slide
SHAPES = ("sp", "graphicFrame", "cxnSp", "pic")


def powerpoint(content: bytes) -> Iterator[list[Event]]:
    """Parse a presentation (.pptx): a slide is a page, its title a heading; notes follow the slide."""
    with opened(content, "PowerPoint presentation") as package:
        parts = Parts()
        parts.title(package.title())
        yield parts.events
        main = package.main_part("ppt/presentation.xml")
        targets = package.relationships(main)
        for reference in package.tree(main).iterfind("sldIdLst/sldId"):
            slide = targets[reference.get("r:id", "")].target
            yield _slide(package, slide)


def _slide(package: Package, name: str) -> list[Event]:
    titles, body = Parts(), Parts()
    _read(package, name, titles, body)
    for each in package.relationships(name).values():
        if each.kind == "notesSlide" and each.target in package.names:
            _read(package, each.target, body, body)
    heading = " ".join(text for _, _, text in titles.events)
    page = Parts()
    page.heading(1, heading)
    return [("page", ""), *(page.events if heading else []), *body.events]


def _read(package: Package, name: str, titles: Parts, body: Parts) -> None:
    """Add the paragraphs and tables of a slide."""
    flow, placeholder = Flow(), ""
    for event in package.events(name):
        if event.kind == "start":
            if event.value in SHAPES:
                placeholder = ""
            elif event.value == "ph":
                placeholder = event.attributes.get("type", "body")
        piece = flow.feed(event)
        if isinstance(piece, Table):
            add_table(body, piece.rows)
        elif piece is not None and placeholder not in REPEATED:
            (titles if placeholder in TITLES else body).block(piece.text)
