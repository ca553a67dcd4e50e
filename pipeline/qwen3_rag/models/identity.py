"""Whether an embedder is the one that made a store's vectors: told by what it makes of a fixed text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import EmbedderMismatchError
from qwen3_rag.models.embedder import EmbedderProtocol
from qwen3_rag.prompts import DEFAULT_INSTRUCTION

__all__ = ["check_same", "describe_maker", "probe"]

# Names prove nothing (a folder can be overwritten, a model copied); the vectors of a text do. As a document and as a
# query, because the two have prompts of their own.
PROBE = "The index remembers which model made its vectors. 索引记得。"
AGREES = 0.99  # cosine; the same weights in another dtype stay above 0.999


def probe(embedder: EmbedderProtocol) -> NDArray[np.float32]:
    """What the embedder makes of the probe, as a document and as a query: (2, dimensions)."""
    instruction = DEFAULT_INSTRUCTION if getattr(embedder, "takes_instructions", False) else None
    return np.stack([embedder.encode_document(PROBE), embedder.encode_query(PROBE, instruction)])


def describe_maker(embedder: EmbedderProtocol) -> dict[str, Any]:
    """What a store keeps of the embedder that makes its vectors."""
    made = probe(embedder)
    return {"arguments": embedder.describe(), "dimensions": embedder.dimensions, "probe": made.tolist()}


def check_same(embedder: EmbedderProtocol, maker: Mapping[str, Any]) -> None:
    """Compare an embedder with the one a store was made by.

    Raises:
        EmbedderMismatchError: Other dimensions, another revision, or other vectors for the probe.
    """
    given, kept = embedder.describe(), maker["arguments"]
    wanted = f"{kept.get('model')!r} (revision {kept.get('revision')}, {maker['dimensions']} dimensions)"
    if embedder.dimensions != maker["dimensions"]:
        raise EmbedderMismatchError(
            f"{given.get('model')!r} gives {embedder.dimensions} dimensions; the store was made by {wanted}"
        )
    given = embedder.describe()  # the revision is known once the weights are
    agreement = float((probe(embedder) * np.asarray(maker["probe"])).sum(axis=1).min())
    if not agreement >= AGREES:
        raise EmbedderMismatchError(
            f"{given.get('model')!r} (revision {given.get('revision')}) embeds a fixed text otherwise than {wanted}, "
            f"by which the store was made: cosine {agreement:.3f}, expected at least {AGREES}"
        )
    same_name = given.get("model") == kept.get("model")
    if (
        same_name
        and None not in (given.get("revision"), kept.get("revision"))
        and given["revision"] != kept["revision"]
    ):
        raise EmbedderMismatchError(
            f"{given['model']!r} is at revision {given['revision']}; the store was made by {wanted}. "
            f"Pass revision={kept['revision']!r}"
        )
