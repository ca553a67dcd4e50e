"""Paragraphs and tables of Word documents and slides, whose XML names them alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwen3_rag.ingest.parsers.html import LONGEST_CELL, Parts
from qwen3_rag.ingest.parsers.packages import XmlEvent

__all__ = ["Flow", "Paragraph", "Table", "add_table", "outline_level"]

# Text that is there twice: drawings for old programs, and where moved text was before.
SKIPPED = frozenset(("Fallback", "moveFrom"))
SIGNS = {"br": "\n", "cr": "\n", "noBreakHyphen": "-"}


@dataclass
class Paragraph:
    """A paragraph, with the ids of its style and its list, and its own outline level, counted from 1; 0 for text."""

    parts: list[str] = field(default_factory=list)
    style: str = ""
    level: int = 0
    list_id: str = ""
    depth: int = 0  # in its list, from 0

    @property
    def text(self) -> str:
        """Its text."""
        return "".join(self.parts).strip()


@dataclass
class Table:
    """Rows of cells; each cell is a list of paragraphs."""

    rows: list[list[list[str]]] = field(default_factory=list)


class Flow:
    """Takes XML events one by one and returns each paragraph and each table as it ends.

    Tables within a table are text in its cells, so that the work does not grow with their depth.
    """

    def __init__(self) -> None:
        self._paragraphs: list[Paragraph] = []  # one within another: text boxes
        self._table: Table | None = None
        self._tables = self._runs = self._skipped = 0  # how deep inside
        self._in_text = False

    def feed(self, event: XmlEvent) -> Paragraph | Table | None:
        """Take the next event."""
        kind, value, attributes = event
        if self._skipped:
            self._skipped += {"start": 1, "end": -1, "text": 0}[kind]
        elif kind == "text":
            if self._in_text and self._paragraphs:
                self._paragraphs[-1].parts.append(value)
        elif kind == "start":
            self._start(value, attributes)
        else:
            return self._end(value)
        return None

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name in SKIPPED:
            self._skipped = 1
        elif name in ("tbl", "tr", "tc"):
            self._start_table(name)
        elif name == "p":
            self._paragraphs.append(Paragraph())
        elif name == "t":
            self._in_text = True
        elif name == "r":
            self._runs += 1
        elif self._paragraphs:
            self._start_inside(self._paragraphs[-1], name, attributes)

    def _start_inside(self, paragraph: Paragraph, name: str, attributes: Mapping[str, str]) -> None:
        if name in SIGNS:
            paragraph.parts.append(SIGNS[name])
        elif name == "tab" and self._runs:  # elsewhere it is a tab stop
            paragraph.parts.append("\t")
        elif name == "pStyle":
            paragraph.style = attributes.get("val", "")
        elif name == "outlineLvl":
            paragraph.level = outline_level(attributes.get("val", ""))
        elif name == "numId":
            paragraph.list_id = attributes.get("val", "")
        elif name == "ilvl":
            paragraph.depth = max(outline_level(attributes.get("val", "")) - 1, 0)

    def _start_table(self, name: str) -> None:
        if name == "tbl":
            self._tables += 1
            self._table = self._table or Table()
        elif self._tables == 1 and self._table is not None:
            if name == "tr":
                self._table.rows.append([])
            elif self._table.rows:
                self._table.rows[-1].append([])

    def _end(self, name: str) -> Paragraph | Table | None:
        if name == "p" and self._paragraphs:
            return self._placed(self._paragraphs.pop())
        if name == "t":
            self._in_text = False
        elif name == "r":
            self._runs -= 1
        elif name == "tbl":
            self._tables -= 1
            if not self._tables:
                table, self._table = self._table, None
                return table
        return None

    def _placed(self, paragraph: Paragraph) -> Paragraph | None:
        """The paragraph, or None if it belongs to a cell."""
        if self._table is None:
            return paragraph
        if self._table.rows and self._table.rows[-1]:
            self._table.rows[-1][-1].append(paragraph.text)
        return None


def outline_level(value: str) -> int:
    """A level from 1 to 9 out of Word's, which are counted from 0; 0 for text."""
    return int(value) + 1 if value.isdecimal() and len(value) == 1 and value < "9" else 0


def add_table(parts: Parts, rows: Sequence[Sequence[Sequence[str]]]) -> None:
    """Add a table with one line a row; one that is used for layout as paragraphs."""
    lines = [[" ".join(" ".join(cell).split()) for cell in row] for row in rows]
    layout = any(len(cell) > LONGEST_CELL for line in lines for cell in line)
    if layout or max((len(line) for line in lines), default=0) < 2:
        for row in rows:
            for cell in row:
                parts.block("\n".join(cell))
    else:
        parts.block("\n".join(" | ".join(line) for line in lines if any(line)), "table")
