"""Markdown: the text is kept as it is; markdown-it finds headings, code blocks and tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Kind, Outline, Parsed, Section
from qwen3_rag.records import Document

__all__ = ["markdown"]

FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*\r?\n", re.DOTALL)
TITLE = re.compile(r"^title:(.*)$", re.MULTILINE)
KINDS: dict[str, Kind] = {
    "fence": "code",
    "table_open": "table",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
}


@dataclass(frozen=True)
class _Mark:
    """Where a block starts; a heading has a level, a label and a length."""

    start: int
    kind: Kind = "prose"
    level: int = 0
    label: str = ""
    length: int = 0


def markdown(file: File) -> Iterator[Parsed]:
    """Read a Markdown file; the title is the front matter's, else the first heading, else the file name."""
    text = file.text
    if not text.strip():
        return
    front = FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    front_title = _named(front.group(1) or "") if front else None
    marks = list(_marks(text, begin))
    first = next((mark.label for mark in marks if mark.level), None)
    title = front_title or first or file.stem
    outline = Outline()
    sections = []
    for mark, following in pairwise([_Mark(begin), *marks, _Mark(len(text))]):
        if mark.level:
            outline.enter(mark.level, mark.label)
        start, stop = mark.start, following.start
        if text[start:stop].strip():
            sections.append(Section(start, stop, outline.path(title), mark.kind, mark.length))
    yield Parsed(Document(text, title=title[:200]), tuple(sections))


def _named(front: str) -> str | None:
    """The title in the front matter, without quotes."""
    match = TITLE.search(front)
    label = match.group(1).strip() if match else ""
    return label[1:-1] if len(label) > 2 and label[0] in "'\"" and label[0] == label[-1] else label or None


def _marks(text: str, begin: int) -> Iterator[_Mark]:
    """Where headings, lists, code blocks and tables start, and where all but the first end."""
    body = text[begin:]
    # Line starts as markdown-it counts them: \r\n and \r also end a line.
    lines = [begin, *(begin + match.end() for match in re.finditer(r"\r\n|\n|\r", body)), len(text)]
    markdown = MarkdownIt("commonmark").enable("table")
    # Inline markup is not needed outside headings, and parsing it is the slowest part.
    tokens = markdown.disable("inline").parse(body)
    for token, inside in zip(tokens, [*tokens, None][1:], strict=True):
        if token.map is None or token.level:
            continue
        start, stop = (lines[min(line, len(lines) - 1)] for line in token.map)
        if token.type == "heading_open" and inside is not None:
            children = markdown.enable("inline").parseInline(inside.content)[0].children or []
            label = "".join(child.content for child in children if child.type != "html_inline")
            yield _Mark(start, "prose", int(token.tag[1:]), " ".join(label.split()), stop - start)
        elif token.type in KINDS:
            yield _Mark(start, KINDS[token.type])
            yield _Mark(stop)
