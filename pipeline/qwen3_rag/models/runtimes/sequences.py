"""Pairs as whole sequences of token ids, for runtimes that are handed ids."""

from collections.abc import Sequence

from qwen3_rag.models.runtimes.native import RerankInput

__all__ = ["pair_ids"]


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
