"""CSV, TSV and Parquet: one document per row, streamed."""

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

LONGEST = 16 << 20  # maximum characters per cell
ROWS = 512  # per batch of a Parquet file


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
        rows = standard_csv.reader(lines, delimiter=delimiter)
        try:
            names = [name.strip() for name in next(rows, [])]
            if names and (len(set(names)) < len(names) or "" in names):
                raise IngestError(f"{file.path}: header row is {names[:8]}; expected unique, non-empty column names")
            for row in rows:
                if any(cell.strip() for cell in row):
                    if len(row) > len(names):
                        raise IngestError(
                            f"{file.path}:{rows.line_num}: {len(row)} cells; expected {len(names)} as in the header"
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
        return "utf-8-sig"  # too large to detect the encoding


def _delimiter(sample: str) -> str:
    try:
        return standard_csv.Sniffer().sniff(sample, ",;\t|").delimiter
    except standard_csv.Error:
        return ","


def parquet(file: File) -> Iterator[Document]:
    """Read a Parquet file; columns as in `csv`."""
    arrow = imported(lambda: __import__("pyarrow.parquet").parquet, "pyarrow", "Parquet")
    number = 0
    try:
        with arrow.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield _document(row, f"{file.path}:{number}", file)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
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
