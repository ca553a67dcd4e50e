"""Metadata filters: a small language compiled to SQL in which every name and value is a bound parameter.

    {"lang": "en", "year": {"$gte": 2020}}                    all of several conditions
    {"tags": {"$contains": "news"}}                           a list holds a value
    {"$or": [{"kind": {"$in": ["code", "prose"]}}, {"$not": {"draft": True}}]}

Numbers compare with numbers and texts with texts; a comparison across types is false, not an error. A document without
the field meets no condition on it but `$ne`, `$nin` and `$exists: False`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qwen3_rag.errors import FilterError
from qwen3_rag.records import INT64

__all__ = ["Condition", "compile_filter", "field_rows"]

Condition = tuple[str, list[Any]]
COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ["$eq", "$ne", *COMPARISONS, "$in", "$nin", "$exists", "$contains"]
MOST_VALUES = 30_000  # SQLite binds no more than 32,766 parameters
MOST_DEPTH = 40
MOST_PARTS = 200


def field_rows(metadata: Mapping[str, Any]) -> list[tuple[str, str, Any, int]]:
    """Metadata as rows (key, kind, value, whether an item of a list) of the table `fields`."""
    rows = []
    for key, value in metadata.items():
        rows.append((key, *_typed(value), 0))
        if isinstance(value, list | tuple):
            rows += [(key, *_typed(item), 1) for item in value]
    return rows


def _typed(value: object) -> tuple[str, Any]:
    """Kind and stored value: a kind of its own for each JSON type, so that 1, True and "1" stay apart."""
    if value is None:
        return "null", None
    if isinstance(value, bool):
        return "bool", int(value)
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        return "text", value
    return ("list" if isinstance(value, list | tuple) else "object"), None


def compile_filter(filter: Mapping[str, Any]) -> Condition:
    """SQL condition on `d.number`, a document's number, and its parameters.

    Raises:
        FilterError: Unknown operator, or a value that an operator does not take.
    """
    sql, values = _all_of(filter, 0)
    if len(values) > MOST_VALUES:
        raise FilterError(f"the filter has {len(values)} values; expected at most {MOST_VALUES}")
    return sql, values


def _all_of(filter: object, depth: int) -> Condition:
    if depth > MOST_DEPTH:
        raise FilterError(f"the filter is nested deeper than {MOST_DEPTH} levels")
    if not isinstance(filter, Mapping):
        raise FilterError(f'filter is {filter!r}; expected a mapping such as {{"lang": "en"}}')
    return _join([_one(key, value, depth) for key, value in filter.items()], "AND", "1")


def _one(key: object, value: object, depth: int) -> Condition:
    if not isinstance(key, str):
        raise FilterError(f"filter has the key {key!r}; expected a field's name (str)")
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise FilterError(f"{key} is {value!r}; expected a list of filters that is not empty")
        return _join([_all_of(part, depth + 1) for part in value], key[1:].upper(), "1")
    if key == "$not":
        sql, values = _all_of(value, depth + 1)
        return f"NOT {sql}", values
    if key.startswith("$"):
        raise FilterError(f"unknown operator {key!r}; expected a field's name or one of $and, $or, $not")
    if not isinstance(value, Mapping):
        return _operator(key, "$eq", value)
    if not value:
        raise FilterError(f"filter[{key!r}] is empty; expected a value or operators: {', '.join(OPERATORS)}")
    return _join([_operator(key, operator, operand) for operator, operand in value.items()], "AND", "1")


def _operator(key: str, operator: object, operand: Any) -> Condition:
    match operator:
        case "$eq":
            return _found(key, *_equal(key, operand))
        case "$ne":
            return _negated(_found(key, *_equal(key, operand)))
        case "$in" | "$nin":
            found = _found(key, *_any_of(key, operator, operand))
            return found if operator == "$in" else _negated(found)
        case "$contains":
            sql, values = _equal(key, operand)
            return _found(key, sql, values, item=1)
        case "$exists":
            if not isinstance(operand, bool):
                raise FilterError(f"filter[{key!r}]: $exists is {operand!r}; expected True or False")
            found = _found(key, "1", [])
            return found if operand else _negated(found)
        case str() if operator in COMPARISONS:
            kind, value = _scalar(key, operand)
            if kind not in ("number", "text"):
                raise FilterError(f"filter[{key!r}]: {operator} is {operand!r}; expected a number or a text")
            return _found(key, f"kind = ? AND value {COMPARISONS[operator]} ?", [kind, value])
    raise FilterError(f"filter[{key!r}]: unknown operator {operator!r}; expected one of {', '.join(OPERATORS)}")


def _found(key: str, sql: str, values: list[Any], item: int = 0) -> Condition:
    return f"d.number IN (SELECT document FROM fields WHERE key = ? AND item = {item} AND {sql})", [key, *values]


def _equal(key: str, operand: object) -> Condition:
    kind, value = _scalar(key, operand)
    return "kind = ? AND value IS ?", [kind, value]


def _any_of(key: str, operator: str, operand: object) -> Condition:
    if isinstance(operand, str) or not isinstance(operand, Sequence | set | frozenset):
        raise FilterError(f"filter[{key!r}]: {operator} is {operand!r}; expected a list of values")
    by_kind: dict[str, list[Any]] = {}
    for value in operand:
        kind, stored = _scalar(key, value)
        by_kind.setdefault(kind, []).append(stored)
    parts: list[Condition] = []
    for kind, stored_values in by_kind.items():
        if kind == "null":
            parts.append(("kind = ?", [kind]))
        else:
            marks = ",".join("?" * len(stored_values))
            parts.append((f"(kind = ? AND value IN ({marks}))", [kind, *stored_values]))
    return _join(parts, "OR", "0")


def _scalar(key: str, value: object) -> tuple[str, Any]:
    kind, stored = _typed(value)
    if kind in ("list", "object"):
        raise FilterError(f"filter[{key!r}] compares with {value!r}; expected a text, number, True, False or None")
    if isinstance(stored, float) and not math.isfinite(stored):
        raise FilterError(f"filter[{key!r}] compares with {value!r}; expected a finite number")
    if isinstance(stored, int) and stored not in INT64:
        raise FilterError(f"filter[{key!r}] compares with {value!r}; expected at most 64 bits")
    if isinstance(stored, str):
        try:
            stored.encode()
        except UnicodeEncodeError:
            raise FilterError(f"filter[{key!r}] compares with {value!r}, which is not valid Unicode") from None
    return kind, stored


def _join(parts: list[Condition], word: str, empty: str) -> Condition:
    if len(parts) > MOST_PARTS:
        raise FilterError(f"the filter joins {len(parts)} conditions; expected at most {MOST_PARTS}, or a list in $in")
    if not parts:
        return f"({empty})", []
    return "(" + f" {word} ".join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]


def _negated(condition: Condition) -> Condition:
    return f"NOT {condition[0]}", condition[1]
