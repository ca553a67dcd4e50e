"""LlamaIndex's metadata filters in the language of the store."""

from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

__all__ = ["filter_of"]

SAME = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
}
OF_LISTS = {FilterOperator.ANY: "$or", FilterOperator.ALL: "$and"}


def filter_of(filters: MetadataFilters | None) -> dict[str, Any] | None:
    """The store's filter; None where there is nothing to filter.

    `IS_EMPTY` is a missing field, None or an empty text, not an empty list; `CONTAINS` looks for an item of a list, not
    for a part of a text.

    Raises:
        ValueError: An operator that the store does not have, such as TEXT_MATCH.
    """
    if filters is None or not filters.filters:
        return None
    parts = [_nested(each) for each in filters.filters]
    match filters.condition or FilterCondition.AND:
        case FilterCondition.AND:
            return {"$and": parts}
        case FilterCondition.OR:
            return {"$or": parts}
        case FilterCondition.NOT:
            return {"$not": {"$or": parts}}


def _nested(part: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    return (filter_of(part) or {}) if isinstance(part, MetadataFilters) else _one(part)


def _one(filter: MetadataFilter) -> dict[str, Any]:
    key, operator, value = filter.key, filter.operator, filter.value
    if operator in SAME:
        return {key: {SAME[operator]: value}}
    if operator in OF_LISTS:
        values = value if isinstance(value, list) else [value]
        if not values:
            return {} if operator is FilterOperator.ALL else {"$not": {}}
        return {OF_LISTS[operator]: [{key: {"$contains": each}} for each in values]}
    if operator is FilterOperator.IS_EMPTY:
        return {"$or": [{key: {"$exists": False}}, {key: {"$in": [None, ""]}}]}
    known = ", ".join(each.name for each in (*SAME, *OF_LISTS, FilterOperator.IS_EMPTY))
    raise ValueError(f"filter on {key!r} has the operator {operator.name}; expected one of: {known}")
