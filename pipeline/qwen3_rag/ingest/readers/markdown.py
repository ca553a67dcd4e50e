"""Markdown: the text is kept as it is; markdown-it finds headings, code blocks and tables."""

import re
from collections.abc import Iterator
from itertools import pairwise

from markdown_it import MarkdownIt

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Kind, Outline, Parsed, Section
from qwen3_rag.records import Document

__all__ = ["markdown"]

FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*\r?\n", re.DOTALL)
TITLE = re.compile(r"^title:(.*)$", re.MULTILINE)
KINDS: dict[str, Kind] = {"fence": "code", "table_open": "table"}


def markdown(file: File) -> Iterator[Parsed]:
    """Read a Markdown file; the title is the front matter's, else the first heading, else the file name."""
    text = file.text
    if not text.strip():
        return
    front = FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    front_title = _named(front.group(1) or "") if front else None
    # Where blocks start: (offset, heading level, heading) or (offset, 0, kind).
    marks = list(_marks(text, begin))
    first = next((label for _, level, label in marks if level), None)
    title = front_title or first or file.stem
    outline = Outline()
    sections = []
    places = [(begin, 0, "prose"), *marks, (len(text), 0, "prose")]
    for (start, level, label), (stop, _, _) in pairwise(places):
        if level:
            outline.enter(level, label)
        kind: Kind = "prose" if level or label == "prose" else "code" if label == "code" else "table"
        if text[start:stop].strip():
            sections.append(Section(start, stop, outline.path(title), kind))
    yield Parsed(Document(text, title=title[:200]), tuple(sections))


def _named(front: str) -> str | None:
    """The title in the front matter, without quotes."""
    match = TITLE.search(front)
    label = match.group(1).strip() if match else ""
    return label[1:-1] if len(label) > 2 and label[0] in "'\"" and label[0] == label[-1] else label or None


def _marks(text: str, begin: int) -> Iterator[tuple[int, int, str]]:
    """Where headings, code blocks and tables start, and where the latter two end."""
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
            yield start, int(token.tag[1:]), " ".join(label.split())
        elif token.type in KINDS:
            yield start, 0, KINDS[token.type]
            yield stop, 0, "prose"
