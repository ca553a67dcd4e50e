"""JSON files and Jupyter notebooks; parsed in another process, because JSON of 64 MB may need gigabytes of memory."""

import json as standard_json
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from qwen3_rag.ingest.child import parse
from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.readers.events import PARSERS, document_of, parsed_elsewhere, whole
from qwen3_rag.ingest.readers.lines import json_document, json_lines
from qwen3_rag.records import Document

__all__ = ["json", "notebook"]


def json(file: File) -> Iterator[Document | Parsed]:
    """Read a JSON file: a list of objects with "text" as JSON Lines, anything else as text under its keys."""
    if _has_lines(file):
        yield from json_lines(file)
        return
    events = whole(parse(file, f"{PARSERS}.structured:json_file", file.text.encode()))
    first = next(events, None)
    if first is None or first[0] != "record":
        yield from document_of(chain([first] if first else [], events), file.stem, titled=False)
        return
    # All at once: time spent on embedding them is not the parser's.
    for number, (_, record) in enumerate(list(chain([first], events)), start=1):
        yield json_document(record, f"{file.path}: record {number}", str(file.path))


def _has_lines(file: File) -> bool:
    """Whether the file's first line is a whole object with text, and more follows: JSON Lines by another name."""
    line, _, rest = file.head.partition(b"\n")
    with suppress(ValueError, RecursionError):
        first = standard_json.loads(line) if rest.strip() else None
        return isinstance(first, dict) and isinstance(first.get("text"), str)
    return False


def notebook(file: File) -> Iterator[Parsed]:
    """Read a Jupyter notebook; the title is its first heading, else the file name."""
    return parsed_elsewhere(file, "structured:notebook", file.text.encode())
