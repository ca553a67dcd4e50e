"""Checks that an embedder is the one that made a store's vectors, by comparing its vectors of a fixed text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import EmbedderMismatchError
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.prompts import DEFAULT_INSTRUCTION

__all__ = ["check_same", "describe_maker", "probe"]

# Names prove nothing, because a folder can be overwritten or a model copied; vectors do. The text is embedded as a
# document and as a query, because their prompts differ.
PROBE = "The index remembers which model made its vectors. 索引记得。"
AGREES = 0.99  # least cosine; the same weights in another dtype stay above 0.999


def probe(embedder: EmbedderProtocol) -> NDArray[np.float32]:
    """Vectors (2, dimensions) of the probe text, as a document and as a query."""
    instruction = DEFAULT_INSTRUCTION if embedder.takes_instructions else None
    return np.stack([embedder.encode_document(PROBE), embedder.encode_query(PROBE, instruction)])


def describe_maker(embedder: EmbedderProtocol) -> dict[str, Any]:
    """Description of an embedder that a store saves to recognise it later."""
    vectors = probe(embedder)
    return {"arguments": embedder.describe(), "dimensions": embedder.dimensions, "probe": vectors.tolist()}


def check_same(embedder: EmbedderProtocol, maker: Mapping[str, Any]) -> None:
    """Check that an embedder is the one that made a store.

    Raises:
        EmbedderMismatchError: Its dimensions, revision or vectors of the probe text differ.
    """
    current, saved = embedder.describe(), maker["arguments"]
    expected = f"{saved.get('model')!r} (revision {saved.get('revision')}, {maker['dimensions']} dimensions)"
    if embedder.dimensions != maker["dimensions"]:
        raise EmbedderMismatchError(
            f"{current.get('model')!r} gives {embedder.dimensions} dimensions; the store was made by {expected}"
        )
    current = embedder.describe()  # the revision is known once the weights are loaded
    agreement = float((probe(embedder) * np.asarray(maker["probe"])).sum(axis=1).min())
    if not agreement >= AGREES:
        raise EmbedderMismatchError(
            f"{current.get('model')!r} (revision {current.get('revision')}) embeds a fixed text differently from "
            f"{expected}, which made the store: cosine {agreement:.3f}, expected at least {AGREES}"
        )
    same_name = current.get("model") == saved.get("model")
    if (
        same_name
        and None not in (current.get("revision"), saved.get("revision"))
        and current["revision"] != saved["revision"]
    ):
        raise EmbedderMismatchError(
            f"{current['model']!r} is at revision {current['revision']}; the store was made by {expected}. "
            f"Pass revision={saved['revision']!r}"
        )
