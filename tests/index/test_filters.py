"""Filters select the same documents as a direct evaluation on every document."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_rag import Document
from qwen3_rag.errors import FilterError
from qwen3_rag.index.filters import parse_filter
from qwen3_rag.index.store import PassageRow, Store

FIELDS = ["a", "b", 'we"ird $.k', "é"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["", "x", "y", "1", "é'"]),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.1, 0.5, 1.0]),
)  # fmt: skip
METADATA = st.dictionaries(st.sampled_from(FIELDS), st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)
ORDERED = st.one_of(
    st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", "x", "y"])
)
OPERATIONS = st.one_of(
    SCALARS,
    st.fixed_dictionaries({"$eq": SCALARS}),
    st.fixed_dictionaries({"$ne": SCALARS}),
    st.fixed_dictionaries({"$gte": ORDERED}, optional={"$lt": ORDERED}),
    st.fixed_dictionaries({"$gt": ORDERED}),
    st.fixed_dictionaries({"$lte": ORDERED}),
    st.fixed_dictionaries({"$in": st.lists(SCALARS, max_size=3)}),
    st.fixed_dictionaries({"$nin": st.lists(SCALARS, max_size=3)}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$contains": SCALARS}),
)
FILTERS = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), OPERATIONS, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)


def kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def equal(value: object, operand: object) -> bool:
    return kind(value) == kind(operand) and value == operand


def matches(metadata: Mapping[str, Any], filter: Mapping[str, Any]) -> bool:
    """Reference evaluation of a filter."""
    for key, condition in filter.items():
        if key == "$and":
            result = all(matches(metadata, part) for part in condition)
        elif key == "$or":
            result = any(matches(metadata, part) for part in condition)
        elif key == "$not":
            result = not matches(metadata, condition)
        else:
            operators = condition if isinstance(condition, dict) else {"$eq": condition}
            result = all(matches_operator(metadata, key, *entry) for entry in operators.items())
        if not result:
            return False
    return True


def matches_operator(metadata: Mapping[str, Any], key: str, operator: str, operand: Any) -> bool:
    exists, value = key in metadata, metadata.get(key)
    match operator:
        case "$eq":
            return exists and equal(value, operand)
        case "$ne":
            return not (exists and equal(value, operand))
        case "$in":
            return exists and any(equal(value, o) for o in operand)
        case "$nin":
            return not (exists and any(equal(value, o) for o in operand))
        case "$exists":
            return exists is operand
        case "$contains":
            return isinstance(value, list) and any(equal(item, operand) for item in value)
    if not exists or kind(value) != kind(operand):
        return False
    return {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand}[
        operator
    ]


def ordered_fields(filter: Mapping[str, Any]) -> Iterator[str]:
    """Fields that a filter compares with $gt, $gte, $lt or $lte."""
    for key, condition in filter.items():
        if key in ("$and", "$or"):
            for part in condition:
                yield from ordered_fields(part)
        elif key == "$not":
            yield from ordered_fields(condition)
        elif isinstance(condition, dict) and set(condition) & {"$gt", "$gte", "$lt", "$lte"}:
            yield key


@pytest.mark.parametrize("fields", [None, ("a", "é")])
@given(
    documents=st.lists(METADATA, max_size=6), filters=st.lists(FILTERS, min_size=1, max_size=6), split=st.integers(0, 6)
)
@settings(max_examples=80, deadline=None)
def test_a_filter_allows_the_same_passages_as_direct_evaluation(
    tmp_path_factory: pytest.TempPathFactory,
    fields: tuple[str, ...] | None,
    documents: list[dict[str, Any]],
    filters: list[dict[str, Any]],
    split: int,
) -> None:
    store = Store.create(tmp_path_factory.mktemp("filters"), {}, dimensions=2, fields=fields)
    row = PassageRow(0, 1, b"d", np.zeros(2, dtype=np.float32))
    rows = [(Document("x", str(i), metadata=metadata), [row] * (1 + i % 2)) for i, metadata in enumerate(documents)]
    # In two commits, so that bitmaps cached at the first are updated at the second.
    for part in (rows[:split], rows[split:]):
        store.write(part)
        written = documents[: store.count()[0]]
        for filter in filters:
            kinds = [{kind(m[key]) for m in written if key in m} for key in ordered_fields(filter)]
            if any({"number", "str"} <= of_field for of_field in kinds):
                with pytest.raises(FilterError, match="numbers in some documents and texts in others"):
                    store.allowed(filter)
                continue
            allowed = {int(p.document_id) for p in store.passages(store.allowed(filter).tolist()).values()}
            assert allowed == {i for i, metadata in enumerate(written) if matches(metadata, filter)}, filter
    store.close()


def test_cached_filter_bitmaps_follow_writes(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", {}, dimensions=2)
    row = PassageRow(0, 1, b"d", np.zeros(2, dtype=np.float32))
    store.write([(Document("x", str(i), metadata={"n": i % 3}), [row]) for i in range(30)])
    other = Store.open(store.folder)
    filter = {"n": {"$in": [1, 2]}}
    assert len(store.allowed(filter)) == len(other.allowed(filter)) == 20
    other.write([(Document("y", "3", metadata={"n": 2}), [row])], remove=["1"])
    assert sorted(store.allowed(filter).tolist()) == sorted(other.allowed(filter).tolist())
    assert set(range(31)) - set(store.allowed(filter).tolist()) >= {0, 1, 3}
    assert 30 in store.allowed(filter)
    for opened in (store, other):
        opened.close()


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"a": {"$regex": "x"}}, r"unknown operator '\$regex'; expected one of \$eq, \$ne"),
        ({"$xor": []}, r"unknown operator '\$xor'"),
        ({"$or": []}, r"\$or is \[\]; expected a non-empty list of filters"),
        ({"a": {"$in": "abc"}}, r"\$in is 'abc'; expected a list"),
        ({"a": {"$gt": None}}, r"\$gt is None; expected a number or a text"),
        ({"a": {"$exists": 1}}, r"\$exists is 1"),
        ({"a": [1]}, r"compares with \[1\]"),
        ({"a": float("nan")}, "compares with nan"),
        ({"a": 2**70}, "at most 64 bits"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({"a": {}}, "is empty"),
        ({3: 1}, "has the key 3"),
        ("lang=en", "filter is 'lang=en'; expected a mapping"),
        ({"a": {"$in": list(range(200_001))}}, r"\$in has 200001 values; expected at most 200000"),
        ({"$or": [{"a": i} for i in range(1000)]}, "joins 1000 conditions; expected at most 200"),
    ],
)
def test_an_invalid_filter_is_an_error(filter: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filter(filter)


def test_deep_nesting_is_an_error() -> None:
    filter: dict[str, Any] = {"a": 1}
    for _ in range(100):
        filter = {"$not": filter}
    with pytest.raises(FilterError, match="deeper than 40"):
        parse_filter(filter)


def test_thousands_of_values_work(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", {}, dimensions=2)
    row = PassageRow(0, 1, b"d", np.zeros(2, dtype=np.float32))
    store.write([(Document("x", str(i), metadata={"n": i}), [row]) for i in range(50)])
    assert len(store.allowed({"n": {"$in": list(range(10, 5000))}})) == 40
    store.close()
