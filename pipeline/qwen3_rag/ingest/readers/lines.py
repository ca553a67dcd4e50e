"""JSON lines: a document each line, BEIR's corpora among them, read as a stream."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.ingest.files import File
from qwen3_rag.records import Document

__all__ = ["json_lines", "record_document"]

KNOWN_KEYS = {"_id", "id", "title", "text", "source", "metadata"}
LONGEST = 64 << 20  # characters of a line


def json_lines(file: File) -> Iterator[Document]:
    """A file with an object each line: "text", and if there are "_id" or "id", "title", "source", "metadata"."""
    with file.open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as lines:
        number = 0
        try:
            while line := lines.readline(LONGEST):
                number += 1
                if line.strip():
                    yield _json_document(line, f"{file.path}:{number}", str(file.path))
        except UnicodeDecodeError as error:
            raise IngestError(f"{file.path}:{number + 1}: not UTF-8 text") from error


def _json_document(line: str, place: str, source: str) -> Document:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise IngestError(f"{place}: not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise IngestError(f'{place}: expected an object with a "text", as {{"_id": …, "title": …, "text": …}}')
    return record_document(record, place, source)


def record_document(record: Mapping[str, Any], place: str, source: str) -> Document:
    """A document from names and values; those that BEIR does not know are kept as metadata, to be filtered by.

    Raises:
        IngestError: A value of the wrong type; `place` names it.
    """
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise IngestError(f"{place}: metadata is {str(metadata)[:60]!r}; expected an object")
    more = {key: value for key, value in record.items() if key not in KNOWN_KEYS}
    name: Any = record.get("_id")
    name = record.get("id") if name is None else name
    try:
        return Document(
            record["text"],
            id=str(name) if isinstance(name, int) else name,
            title=record.get("title") or None,
            source=record.get("source") or source,
            metadata=more | metadata,
        )
    except InvalidArgumentError as error:
        raise IngestError(f"{place}: {error}") from error
