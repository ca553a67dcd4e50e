"""A reader's result: a document, and where its headings, tables, code and pages are."""

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Literal

from qwen3_rag.records import Document

__all__ = ["Builder", "Kind", "Parsed", "Section"]

Kind = Literal["prose", "list", "code", "table"]
LONGEST_HEADING = 120  # characters; a longer one leaves too little space for the passage
DEEPEST = 6


@dataclass(frozen=True)
class Section:
    """A span of a document's text under one heading path.

    Attributes:
        start: Offset of the first character.
        stop: Offset after the last character.
        headings: From the outermost to the innermost, without the document's title.
        kind: Where it may be split: prose between sentences, lists between items, code and tables between lines.
        heading_length: Characters at its start that are its own heading, which no passage ends with.
    """

    start: int
    stop: int
    headings: tuple[str, ...] = ()
    kind: Kind = "prose"
    heading_length: int = 0


@dataclass(frozen=True)
class Parsed:
    """A document with its structure.

    Attributes:
        document: The document.
        sections: In order, without overlap; text outside them is not indexed. If empty, the text is one section.
        pages: Offset of the first character of each page.
        partial: Why the rest of the file is missing; None if nothing is.
    """

    document: Document
    sections: tuple[Section, ...] = ()
    pages: tuple[int, ...] = ()
    partial: str | None = None

    @property
    def parts(self) -> tuple[Section, ...]:
        """The sections, or one for the whole text if there are none."""
        return self.sections or (Section(0, len(self.document.text)),)

    def page(self, place: int) -> int | None:
        """The page of the character at an offset, counted from 1; None if the document has no pages."""
        return max(bisect_right(self.pages, place), 1) if self.pages else None

    def named(self, **values: object) -> "Parsed":
        """A copy with some of its document's fields replaced, such as `id` and `source`."""
        return replace(self, document=replace(self.document, **values))  # type: ignore[arg-type]


def heading(text: str) -> str:
    """A heading on one line, truncated to `LONGEST_HEADING` characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_HEADING else line[: LONGEST_HEADING - 1].rstrip() + "…"


class Outline:
    """The headings above the current position, with their levels."""

    def __init__(self) -> None:
        self._above: list[tuple[int, str]] = []

    def enter(self, level: int, text: str) -> None:
        """Add a heading, closing those of the same or a deeper level."""
        while self._above and self._above[-1][0] >= level:
            self._above.pop()
        if (line := heading(text)) and len(self._above) < DEEPEST:
            self._above.append((level, line))

    def path(self, title: str | None) -> tuple[str, ...]:
        """The headings above, without the first if the title starts or ends with it."""
        headings = tuple(text for _, text in self._above)
        name = heading(title or "")
        repeated = headings and (name.startswith(headings[0]) or name.endswith(headings[0]))
        return headings[1:] if repeated else headings


@dataclass(frozen=True)
class _Mark:
    """Where a block of a `Builder` starts, and the headings above it."""

    start: int
    above: tuple[tuple[int, str], ...]
    kind: Kind
    heading_length: int


@dataclass
class Builder:
    """Builds a document's text block by block, for formats whose text is not the file's own."""

    title: str | None = None
    _parts: list[str] = field(default_factory=list)
    _length: int = 0
    _marks: list[_Mark] = field(default_factory=list)
    _outline: Outline = field(default_factory=Outline)
    pages: list[int] = field(default_factory=list)

    def heading(self, level: int, text: str) -> None:
        """Add a heading and start a section."""
        line = " ".join(text.split())
        if line:
            self._outline.enter(level, line)
            self.title = self.title or heading(line)
            self._append(line, "prose", len(line))

    def block(self, text: str, kind: Kind = "prose") -> None:
        """Add a paragraph, a list, a code block or a table."""
        text = text.strip("\n") if kind == "code" else text.strip()
        if text.strip():
            self._append(text, kind, 0)

    def _append(self, text: str, kind: Kind, heading_length: int) -> None:
        gap = "\n\n" if self._length else ""
        self._marks.append(_Mark(self._length + len(gap), tuple(self._outline._above), kind, heading_length))
        self._parts += [gap, text]
        self._length += len(gap) + len(text)

    def page(self) -> None:
        """Start a page, under no heading."""
        self._outline = Outline()
        self.pages.append(self._length + (2 if self._length else 0))

    def parsed(self, title: str, partial: str | None = None) -> Parsed:
        """The finished document; `title` is the fallback if no title or heading was added."""
        name = self.title or title
        sections: list[Section] = []
        stops = [*(mark.start for mark in self._marks), self._length][1:]
        for mark, stop in zip(self._marks, stops, strict=True):
            path = Outline()
            path._above = list(mark.above)
            headings = path.path(name)
            last = sections[-1] if sections else None
            if last and mark.kind == last.kind == "prose" and last.headings == headings and not mark.heading_length:
                sections[-1] = replace(last, stop=stop)
            else:
                sections.append(Section(mark.start, stop, headings, mark.kind, mark.heading_length))
        return Parsed(Document("".join(self._parts), title=name), tuple(sections), tuple(self.pages), partial)
