"""What runtimes share that take token ids from outside the native engine: pairs as sequences, states as unit rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.models.runtimes import Float32
from qwen3_rag.models.runtimes.native import RerankInput

__all__ = ["pair_ids", "unit"]


def pair_ids(
    rerank_input: RerankInput, instruction: str, pairs: Sequence[tuple[str, str]]
) -> tuple[list[list[int]], int]:
    """Whole input of each (query, document), and how many documents were cut.

    Raises:
        InvalidArgumentError: A query leaves no room for a document.
    """
    heads = {query: rerank_input.query(instruction, query) for query in dict.fromkeys(query for query, _ in pairs)}
    sequences, truncated = [], 0
    for query, document in pairs:
        rest, cut = rerank_input.documents([document], rerank_input.room(heads[query]))
        sequences.append(heads[query] + rest[0])
        truncated += cut
    return sequences, truncated


def unit(states: NDArray[np.floating], dimensions: int) -> Float32:
    """First `dimensions` values of each row, scaled to length one."""
    cut = states[:, :dimensions].astype(np.float32)
    scaled: Float32 = cut / np.linalg.norm(cut, axis=1, keepdims=True).clip(1e-12)
    return scaled
