"""CSV, TSV and Parquet: one document per row, streamed."""

import csv as standard_csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.child import parse
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.readers.events import PARSERS, whole
from qwen3_rag.ingest.readers.lines import record_document
from qwen3_rag.records import Document

__all__ = ["csv", "parquet"]

LONGEST = 16 << 20  # maximum characters per row


def csv(file: File) -> Iterator[Document]:
    """Read a CSV or TSV file with a header row.

    Columns text, title, id and source fill those fields of the document; the others become metadata. Without a column
    "text", the text is the whole row, one "name: value" per line.
    """
    standard_csv.field_size_limit(LONGEST)
    with file.open() as raw, io.TextIOWrapper(raw, encoding=_encoding(file), newline="") as lines:
        sample = lines.read(8192)
        delimiter = "\t" if file.suffix == ".tsv" else _delimiter(sample)
        lines.seek(0)
        limited = _Lines(lines)
        rows = standard_csv.reader(limited, delimiter=delimiter)
        try:
            names = [name.strip() for name in next(rows, [])]
            if names and (len(set(names)) < len(names) or "" in names):
                raise ContentError(file.path, f"header row is {names[:8]}; expected unique, non-empty column names")
            for row in rows:
                limited.left = LONGEST
                if any(cell.strip() for cell in row):
                    if len(row) > len(names):
                        reason = f"{len(row)} cells; expected {len(names)} as in the header"
                        raise ContentError(f"{file.path}:{rows.line_num}", reason)
                    yield _document(dict(zip(names, row, strict=False)), f"{file.path}:{rows.line_num}", file)
        except (standard_csv.Error, UnicodeDecodeError) as error:
            raise ContentError(f"{file.path}:{rows.line_num}", str(error)) from error


class _Lines:
    """The lines of a file; a row of them is an error when it is longer than `LONGEST`."""

    def __init__(self, lines: TextIO) -> None:
        self._lines, self.left = lines, LONGEST

    def __iter__(self) -> Iterator[str]:
        while line := self._lines.readline(self.left + 1):
            self.left -= len(line)
            if self.left < 0:
                raise standard_csv.Error(f"too large: more than {LONGEST >> 20} MiB in one row")
            yield line


def _encoding(file: File) -> str:
    try:
        return "utf-8-sig" if (encoding := file.encoding) == "utf-8" else encoding
    except IngestError:
        if file.binary:
            raise
        return "utf-8-sig"  # too large to detect the encoding


def _delimiter(sample: str) -> str:
    try:
        return standard_csv.Sniffer().sniff(sample, ",;\t|").delimiter
    except standard_csv.Error:
        return ","


def parquet(file: File) -> Iterator[Document]:
    """Read a Parquet file; columns as in `csv`, without those of bytes."""
    number = 0
    while True:
        request = json.dumps({"path": os.path.realpath(file.path), "row": number})
        # All at once: time spent on embedding the rows is not the parser's.
        records = list(whole(parse(file, f"{PARSERS}.parquet:rows", request.encode())))
        for _, record in records:
            number += 1
            yield _document(json.loads(record), f"{file.path}:{number}", file)
        if not records:
            return


def _document(row: Mapping[str, Any], place: str, file: File) -> Document:
    values = {name: value for name, value in row.items() if value is not None and value != ""}
    if not isinstance(values.get("text"), str):
        lines = [f"{name}: {value}" for name, value in values.items() if name not in ("id", "_id", "source")]
        values["text"] = "\n".join(lines)
    if "id" not in values:
        values.setdefault("_id", place)
    return record_document(values, place, str(file.path))
