"""Files to documents: JSON lines (BEIR's too), plain text, Markdown."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.records import Document

__all__ = ["READERS", "read_documents", "source_files"]

HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
KNOWN_KEYS = {"_id", "id", "title", "text", "source", "metadata"}


def source_files(paths: Sequence[str | Path]) -> list[Path]:
    """The readable kinds of files named, and those in the folders named, sorted; hidden ones are passed over.

    Raises:
        IngestError: A path that is not there, or a file named of a kind that no reader knows.
    """
    files: dict[Path, None] = {}
    for given in paths:
        path = Path(given).resolve()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in READERS and p.is_file())
            files.update(dict.fromkeys(p for p in inside if not _hidden(p.relative_to(path))))
        elif not path.exists():
            raise IngestError(f"{given}: no such file or folder")
        elif path.suffix.lower() not in READERS:
            raise IngestError(
                f"{given}: no reader for {path.suffix or 'files without a suffix'}; known: {' '.join(READERS)}"
            )
        else:
            files[path] = None
    return list(files)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_documents(path: Path) -> Iterator[Document]:
    """The documents in one file; a source is the file's full path.

    Raises:
        IngestError: The file cannot be read, is not UTF-8, or a line of it is not a document.
    """
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise IngestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise IngestError(f"{path}: not UTF-8 text at byte {error.start}") from error


def _text(path: Path) -> Iterator[Document]:
    text = path.read_text(encoding="utf-8-sig")
    if text.strip():
        yield Document(text, id=str(path), title=path.stem, source=str(path))


def _markdown(path: Path) -> Iterator[Document]:
    text = path.read_text(encoding="utf-8-sig")
    heading = HEADING.search(text)
    if text.strip():
        yield Document(text, id=str(path), title=heading.group(1) if heading else path.stem, source=str(path))


def _json_lines(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_document(line, f"{path}:{number}", str(path))


def _json_document(line: str, place: str, source: str) -> Document:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise IngestError(f"{place}: not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise IngestError(f'{place}: expected an object with a "text", as {{"_id": …, "title": …, "text": …}}')
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise IngestError(f"{place}: metadata is {str(metadata)[:60]!r}; expected an object")
    # Keys that BEIR does not know are kept as metadata, so that they can be filtered by.
    more = {key: value for key, value in record.items() if key not in KNOWN_KEYS}
    name = record.get("_id", record.get("id"))
    named = {} if name is None else {"id": str(name) if isinstance(name, int) else name}
    try:
        return Document(
            record["text"],
            **named,
            title=record.get("title") or None,
            source=record.get("source") or source,
            metadata=more | metadata,
        )
    except InvalidArgumentError as error:
        raise IngestError(f"{place}: {error}") from error


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".txt": _text,
    ".md": _markdown,
    ".markdown": _markdown,
}
