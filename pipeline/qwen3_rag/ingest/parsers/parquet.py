"""Parquet: some rows at a time, because a parser has a time limit and a file may have millions of rows."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import imported
from qwen3_rag.ingest.messages import Event

__all__ = ["rows"]

ROWS = 64  # decoded at once
ANSWER_ROWS, ANSWER = 1024, 1 << 20  # rows and characters after which an answer ends
LARGEST = 16 << 20  # characters of a row


@dataclass
class _Place:
    """Where the last answer ended, so that the next need not skip the rows before it."""

    path: str
    row: int
    batches: Iterator[Any]


_last: list[_Place] = []


def rows(content: bytes) -> Iterator[list[Event]]:
    """Yield records of rows, not all of them; the content is JSON: the file's "path" and the first "row", from 0."""
    request = json.loads(content)
    try:
        place = _place(request["path"], request["row"])
        length, begun = 0, place.row
        for batch in place.batches:
            records = [_record(row, place.row + number) for number, row in enumerate(batch.to_pylist(), start=1)]
            place.row += len(records)
            length += sum(map(len, records))
            yield [("record", record) for record in records]
            if length > ANSWER or place.row - begun >= ANSWER_ROWS:
                break
        _last.append(place)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise IngestError(f"broken Parquet: {str(error)[:200]}") from error


def _place(path: str, row: int) -> _Place:
    place = _last.pop() if _last else None
    if place is not None and (place.path, place.row) == (path, row):
        return place
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's threads would fill the address space of a large machine
    arrow = imported(lambda: __import__("pyarrow.parquet"), "pyarrow", "Parquet")
    arrow.set_memory_pool(arrow.system_memory_pool())
    table = arrow.parquet.ParquetFile(path, pre_buffer=False)
    columns = [each.name for each in table.schema_arrow if not _is_binary(arrow.types, each.type)]
    first, skipped = _group(table.metadata, row)
    groups = list(range(first, table.metadata.num_row_groups))
    batches = table.iter_batches(ROWS, groups, columns, use_threads=False)
    return _Place(path, row, _after(batches, row - skipped))


def _is_binary(types: Any, kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _group(metadata: Any, row: int) -> tuple[int, int]:
    """The group of rows that has this row, and how many rows are before the group."""
    before = 0
    for number in range(metadata.num_row_groups):
        count = metadata.row_group(number).num_rows
        if row < before + count:
            return number, before
        before += max(count, 0)
    return metadata.num_row_groups, before


def _after(batches: Iterator[Any], skipped: int) -> Iterator[Any]:
    """The batches without the first rows."""
    for batch in batches:
        if skipped < len(batch):
            yield batch.slice(skipped)
        skipped = max(skipped - len(batch), 0)


def _record(row: dict[str, Any], number: int) -> str:
    record = json.dumps({name: _plain(value) for name, value in row.items()})
    if len(record) > LARGEST:
        raise IngestError(f"too large: row {number} has more than {LARGEST >> 20} MiB")
    return record


def _plain(value: Any) -> Any:
    """A cell as a JSON value; nothing for bytes, such as pictures."""
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)
