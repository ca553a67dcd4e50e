"""JSON as text under its keys, and Jupyter notebooks.

Why keys become headings: a passage from the middle of a long file still says what it belongs to, and a key such as
"installation" is found as the words of a heading are. Pretty-printed JSON has neither once it is split.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.html import Parts

__all__ = ["json_file", "notebook"]

DEEPEST = 6  # levels of headings; what is deeper is printed as JSON
NAMES = ("title", "name", "id", "key")  # of an object in a list
LONGEST_NAME = 80  # characters
BATCH = 256  # documents sent at once
LONGEST_OUTPUT = 2000  # characters of what a cell printed
KINDS = {
    "fence": "code", "code_block": "code", "table_open": "table",
    "bullet_list_open": "list", "ordered_list_open": "list",
}  # fmt: skip
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def loads(content: bytes, kind: str) -> Any:
    """The value in a JSON file.

    Raises:
        IngestError: It is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise IngestError(f"damaged {kind}: nested too deeply") from None
    except ValueError as error:
        raise IngestError(f"damaged {kind}: not JSON: {error}") from error


def json_file(content: bytes) -> Iterator[list[Event]]:
    """Parse a JSON file: a list of objects with "text" as records, anything else as text."""
    value = loads(content, "JSON")
    if isinstance(value, list) and value and all(_is_record(item) for item in value):
        for start in range(0, len(value), BATCH):
            yield [("record", json.dumps(item)) for item in value[start : start + BATCH]]
        return
    parts = Parts()
    names = (value.get(name) for name in ("title", "name")) if isinstance(value, dict) else ()
    parts.title(next((name for name in names if isinstance(name, str) and len(name) <= LONGEST_NAME), ""))
    try:
        _add(parts, value, 1)
    except RecursionError:
        raise IngestError("damaged JSON: nested too deeply") from None
    yield parts.events


def _is_record(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("text"), str)


def _add(parts: Parts, value: Any, level: int) -> None:
    """Add a value: its plain members as lines, then each other under a heading."""
    if not isinstance(value, dict | list):
        parts.block(_plain(value))
        return
    if level > DEEPEST:
        parts.block(json.dumps(value, ensure_ascii=False, indent=1), "code")
        return
    members = list(value.items()) if isinstance(value, dict) else list(enumerate(value, start=1))
    parts.block("\n".join(_line(key, each, value) for key, each in members if _is_line(each)))
    for key, each in members:
        if not _is_line(each):
            parts.heading(level, _name(key, each))
            _add(parts, each, level + 1)


def _is_line(value: Any) -> bool:
    """Whether a value is written on the line of its key: no object, and no list with one."""
    if isinstance(value, list):
        return not any(isinstance(item, dict | list) for item in value)
    return not isinstance(value, dict) or not value


def _line(key: str | int, value: Any, of: Any) -> str:
    if isinstance(value, list):
        text = ", ".join(map(_plain, value))
    else:
        text = "" if isinstance(value, dict) else _plain(value)
    return text if isinstance(of, list) else f"{key}: {text}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(key: str | int, value: Any) -> str:
    """The heading of a value: its key, or in a list its own name, else its number."""
    if isinstance(key, int) and isinstance(value, dict):
        names = (str(value[name]) for name in NAMES if isinstance(value.get(name), str | int))
        return next((name for name in names if name.strip() and len(name) <= LONGEST_NAME), str(key))
    return str(key)


def notebook(content: bytes) -> Iterator[list[Event]]:
    """Parse a notebook (.ipynb) of version 3 or 4: Markdown with its headings, code, and what it printed."""
    value = loads(content, "notebook")
    cells = _cells(value)
    if cells is None:
        raise IngestError("damaged notebook: it has no list of cells")
    title = value["metadata"].get("title") if isinstance(value.get("metadata"), dict) else None
    parts = Parts()
    parts.title(title if isinstance(title, str) else "")
    for cell in cells:
        if isinstance(cell, dict):
            _add_cell(parts, cell)
        yield parts.events
        parts = Parts()


def _cells(value: Any) -> list[Any] | None:
    if not isinstance(value, dict):
        return None
    sheets = value.get("worksheets")
    if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict):  # version 3
        value = sheets[0]
    cells = value.get("cells")
    return cells if isinstance(cells, list) else None


def _add_cell(parts: Parts, cell: dict[str, Any]) -> None:
    source = _joined(cell.get("source", cell.get("input")))
    kind = cell.get("cell_type")
    if kind == "markdown":
        add_markdown(parts, source)
    elif kind == "heading":
        level = cell.get("level")
        parts.heading(level if type(level) is int and 1 <= level <= 6 else 1, source)
    elif kind == "code":
        parts.block(source, "code")
        outputs = cell.get("outputs")
        printed = [_printed(each) for each in outputs if isinstance(each, dict)] if isinstance(outputs, list) else []
        text = ANSI.sub("", "\n".join(filter(None, printed)))
        parts.block(text if len(text) <= LONGEST_OUTPUT else text[:LONGEST_OUTPUT] + " …", "code")
    else:
        parts.block(source)


def _joined(value: Any) -> str:
    """A text of a notebook: a string, or a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _printed(output: dict[str, Any]) -> str:
    """What an output shows as text; nothing for a picture."""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    data = output.get("data", output)
    if not isinstance(data, dict) or any(str(name).startswith("image/") or name in ("png", "jpeg") for name in data):
        return ""
    return _joined(data.get("text/plain", data.get("text"))).strip("\n")


def add_markdown(parts: Parts, text: str) -> None:
    """Add a Markdown text, block by block, as it is written."""
    markdown = MarkdownIt("commonmark").enable("table").disable("inline")
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    tokens = markdown.parse(text)
    for place, token in enumerate(tokens):
        if token.map is None or token.level:
            continue
        source = "".join(lines[slice(*token.map)])
        if token.type == "heading_open":
            parts.heading(int(token.tag[1:]), tokens[place + 1].content)
        else:
            parts.block(source, KINDS.get(token.type, "prose"))
