"""Checks that the tables of a store agree with each other and with its commit."""

import json
from collections.abc import Iterator
from typing import Any

from qwen3_rag.index.commit import Commit
from qwen3_rag.index.database import Database
from qwen3_rag.index.fields import Fields

__all__ = ["inconsistencies"]


def inconsistencies(database: Database, fields: Fields, commit: Commit) -> Iterator[str]:
    """Rows that contradict each other, as messages, within a snapshot."""
    run = database.run
    passage_counts = dict(run("SELECT document, count(*) FROM passages GROUP BY document").fetchall())
    expected_fields, stored_fields = 0, int(run("SELECT count(*) FROM fields").get)
    for number, name, passages, first, metadata in run("SELECT number, id, passages, first, metadata FROM documents"):
        if passage_counts.get(number, 0) != passages:
            yield f"document {name!r} has {passage_counts.get(number, 0)} passages; expected {passages}"
        rows = fields.rows_of(json.loads(metadata), first, passages, assign=False)
        expected_fields += len(rows)
        for row in rows:
            if not _has_field(database, row):
                yield f"the indexed fields of document {name!r} do not match its metadata"
    if stored_fields != expected_fields:
        yield f"the table of fields has {stored_fields} rows; expected {expected_fields}"
    if (documents := int(run("SELECT count(*) FROM documents").get)) != commit.documents:
        yield f"there are {documents} documents; expected {commit.documents}"
    if (passages := sum(passage_counts.values())) != commit.live:
        yield f"there are {passages} passages; expected {commit.live}"


def _has_field(database: Database, row: tuple[Any, ...]) -> bool:
    sql = "SELECT EXISTS (SELECT 1 FROM fields WHERE field = ? AND item = ? AND kind = ? AND value = ? AND first = ?)"
    return bool(database.run(sql, row[:5]).get)
