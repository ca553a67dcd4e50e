"""JSON Lines, such as BEIR corpora: one document per line, streamed."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.records import Document

__all__ = ["json_document", "json_lines", "record_document"]

KNOWN_KEYS = {"_id", "id", "title", "text", "source", "metadata"}
LONGEST = 16 << 20  # maximum characters per line; JSON made to fill memory needs up to twenty times as much


def json_lines(file: File) -> Iterator[Document]:
    """Read one object per line: "text", and optionally "_id" or "id", "title", "source", "metadata"."""
    with file.open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as lines:
        number = 0
        try:
            while line := lines.readline(LONGEST):
                number += 1
                if len(line) == LONGEST:
                    reason = f"not JSON Lines: more than {LONGEST >> 20} MiB in one line"
                    raise ContentError(f"{file.path}:{number}", reason)
                if line.strip():
                    yield json_document(line, f"{file.path}:{number}", str(file.path))
        except UnicodeDecodeError as error:
            raise ContentError(f"{file.path}:{number + 1}", "not UTF-8 text") from error


def json_document(line: str, place: str, source: str) -> Document:
    """Build a document from a JSON object with a "text" string.

    Raises:
        ContentError: It is not such an object; the message starts with `place`.
    """
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ContentError(place, f"not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ContentError(place, 'expected an object with a "text" string, such as {"_id": …, "text": …}')
    return record_document(record, place, source)


def record_document(record: Mapping[str, Any], place: str, source: str) -> Document:
    """Build a document from a record; keys other than `KNOWN_KEYS` become metadata.

    Raises:
        ContentError: A value has the wrong type; the message starts with `place`.
    """
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ContentError(place, f"metadata is {str(metadata)[:60]!r}; expected an object")
    extra = {key: value for key, value in record.items() if key not in KNOWN_KEYS}
    document_id: Any = record.get("_id")
    document_id = record.get("id") if document_id is None else document_id
    try:
        return Document(
            record["text"],
            id=str(document_id) if isinstance(document_id, int) else document_id,
            title=record.get("title") or None,
            source=record.get("source") or source,
            metadata=extra | metadata,
        )
    except InvalidArgumentError as error:
        raise ContentError(place, str(error)) from error
