"""Hits and passages as the metadata of a framework's documents."""

from typing import Any

from qwen3_rag.index.store import Passage
from qwen3_rag.records import Hit, headings_of

__all__ = ["hit_metadata", "passage_metadata"]


def hit_metadata(hit: Hit) -> dict[str, Any]:
    """A hit's metadata with where it stands and how it scored, under the names that splitters and rerankers use."""
    place = {
        "source": hit.source,
        "title": hit.title,
        "page": hit.page,
        "headings": list(hit.headings) or None,
        "document_id": hit.document_id,
        "start_index": hit.start,
        "end_index": hit.end,
        "retrieval_score": hit.retrieval_score,
        "relevance_score": hit.score,
        "probability": hit.probability,
    }
    return _with(dict(hit.metadata), place)


def passage_metadata(passage: Passage) -> dict[str, Any]:
    """A passage's metadata, with where it stands if the store knows it."""
    place = {
        "source": passage.source,
        "title": passage.title,
        "page": passage.page,
        "headings": list(headings_of(passage.heading)) or None,
    }
    return _with(dict(passage.metadata), place)


def _with(metadata: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    return metadata | {name: value for name, value in place.items() if value is not None}
