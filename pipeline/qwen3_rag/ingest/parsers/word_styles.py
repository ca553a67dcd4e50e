"""Word: what a paragraph's style says of it, and how list items are numbered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from qwen3_rag.ingest.parsers.flow import Paragraph, outline_level

__all__ = ["TITLE", "Lists", "Styles"]

HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
TITLE = -1  # the level of a document's title
DEEPEST_LIST = 8
LONGEST_CHAIN = 10  # styles based on one another; Word allows nine, a circle ends here


@dataclass
class Styles:
    """Paragraph styles by id: their heading levels, lists, and the styles that they are based on."""

    levels: dict[str, int] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    based_on: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, tree: ElementTree.Element) -> "Styles":
        """The styles in "styles.xml"."""
        styles = cls()
        for style in tree.iter("style"):
            identity = style.get("styleId", "")
            name, outline = _value(style, "name"), _value(style, "pPr/outlineLvl")
            match = HEADING.fullmatch(name)
            if name.lower() == "title":
                styles.levels[identity] = TITLE
            elif match or outline:
                styles.levels[identity] = int(match[1]) if match else outline_level(outline)
            if number := _value(style, "pPr/numPr/numId"):
                styles.lists[identity] = number
            styles.based_on[identity] = _value(style, "basedOn")
        return styles

    def level(self, paragraph: Paragraph) -> int:
        """The level of a heading, counted from 1; `TITLE` for the title, 0 for text."""
        return paragraph.level or int(self._inherited(paragraph.style, self.levels) or 0)

    def list_of(self, paragraph: Paragraph) -> str:
        """The id of a paragraph's list; "" if it is in none."""
        number = paragraph.list_id or str(self._inherited(paragraph.style, self.lists) or "")
        return "" if number == "0" else number

    def _inherited(self, style: str, values: Mapping[str, int | str]) -> int | str | None:
        for _ in range(LONGEST_CHAIN):
            if style in values:
                return values[style]
            style = self.based_on.get(style, "")
        return None


@dataclass
class Lists:
    """Numbers the items of lists, and collects the lines of those that follow one another."""

    bullets: set[tuple[str, int]] = field(default_factory=set)  # list and level
    lines: list[str] = field(default_factory=list)
    _counts: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, tree: ElementTree.Element) -> "Lists":
        """The lists in "numbering.xml"."""
        kinds = {
            kind.get("abstractNumId", ""): {
                int(level.get("ilvl", "0")) for level in kind.iterfind("lvl") if _value(level, "numFmt") == "bullet"
            }
            for kind in tree.iterfind("abstractNum")
        }
        numbers = {each.get("numId", ""): _value(each, "abstractNumId") for each in tree.iterfind("num")}
        return cls({(number, level) for number, kind in numbers.items() for level in kinds.get(kind, ())})

    def add(self, number: str, depth: int, text: str) -> None:
        """Add an item of a list."""
        depth = min(depth, DEEPEST_LIST)
        counts = self._counts.setdefault(number, [])
        counts += [0] * (depth + 1 - len(counts))
        counts[depth] += 1
        del counts[depth + 1 :]
        marker = "-" if (number, depth) in self.bullets else f"{counts[depth]}."
        self.lines.append(f"{'  ' * depth}{marker} {' '.join(text.split())}")

    def text(self) -> str:
        """The items so far, one a line, which are forgotten."""
        text = "\n".join(self.lines)
        self.lines = []
        return text


def _value(element: ElementTree.Element, path: str) -> str:
    part = element.find(path)
    return "" if part is None else part.get("val", "")
