"""Metadata filters: a small query language, parsed into conditions on single fields.

    {"lang": "en", "year": {"$gte": 2020}}                    all of the conditions
    {"tags": {"$contains": "news"}}                           a list contains a value
    {"$or": [{"kind": {"$in": ["code", "prose"]}}, {"$not": {"draft": True}}]}

Numbers compare with numbers and texts with texts (by code point, so ISO dates compare as dates); a comparison across
types is false, not an error. A document without the field matches only `$ne`, `$nin` and `$exists: False`.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3_rag.arguments import shown
from qwen3_rag.errors import FilterError
from qwen3_rag.records import INT64

__all__ = ["Condition", "Parsed", "field_rows", "parse_filter", "typed"]

COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "$gt": (">", operator.gt),
    "$gte": (">=", operator.ge),
    "$lt": ("<", operator.lt),
    "$lte": ("<=", operator.le),
}
OPERATORS = ["$eq", "$ne", *COMPARISONS, "$in", "$nin", "$exists", "$contains"]
KINDS = {"null": 0, "bool": 1, "number": 2, "text": 3, "list": 4, "object": 5}
MAX_VALUES = 200_000
MAX_DEPTH = 40
MAX_PARTS = 200
Value = tuple[int, Any]  # kind and stored value


@dataclass(frozen=True)
class Condition:
    """A condition on one field that an index can answer.

    Attributes:
        field: The field's name.
        item: 1 tests the items of a list, 0 the value itself.
        compare: "=" for equal to any of `values`, ">", ">=", "<" or "<=" for the one value, or "" for any value.
        values: Kinds and stored values.
    """

    field: str
    item: int
    compare: str
    values: tuple[Value, ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Evaluate the condition on a document's metadata."""
        if self.field not in metadata:
            return False
        value = metadata[self.field]
        rows = [typed(item) for item in value] if self.item and isinstance(value, list) else []
        return any(self._matches(row) for row in (rows if self.item else [typed(value)]))

    def _matches(self, row: Value) -> bool:
        if self.compare == "":
            return True
        if self.compare == "=":
            return any(row[0] == kind and row[1] == value for kind, value in self.values)
        kind, value = self.values[0]
        compare = next(function for sign, function in COMPARISONS.values() if sign == self.compare)
        return row[0] == kind and compare(row[1], value)


@dataclass(frozen=True)
class Parsed:
    """A checked combination of conditions: "and" or "or" of parts, or "not" of one part."""

    operator: str
    parts: tuple["Parsed | Condition", ...]


def field_rows(metadata: Mapping[str, Any]) -> set[tuple[str, int, int, Any]]:
    """Metadata as rows (field, 1 for an item of a list, kind, value) of the table `fields`."""
    rows = set()
    for key, value in metadata.items():
        rows.add((key, 0, *typed(value)))
        if isinstance(value, list | tuple):
            rows.update((key, 1, *typed(item)) for item in value)
    return rows


def typed(value: object) -> Value:
    """Kind and stored value; each JSON type has a separate kind, so that 1, True and "1" stay distinct."""
    if value is None:
        return KINDS["null"], 0
    if isinstance(value, bool):
        return KINDS["bool"], int(value)
    if isinstance(value, int | float):
        return KINDS["number"], value
    if isinstance(value, str):
        return KINDS["text"], value
    return KINDS["list" if isinstance(value, list | tuple) else "object"], 0


def parse_filter(filter: Mapping[str, Any]) -> Parsed | Condition:
    """Check and parse a filter.

    Raises:
        FilterError: Unknown operator, or a value that an operator does not take.
    """
    return _parse(filter, 0)


