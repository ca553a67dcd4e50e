"""Pairs as complete sequences of token ids, for runtimes that take ids."""

from collections.abc import Sequence

from qwen3_rag.models.runtimes.native import RerankInput

__all__ = ["pair_ids"]


def pair_ids(
    rerank_input: RerankInput, instruction: str, pairs: Sequence[tuple[str, str]]
) -> tuple[list[list[int]], int]:
    """The complete input of each (query, document), and the number of truncated documents.

    Raises:
        InvalidArgumentError: A query leaves no tokens for a document.
    """
    heads = {query: rerank_input.query(instruction, query) for query in dict.fromkeys(query for query, _ in pairs)}
    sequences, truncated = [], 0
    for query, document in pairs:
        rest, count = rerank_input.documents([document], rerank_input.document_budget(heads[query]))
        sequences.append(heads[query] + rest[0])
        truncated += count
    return sequences, truncated
