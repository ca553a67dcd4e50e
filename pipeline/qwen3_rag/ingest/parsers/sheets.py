"""Excel: sheet by sheet, each a table; the file is streamed, only the texts that cells share are kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.html import Parts
from qwen3_rag.ingest.parsers.number_formats import BUILT_IN, shown
from qwen3_rag.ingest.parsers.packages import Package, opened

__all__ = ["excel"]

LONGEST_CELL = 32_767  # characters, Excel's own limit
LARGEST = 64 << 20  # characters of a sheet: cells that share a text make it much larger than its file
COLUMNS = 16_384  # Excel's own limit
BLANK = 64  # empty cells shown between two others; more hold no table together


@dataclass
class _Book:
    """What the sheets of a workbook share."""

    texts: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)  # by cell style
    since_1904: bool = False


@dataclass
class _Cell:
    """A cell while it is read."""

    column: int
    kind: str = "n"
    style: str = ""
    parts: list[str] = field(default_factory=list)


def excel(content: bytes) -> Iterator[list[Event]]:
    """Parse a workbook (.xlsx): a sheet is a page, its name a heading, its rows a table."""
    with opened(content, "Excel workbook") as package:
        parts = Parts()
        parts.title(package.title())
        yield parts.events
        main = package.main_part("xl/workbook.xml")
        targets = package.relationships(main)
        workbook = package.tree(main)
        book = _book(package, {each.kind: each.target for each in targets.values()})
        properties = workbook.find("workbookPr")
        book.since_1904 = properties is not None and properties.get("date1904") in ("1", "true")
        for sheet in workbook.iterfind("sheets/sheet"):
            parts = Parts()
            parts.heading(1, sheet.get("name", ""))
            _add_rows(parts, list(_rows(package, targets[sheet.get("r:id", "")].target, book)))
            yield [("page", ""), *parts.events]


def _book(package: Package, others: dict[str, str]) -> _Book:
    book = _Book()
    if (name := others.get("sharedStrings")) in package.names and name is not None:
        book.texts = list(_texts(package, name))
    if (name := others.get("styles")) in package.names and name is not None:
        styles = package.tree(name)
        codes = {each.get("numFmtId", ""): each.get("formatCode", "") for each in styles.iterfind("numFmts/numFmt")}
        numbers = [each.get("numFmtId", "") for each in styles.iterfind("cellXfs/xf")]
        book.formats = [codes.get(n) or BUILT_IN.get(int(n) if n.isdecimal() else 0, "") for n in numbers]
    return book


def _texts(package: Package, name: str) -> Iterator[str]:
    """The texts that cells share, without the pronunciation of Japanese ones."""
    parts: list[str] = []
    reading = phonetic = False
    for kind, value, _ in package.events(name):
        if kind == "text":
            parts += [value] if reading and not phonetic else []
        elif value == "t":
            reading = kind == "start"
        elif value == "rPh":
            phonetic = kind == "start"
        elif value == "si" and kind == "end":
            yield "".join(parts)[:LONGEST_CELL]
            parts = []


def _rows(package: Package, name: str, book: _Book) -> Iterator[list[str]]:
    """The rows of a sheet that are not empty."""
    row: list[str] = []
    cell = _Cell(0)
    reading = phonetic = False
    length = 0
    for kind, value, attributes in package.events(name):
        if kind == "text":
            cell.parts += [value] if reading and not phonetic else []
        elif value in ("v", "t"):
            reading = kind == "start"
        elif value == "rPh":
            phonetic = kind == "start"
        elif value == "c" and kind == "start":
            column = _column(attributes.get("r", "")) or cell.column + 1
            cell = _Cell(column, attributes.get("t", "n"), attributes.get("s", ""))
        elif value == "c":
            if text := _shown(cell, book):
                row += [""] * min(cell.column - 1 - len(row), BLANK)
                row.append(text)
                length += len(text)
                if length > LARGEST:
                    raise IngestError(f"too large: a sheet with more than {LARGEST >> 20} MiB of text")
        elif value == "row" and kind == "end":
            if row:
                yield row
            row, cell = [], _Cell(0)


def _column(reference: str) -> int:
    """The number of the column in a reference such as "AB12", counted from 1; 0 if there is none."""
    number = 0
    for letter in reference[:3].upper():
        if not "A" <= letter <= "Z":
            break
        number = number * 26 + ord(letter) - 64
    return min(number, COLUMNS)


def _shown(cell: _Cell, book: _Book) -> str:
    """The text of a cell, on one line."""
    value = "".join(cell.parts)[:LONGEST_CELL]
    if cell.kind == "s":
        value = book.texts[int(value)] if value else ""
    elif cell.kind == "b":
        value = {"1": "TRUE", "0": "FALSE"}.get(value, value)
    elif cell.kind == "n" and value:
        code = book.formats[int(cell.style)] if cell.style else ""
        value = shown(float(value), code, book.since_1904)
    return " ".join(value.split())


def _add_rows(parts: Parts, rows: list[list[str]]) -> None:
    """Add the rows as a table; those above it with a single cell, such as a title, as paragraphs."""
    values = [sum(map(bool, row)) for row in rows]
    first = next((place for place, count in enumerate(values) if count > 1), 0)
    for row in rows[:first]:
        parts.block("".join(row))
    parts.block("\n".join(" | ".join(row) for row in rows[first:]), "table")
