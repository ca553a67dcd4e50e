"""Metadata fields on disk, and the sets of passages that filters allow, kept while their version lasts."""

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
from qwen3_rag.index import bits as sets
from qwen3_rag.index.bits import Bits
from qwen3_rag.index.database import Database
from qwen3_rag.index.filters import KINDS, Condition, Parsed, field_rows, parse_filter, typed

__all__ = ["Fields"]

KEPT = 32 << 20  # bytes of sets
SLICE = 500  # values bound at once
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class _Kept:
    """Passages that met a condition among the first `rows`, as of a commit."""

    commit: int
    rows: int
    allowed: Bits


class Fields(Forked):
    """The indexed metadata of a store.

    Args:
        database: The store's.
        declared: Names of the fields that are indexed; None is all. Others can be filtered on, document by document.
    """

    def __init__(self, database: Database, declared: tuple[str, ...] | None) -> None:
        self.database, self.declared = database, declared
        self._names: dict[str, int] = {}
        self._given: dict[str, int] = {}  # in the transaction that is open
        self._kept: OrderedDict[tuple[int, Condition], _Kept] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Begin with a new lock and nothing kept, as another thread may have been at work on it."""
        self._lock, self._kept = threading.Lock(), OrderedDict()

    def rows_of(
        self, metadata: Mapping[str, Any], first: int, passages: int, *, naming: bool = True
    ) -> list[tuple[Any, ...]]:
        """Rows of the table for a document whose passages begin at `first`.

        With `naming`, within a transaction, a new field is given a number; without, nothing is written, and a field
        that has no number gets -1.
        """
        indexed = metadata if self.declared is None else {k: v for k, v in metadata.items() if k in self.declared}
        if not passages:
            return []
        rows = []
        for key, item, *value in field_rows(indexed):
            number = self._number(key) if naming else self._known(key)
            rows.append((-1 if number is None else number, item, *value, first, passages))
        return rows

    def begin(self) -> None:
        """Forget the names that a transaction which came to nothing gave numbers to."""
        self._given = {}

    def _number(self, name: str) -> int:
        """The field's number, given one if it has none yet, within a transaction."""
        found = self._names.get(name) or self._given.get(name)
        if found is None:
            run = self.database.run
            run("INSERT OR IGNORE INTO field_names (name) VALUES (?)", (name,))
            found = self._given[name] = int(run("SELECT number FROM field_names WHERE name = ?", (name,)).get)
        return found

    def _known(self, name: str) -> int | None:
        if name not in self._names:
            number = self.database.run("SELECT number FROM field_names WHERE name = ?", (name,)).get
            if number is None:
                return None
            self._names[name] = int(number)
        return self._names[name]

    def remove(self, metadata: Mapping[str, Any], first: int, passages: int) -> None:
        """Take a document's rows out, within a transaction."""
        self.database.many(
            "DELETE FROM fields WHERE field = ? AND item = ? AND kind = ? AND value = ? AND first = ?",
            [row[:5] for row in self.rows_of(metadata, first, passages)],
        )

    def allowed(self, filter: Mapping[str, Any], commit: int, generation: int, rows: int) -> Bits:
        """Passages, among the snapshot's `rows`, whose document meets a filter; removed ones may be among them.

        Raises:
            FilterError: The filter cannot be understood, or compares a field of mixed types.
        """
        parsed = parse_filter(filter)
        return self._evaluate(parsed, commit, generation, rows)

    def _evaluate(self, parsed: Parsed | Condition, commit: int, generation: int, rows: int) -> Bits:
        if isinstance(parsed, Condition):
            if self.declared is not None and parsed.field not in self.declared:
                return self._scanned(parsed, rows)
            return self._condition(parsed, commit, generation, rows)
        found = [self._evaluate(part, commit, generation, rows) for part in parsed.parts]
        if parsed.joined == "not":
            return sets.resized(~found[0], rows)
        result = sets.every(rows) if parsed.joined == "and" else sets.none(rows)
        for one in found:
            result = result & one if parsed.joined == "and" else result | one
        return result

    def _condition(self, condition: Condition, commit: int, generation: int, rows: int) -> Bits:
        key = (generation, condition)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept.commit == commit:
            with self._lock:
                self._kept.move_to_end(key)
            return kept.allowed
        if kept is not None and kept.commit < commit:
            # What was removed since is out of every search anyway; what was added has higher rows.
            fresh = self._looked_up(condition, kept.rows, rows)
            allowed = sets.resized(kept.allowed, rows) | fresh
        else:
            allowed = self._looked_up(condition, 0, rows)
        with self._lock:
            if kept is None or kept.commit < commit:
                self._kept[key] = _Kept(commit, rows, allowed)
                self._kept.move_to_end(key)
            while sum(len(x.allowed) for x in self._kept.values()) > KEPT and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return allowed

    def _looked_up(self, condition: Condition, start: int, rows: int) -> Bits:
        field = self._known(condition.field)
        if field is None or start >= rows:
            return sets.none(rows)
        if condition.compare not in ("", "="):
            self._check_one_kind(field, condition.field)
        head = "SELECT first, passages FROM fields WHERE field = ? AND item = ?"
        fixed = (field, condition.item)
        found: list[tuple[int, int]] = []
        if condition.compare == "":
            found = self.database.run(f"{head} AND first >= ?", (*fixed, start)).fetchall()
        elif condition.compare == "=":
            by_kind: dict[int, list[Any]] = {}
            for kind, value in condition.values:
                by_kind.setdefault(kind, []).append(value)
            for kind, values in by_kind.items():
                for at in range(0, len(values), SLICE):
                    part = values[at : at + SLICE]
                    marks = ",".join("?" * len(part))
                    sql = f"{head} AND kind = ? AND value IN ({marks}) AND first >= ?"
                    found += self.database.run(sql, (*fixed, kind, *part, start)).fetchall()
        else:
            kind, value = condition.values[0]
            sql = f"{head} AND kind = ? AND value {condition.compare} ? AND first >= ?"
            found = self.database.run(sql, (*fixed, kind, value, start)).fetchall()
        ranges = np.array(found, dtype=np.int64).reshape(-1, 2)
        return sets.of_ranges(ranges[:, 0], ranges[:, 1], rows)

    def _check_one_kind(self, field: int, name: str) -> None:
        sql = "SELECT EXISTS (SELECT 1 FROM fields WHERE field = ? AND item = 0 AND kind = ?)"
        there = [self.database.run(sql, (field, KINDS[kind])).get for kind in ("number", "text")]
        if all(there):
            raise _mixed(name)

    def _scanned(self, condition: Condition, rows: int) -> Bits:
        """A condition on a field that is not indexed: every document is looked at."""
        found, kinds = [], set()
        for first, passages, raw in self.database.run("SELECT first, passages, metadata FROM documents"):
            metadata = json.loads(raw)
            if condition.field in metadata:
                kinds.add(typed(metadata[condition.field])[0])
                if passages and condition.holds(metadata):
                    found.append((first, passages))
        if condition.compare not in ("", "=") and {KINDS["number"], KINDS["text"]} <= kinds:
            raise _mixed(condition.field)
        ranges = np.array(found, dtype=np.int64).reshape(-1, 2)
        return sets.of_ranges(ranges[:, 0], ranges[:, 1], rows)


def _mixed(name: str) -> FilterError:
    return FilterError(
        f"filter[{name!r}]: the field holds numbers in some documents and texts in others, so larger and smaller have "
        "no meaning; expected one type throughout (or $eq, $in)"
    )
