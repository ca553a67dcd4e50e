"""Word and EPUB: zip archives of XML and of HTML."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.flow import Flow, Paragraph, Table, add_table
from qwen3_rag.ingest.parsers.html import Parts, read_html
from qwen3_rag.ingest.parsers.packages import XmlEvent, opened, resolved
from qwen3_rag.ingest.parsers.word_styles import TITLE, Lists, Styles

__all__ = ["epub", "word"]

NOTES = ("footnotes", "endnotes")
BATCH = 256  # paragraphs sent at once


def word(content: bytes) -> Iterator[list[Event]]:
    """Parse a Word document (.docx); headings come from paragraph styles and outline levels."""
    with opened(content, "Word document") as package:
        main = package.main_part("word/document.xml")
        others = {each.kind: each.target for each in package.relationships(main).values()}
        names = {kind: name for kind, name in others.items() if name in package.names}
        styles = Styles.read(package.tree(names["styles"])) if "styles" in names else Styles()
        lists = Lists.read(package.tree(names["numbering"])) if "numbering" in names else Lists()
        reader = _Word(styles, lists, Parts())
        reader.parts.title(package.title())
        for name in (main, *(names[kind] for kind in NOTES if kind in names)):
            for event in package.events(name):
                reader.take(event)
                if len(reader.parts.events) >= BATCH:
                    yield reader.batch()
            reader.end_list()
        yield reader.batch()


@dataclass
class _Word:
    """Adds the paragraphs, lists and tables of a document."""

    styles: Styles
    lists: Lists
    parts: Parts
    flow: Flow = field(default_factory=Flow)

    def take(self, event: XmlEvent) -> None:
        piece = self.flow.feed(event)
        if isinstance(piece, Table):
            self.end_list()
            add_table(self.parts, piece.rows)
        elif piece is not None and piece.text:
            self._add(piece)

    def batch(self) -> list[Event]:
        events, self.parts.events = self.parts.events, []
        return events

    def end_list(self) -> None:
        self.parts.block(self.lists.text(), "list")

    def _add(self, paragraph: Paragraph) -> None:
        level, number = self.styles.level(paragraph), self.styles.list_of(paragraph)
        if number and not level:
            self.lists.add(number, paragraph.depth, paragraph.text)
            return
        self.end_list()
        if level > 0:
            self.parts.heading(level, paragraph.text)
            return
        if level == TITLE and not any(event[0] == "title" for event in self.parts.events[:1]):
            self.parts.title(paragraph.text)
        self.parts.block(paragraph.text)


def epub(content: bytes) -> Iterator[list[Event]]:
    """Parse an EPUB book, chapter by chapter in reading order."""
    with opened(content, "EPUB") as package:
        root = package.tree("META-INF/container.xml").find(".//rootfile")
        if root is None:
            raise IngestError("damaged EPUB: META-INF/container.xml has no rootfile")
        place = root.get("full-path", "")
        book = package.tree(place)
        parts = Parts()
        parts.title((book.findtext("metadata//title") or "")[:200])
        yield parts.events
        items = {item.get("id"): item for item in book.iterfind(".//manifest/item")}
        for reference in book.iterfind(".//spine/itemref"):
            item = items.get(reference.get("idref"))
            if item is None or "nav" in item.get("properties", "").split():
                continue
            name = resolved(posixpath.dirname(place), item.get("href", ""))
            chapter = Parts()
            read_html(package.read(name).decode("utf-8-sig", errors="replace"), chapter, chapter=True)
            yield chapter.events
