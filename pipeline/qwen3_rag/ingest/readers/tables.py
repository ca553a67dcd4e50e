"""CSV, TSV and Parquet: a document each row, read as a stream."""

import csv as standard_csv
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import File, imported
from qwen3_rag.ingest.readers.lines import record_document
from qwen3_rag.records import Document

__all__ = ["csv", "parquet"]

LONGEST = 16 << 20  # characters of a cell
ROWS = 512  # of a Parquet file at once


def csv(file: File) -> Iterator[Document]:
    """A CSV or TSV file with a row of names.

    Columns named text, title, id and source mean what they say. Without a column "text", a document's text is all of
    its row, "name: value" a line, and its columns are metadata as well.
    """
    standard_csv.field_size_limit(LONGEST)
    with file.open() as raw, io.TextIOWrapper(raw, encoding=_encoding(file), newline="") as lines:
        sample = lines.read(8192)
        delimiter = "\t" if file.suffix == ".tsv" else _delimiter(sample)
        lines.seek(0)
        rows = standard_csv.reader(lines, delimiter=delimiter)
        try:
            names = [name.strip() for name in next(rows, [])]
            if names and (len(set(names)) < len(names) or "" in names):
                raise IngestError(f"{file.path}: its first row is {names[:8]}; expected names of columns, each once")
            for row in rows:
                if any(cell.strip() for cell in row):
                    if len(row) > len(names):
                        raise IngestError(
                            f"{file.path}:{rows.line_num}: {len(row)} cells; expected {len(names)}, as in the first row"
                        )
                    yield _document(dict(zip(names, row, strict=False)), f"{file.path}:{rows.line_num}", file)
        except (standard_csv.Error, UnicodeDecodeError) as error:
            raise IngestError(f"{file.path}:{rows.line_num}: {error}") from error


def _encoding(file: File) -> str:
    try:
        return "utf-8-sig" if (encoding := file.encoding) == "utf-8" else encoding
    except IngestError:
        if file.binary:
            raise
        return "utf-8-sig"  # too large to look through


def _delimiter(sample: str) -> str:
    try:
        return standard_csv.Sniffer().sniff(sample, ",;\t|").delimiter
    except standard_csv.Error:
        return ","


def parquet(file: File) -> Iterator[Document]:
    """A Parquet file; columns as in `csv`."""
    arrow = imported(lambda: __import__("pyarrow.parquet").parquet, "pyarrow", "Parquet")
    number = 0
    try:
        with arrow.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield _document(row, f"{file.path}:{number}", file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise IngestError(f"{file.path}: broken Parquet: {str(error)[:200]}") from error


def _document(row: Mapping[str, Any], place: str, file: File) -> Document:
    values = {name: plain for name, value in row.items() if (plain := _plain(value)) is not None and plain != ""}
    if not isinstance(values.get("text"), str):
        lines = [f"{name}: {value}" for name, value in values.items() if name not in ("id", "_id", "source")]
        values["text"] = "\n".join(lines)
    if "id" not in values:
        values.setdefault("_id", place)
    return record_document(values, place, str(file.path))


def _plain(value: Any) -> Any:
    """A cell as a JSON value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)
