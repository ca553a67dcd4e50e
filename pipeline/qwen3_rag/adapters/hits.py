"""Hits and passages as the metadata of a framework's documents."""

from collections.abc import Mapping
from typing import Any

from qwen3_rag.index.store import Passage
from qwen3_rag.records import Hit, headings_of

__all__ = ["hit_metadata", "passage_metadata"]


def hit_metadata(hit: Hit, scores: bool = True) -> dict[str, Any]:
    """A hit's metadata with where it stands, under the names that splitters and rerankers use.

    The document's own metadata are kept: its `start_index` is where the document begins in what it was split from.

    Args:
        hit: The hit.
        scores: Whether to add the scores of both stages and the probability.
    """
    place = {
        "source": hit.source,
        "title": hit.title,
        "page": hit.page,
        "headings": list(hit.headings) or None,
        "document_id": hit.document_id,
    }
    begin = hit.metadata.get("start_index")
    begin = begin if isinstance(begin, int) else 0
    metadata = _defaults(place, hit.metadata) | {"start_index": begin + hit.start, "end_index": begin + hit.end}
    values = {
        "retrieval_score": hit.retrieval_score, "relevance_score": hit.score, "probability": hit.probability
    }  # fmt: skip
    return metadata | {name: value for name, value in values.items() if scores and value is not None}


def passage_metadata(passage: Passage) -> dict[str, Any]:
    """A passage's metadata, with where it stands if the store knows it."""
    place = {
        "source": passage.source,
        "title": passage.title,
        "page": passage.page,
        "headings": list(headings_of(passage.heading)) or None,
    }
    return _defaults(place, passage.metadata)


def _defaults(place: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in place.items() if value is not None} | dict(metadata)
