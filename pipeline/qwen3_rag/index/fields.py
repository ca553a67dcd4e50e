"""Indexed metadata fields, and the bitmaps of passages that filters allow, cached and updated with each commit."""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import FilterError
from qwen3_rag.forking import Forked
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.commit import Commit
from qwen3_rag.index.database import Database
from qwen3_rag.index.filters import KINDS, Condition, Parsed, field_rows, parse_filter, typed

__all__ = ["Fields"]

CACHE = 32 << 20  # bytes of cached bitmaps
SLICE = 500  # values bound to one statement
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class _CachedSet:
    """Passages among the first `rows` that meet a condition, as of a commit."""

    commit: int
    rows: int
    allowed: Bitmap


class Fields(Forked):
    """The indexed metadata of a store.

    Args:
        database: The store's database.
        declared: Names of the indexed fields; None is all. Filters on other fields scan every document.
    """

    def __init__(self, database: Database, declared: tuple[str, ...] | None) -> None:
        self.database, self.declared = database, declared
        self._names: dict[str, int] = {}
        self._new_names: dict[str, int] = {}  # added by the open transaction
        self._cache: OrderedDict[tuple[int, Condition], _CachedSet] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Start with a new lock and an empty cache, which another thread may have been changing."""
        self._lock, self._cache = threading.Lock(), OrderedDict()

    def rows_of(
        self, metadata: Mapping[str, Any], first: int, passages: int, *, assign: bool = True
    ) -> list[tuple[Any, ...]]:
        """Rows of the table for a document whose passages begin at `first`.

        With `assign`, within a transaction, a new field gets a number; without, nothing is written, and a field without
        a number gets -1.
        """
        indexed = metadata if self.declared is None else {k: v for k, v in metadata.items() if k in self.declared}
        if not passages:
            return []
        rows = []
        for key, item, *value in field_rows(indexed):
            number = self._number(key) if assign else self._existing_number(key)
            rows.append((-1 if number is None else number, item, *value, first, passages))
        return rows

    def begin(self) -> None:
        """Start a transaction: discard names added by one that was rolled back."""
        self._new_names = {}

    def _number(self, name: str) -> int:
        """The field's number, assigned if it has none yet, within a transaction."""
        number = self._names.get(name) or self._new_names.get(name)
        if number is None:
            run = self.database.run
            run("INSERT OR IGNORE INTO field_names (name) VALUES (?)", (name,))
            number = self._new_names[name] = int(run("SELECT number FROM field_names WHERE name = ?", (name,)).get)
        return number

    def _existing_number(self, name: str) -> int | None:
        if name not in self._names:
            number = self.database.run("SELECT number FROM field_names WHERE name = ?", (name,)).get
            if number is None:
                return None
            self._names[name] = int(number)
        return self._names[name]

    def remove(self, metadata: Mapping[str, Any], first: int, passages: int) -> None:
        """Delete a document's rows, within a transaction."""
        self.database.many(
            "DELETE FROM fields WHERE field = ? AND item = ? AND kind = ? AND value = ? AND first = ?",
            [row[:5] for row in self.rows_of(metadata, first, passages)],
        )

    def allowed(self, filter: Mapping[str, Any], commit: Commit) -> Bitmap:
        """Passages of the snapshot's commit whose document meets a filter; may include removed passages.

        Raises:
            FilterError: The filter is invalid, or orders a field that has both numbers and texts.
        """
        return self._evaluate(parse_filter(filter), commit)

    def _evaluate(self, parsed: Parsed | Condition, commit: Commit) -> Bitmap:
        rows = commit.rows
        if isinstance(parsed, Condition):
            if self.declared is not None and parsed.field not in self.declared:
                return self._scan(parsed, rows)
            return self._condition(parsed, commit)
        parts = [self._evaluate(part, commit) for part in parsed.parts]
        if parsed.operator == "not":
            return bitmap.resized(~parts[0], rows)
        result = bitmap.full(rows) if parsed.operator == "and" else bitmap.empty(rows)
        for part in parts:
            result = result & part if parsed.operator == "and" else result | part
        return result

    def _condition(self, condition: Condition, commit: Commit) -> Bitmap:
        key, rows = (commit.generation, condition), commit.rows
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None and cached.commit == commit.number:
            with self._lock:
                self._cache.move_to_end(key)
            return cached.allowed
        if cached is not None and cached.commit < commit.number:
            # Passages removed since are excluded from every search anyway; added ones have higher rows.
            added = self._look_up(condition, cached.rows, rows)
            allowed = bitmap.resized(cached.allowed, rows) | added
        else:
            allowed = self._look_up(condition, 0, rows)
        with self._lock:
            if cached is None or cached.commit < commit.number:
                self._cache[key] = _CachedSet(commit.number, rows, allowed)
                self._cache.move_to_end(key)
            while sum(len(x.allowed) for x in self._cache.values()) > CACHE and len(self._cache) > 1:
                self._cache.popitem(last=False)
        return allowed

    def _look_up(self, condition: Condition, start: int, rows: int) -> Bitmap:
        field = self._existing_number(condition.field)
        if field is None or start >= rows:
            return bitmap.empty(rows)
        if condition.compare not in ("", "="):
            self._check_one_kind(field, condition.field)
        head = "SELECT first, passages FROM fields WHERE field = ? AND item = ?"
        key = (field, condition.item)
        spans: list[tuple[int, int]] = []
        if condition.compare == "":
            spans = self.database.run(f"{head} AND first >= ?", (*key, start)).fetchall()
        elif condition.compare == "=":
            by_kind: dict[int, list[Any]] = {}
            for kind, value in condition.values:
                by_kind.setdefault(kind, []).append(value)
            for kind, values in by_kind.items():
                for at in range(0, len(values), SLICE):
                    part = values[at : at + SLICE]
                    marks = ",".join("?" * len(part))
                    sql = f"{head} AND kind = ? AND value IN ({marks}) AND first >= ?"
                    spans += self.database.run(sql, (*key, kind, *part, start)).fetchall()
        else:
            kind, value = condition.values[0]
            sql = f"{head} AND kind = ? AND value {condition.compare} ? AND first >= ?"
            spans = self.database.run(sql, (*key, kind, value, start)).fetchall()
        ranges = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return bitmap.from_ranges(ranges[:, 0], ranges[:, 1], rows)

    def _check_one_kind(self, field: int, name: str) -> None:
        sql = "SELECT EXISTS (SELECT 1 FROM fields WHERE field = ? AND item = 0 AND kind = ?)"
        present = [self.database.run(sql, (field, KINDS[kind])).get for kind in ("number", "text")]
        if all(present):
            raise _mixed(name)

    def _scan(self, condition: Condition, rows: int) -> Bitmap:
        """Evaluate a condition on a field that is not indexed, by reading every document's metadata."""
        spans, kinds = [], set()
        for first, passages, raw in self.database.run("SELECT first, passages, metadata FROM documents"):
            metadata = json.loads(raw)
            if condition.field in metadata:
                kinds.add(typed(metadata[condition.field])[0])
                if passages and condition.matches(metadata):
                    spans.append((first, passages))
        if condition.compare not in ("", "=") and {KINDS["number"], KINDS["text"]} <= kinds:
            raise _mixed(condition.field)
        ranges = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return bitmap.from_ranges(ranges[:, 0], ranges[:, 1], rows)


def _mixed(name: str) -> FilterError:
    return FilterError(
        f"filter[{name!r}]: the field has numbers in some documents and texts in others, which have no common order; "
        "expected one type throughout (or $eq, $in)"
    )