def _parse(filter: object, depth: int) -> Parsed | Condition:
    if depth > MAX_DEPTH:
        raise FilterError(f"the filter is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(filter, Mapping):
        raise FilterError(f'filter is {shown(filter)}; expected a mapping such as {{"lang": "en"}}')
    return _join([_entry(key, value, depth) for key, value in filter.items()], "and")


def _entry(key: object, value: object, depth: int) -> Parsed | Condition:
    if not isinstance(key, str):
        raise FilterError(f"filter has the key {shown(key)}; expected a field's name (str)")
    _check_unicode(key, key)
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise FilterError(f"{key} is {shown(value)}; expected a non-empty list of filters")
        return _join([_parse(part, depth + 1) for part in value], key[1:])
    if key == "$not":
        return Parsed("not", (_parse(value, depth + 1),))
    if key.startswith("$"):
        raise FilterError(f"unknown operator {key!r}; expected a field's name or one of $and, $or, $not")
    if not isinstance(value, Mapping):
        return _operator(key, "$eq", value)
    if not value:
        raise FilterError(f"filter[{key!r}] is empty; expected a value or operators: {', '.join(OPERATORS)}")
    return _join([_operator(key, name, operand) for name, operand in value.items()], "and")


def _operator(key: str, name: object, operand: Any) -> Parsed | Condition:
    match name:
        case "$eq":
            return Condition(key, 0, "=", (_scalar(key, operand),))
        case "$ne":
            return _negated(Condition(key, 0, "=", (_scalar(key, operand),)))
        case "$in":
            return Condition(key, 0, "=", _many(key, name, operand))
        case "$nin":
            return _negated(Condition(key, 0, "=", _many(key, name, operand)))
        case "$contains":
            return Condition(key, 1, "=", (_scalar(key, operand),))
        case "$exists":
            if not isinstance(operand, bool):
                raise FilterError(f"filter[{key!r}]: $exists is {shown(operand)}; expected True or False")
            exists = Condition(key, 0, "", ())
            return exists if operand else _negated(exists)
        case str() if name in COMPARISONS:
            value = _scalar(key, operand)
            if value[0] not in (KINDS["number"], KINDS["text"]):
                raise FilterError(f"filter[{key!r}]: {name} is {shown(operand)}; expected a number or a text")
            return Condition(key, 0, COMPARISONS[name][0], (value,))
    raise FilterError(f"filter[{key!r}]: unknown operator {shown(name)}; expected one of {', '.join(OPERATORS)}")


def _many(key: str, name: str, operand: object) -> tuple[Value, ...]:
    if isinstance(operand, str) or not isinstance(operand, Sequence | set | frozenset):
        raise FilterError(f"filter[{key!r}]: {name} is {shown(operand)}; expected a list of values")
    if len(operand) > MAX_VALUES:
        raise FilterError(f"filter[{key!r}]: {name} has {len(operand)} values; expected at most {MAX_VALUES}")
    return tuple(dict.fromkeys(_scalar(key, value) for value in operand))


def _scalar(key: str, value: object) -> Value:
    kind, stored = typed(value)
    if kind in (KINDS["list"], KINDS["object"]):
        raise FilterError(f"filter[{key!r}] compares with {shown(value)}; expected a text, number, True, False or None")
    if isinstance(stored, float) and not math.isfinite(stored):
        raise FilterError(f"filter[{key!r}] compares with {shown(value)}; expected a finite number")
    if isinstance(stored, int) and stored not in INT64:
        raise FilterError(f"filter[{key!r}] compares with {shown(value)}; expected at most 64 bits")
    if isinstance(stored, str):
        _check_unicode(stored, key)
    return kind, stored


def _check_unicode(text: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FilterError(f"filter[{key!r}] compares with {text!r}, which is not valid Unicode") from None


def _join(parts: list[Parsed | Condition], operator: str) -> Parsed | Condition:
    if len(parts) > MAX_PARTS:
        raise FilterError(f"the filter joins {len(parts)} conditions; expected at most {MAX_PARTS}, or a list in $in")
    return parts[0] if len(parts) == 1 else Parsed(operator, tuple(parts))


def _negated(part: Parsed | Condition) -> Parsed:
    return Parsed("not", (part,))
