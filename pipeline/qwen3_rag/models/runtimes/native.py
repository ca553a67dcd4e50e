"""The native runtime: packed batches, a prefix cache for each query, and only the last tokens' results."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.decoder import load_decoder
from qwen3_rag.models.loading import check_length, head_of
from qwen3_rag.models.packing import PackedSequence, Prefix
from qwen3_rag.models.runtimes import NEVER, Cancellation, Float32, Progress, RerankResult, rerank_result
from qwen3_rag.models.tokens import Tokens
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, embed_query, rerank_query

__all__ = ["END_OF_TEXT", "NativeEmbedder", "NativeReranker", "RerankInput", "unit_rows"]

END_OF_TEXT = "<|endoftext|>"
SLICE = 4096  # pairs tokenized at once, to bound memory


class RerankInput:
    """Turns text into token ids in the official reranker format, for every runtime that takes ids.

    Args:
        tokens: The model's tokenizer.
        max_length: Most tokens of prefix, instruction, query, document and suffix together; only the document is
            truncated.

    Raises:
        ModelError: The tokenizer merges the document's first characters with the text before it.
    """

    def __init__(self, tokens: Tokens, max_length: int) -> None:
        self.tokens, self.max_length = tokens, max_length
        self.prefix = tokens.encode_control(RERANK_PREFIX)
        self.suffix = tokens.encode_control(RERANK_SUFFIX)
        self._check_cut()

    def _check_cut(self) -> None:
        # Encoding query and document separately is exact only if no token spans "<Document>:" and the space after it.
        head = rerank_query("i", "q")
        for document in ("a", "\nb", " c", "中", "1", "<", ""):
            together, separate = (
                self.tokens.encode([f"{head} {document}"])[0],
                self.tokens.encode([head, f" {document}"]),
            )
            if together != separate[0] + separate[1]:
                raise ModelError(
                    f"this tokenizer merges '<Document>:' with the text after it ({document!r}); use another runtime"
                )

    def query(self, instruction: str, query: str) -> list[int]:
        """Ids of prefix, instruction and query, which all candidates of the query share.

        Raises:
            InvalidArgumentError: They leave no tokens for a document within `max_length`.
        """
        ids = self.prefix + self.tokens.encode([rerank_query(instruction, query)])[0]
        if len(ids) + len(self.suffix) >= self.max_length:
            raise InvalidArgumentError(
                f"instruction and query take {len(ids) + len(self.suffix)} tokens with the template; expected fewer "
                f"than max_length={self.max_length}, so that a document fits: {query[:60]!r}…"
            )
        return ids

    def documents(self, documents: Sequence[str], budget: int | Sequence[int]) -> tuple[list[list[int]], int]:
        """Ids of the documents, each truncated to `budget` tokens, with the suffix; and how many were truncated."""
        encoded = self.tokens.encode([f" {d}" for d in documents])
        budgets = [budget] * len(encoded) if isinstance(budget, int) else budget
        truncated = sum(len(ids) > limit for ids, limit in zip(encoded, budgets, strict=True))
        return [ids[:limit] + self.suffix for ids, limit in zip(encoded, budgets, strict=True)], truncated

    def document_budget(self, query_ids: Sequence[int]) -> int:
        """Number of tokens left for a document after the ids of prefix, instruction and query."""
        return self.max_length - len(query_ids) - len(self.suffix)


def direction_of(folder: Path, tokens: Tokens) -> tuple[Any, list[int]]:
    """The head of a reranker's checkpoint, and for a causal head the vocabulary ids of no and yes."""
    head = head_of(folder)
    if head == "none":
        raise ModelError(f"{folder} is neither a causal decoder nor a one-label classifier; expected a reranker")
    return head, [tokens.token_id("no"), tokens.token_id("yes")] if head == "causal" else []


class NativeReranker:
    """Scores candidates with a causal decoder or its one-label classifier form, exactly as the official script."""

    def __init__(self, folder: Path, *, device: str, dtype: str, max_length: int, options: dict[str, Any]) -> None:
        tokens = Tokens(folder)
        head, ids = direction_of(folder, tokens)
        self.input = RerankInput(tokens, max_length)
        self.decoder, rows = load_decoder(folder, head, ids, device=device, dtype=dtype, options=options)
        check_length(max_length, self.decoder.config)
        self.direction = (rows[1] - rows[0] if head == "causal" else rows[0]).cpu().numpy()

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention, and whether the layers are compiled."""
        return self.decoder.runs_on

    def read(
        self,
        instruction: str,
        pairs: Sequence[tuple[str, str]],
        cancellation: Cancellation = NEVER,
        progress: Progress | None = None,
    ) -> RerankResult:
        """Log-odds of pairs; pairs with the same query share a prefix cache."""
        log_odds = np.full(len(pairs), np.nan, dtype=np.float32)
        truncated = read = 0
        for start in range(0, len(pairs), SLICE):
            part = slice(start, start + SLICE)
            sequences, count = self._sequences(instruction, pairs[part])
            truncated += count
            for batch, states in self.decoder.last_states(sequences, cancellation):
                log_odds[part][batch] = states @ self.direction
                read += len(batch)
                if progress:
                    progress(len(batch))
        return rerank_result(log_odds, read, truncated, cancellation)

    def _sequences(self, instruction: str, pairs: Sequence[tuple[str, str]]) -> tuple[list[PackedSequence], int]:
        """A sequence for each pair, and the number of truncated documents."""
        heads = {query: self.input.query(instruction, query) for query, _ in pairs}
        budgets = [self.input.document_budget(heads[query]) for query, _ in pairs]
        rest, truncated = self.input.documents([document for _, document in pairs], budgets)
        count = Counter(query for query, _ in pairs)
        # A query with one candidate needs no prefix cache.
        shared = {query: Prefix(head) for query, head in heads.items() if count[query] > 1}
        sequences = [
            PackedSequence(ids, prefix=shared[query]) if query in shared else PackedSequence(heads[query] + ids)
            for (query, _), ids in zip(pairs, rest, strict=True)
        ]
        return sequences, truncated


class NativeEmbedder:
    """Embeds with a causal decoder; the vector is the last state of a final `<|endoftext|>`."""

    takes_instructions = True

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        self.tokens = Tokens(folder)
        self.end = self.tokens.token_id(END_OF_TEXT)
        self.max_length = max_length
        self.decoder, _ = load_decoder(folder, "none", (), device=device, dtype=dtype, options=options)
        check_length(max_length, self.decoder.config)
        self.dimensions = matryoshka(int(self.decoder.config.hidden_size), dimensions)

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention, and whether the layers are compiled."""
        return self.decoder.runs_on

    def embed_queries(self, texts: Sequence[str], instruction: str) -> Float32:
        """Unit rows of queries; a query longer than `max_length` is an error."""
        return self._embed(query_ids(self.tokens, texts, instruction, self.max_length), None)

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Float32:
        """Unit rows of documents, each truncated to `max_length` tokens."""
        return self._embed([ids[: self.max_length - 1] for ids in self.tokens.encode(texts)], progress)

    def _embed(self, ids: list[list[int]], progress: Progress | None) -> Float32:
        rows = np.empty((len(ids), self.dimensions), dtype=np.float32)
        for batch, states in self.decoder.last_states([PackedSequence([*i, self.end]) for i in ids]):
            rows[batch] = unit_rows(states, self.dimensions)
            if progress:
                progress(len(batch))
        return rows

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.tokens.spans(text)


def query_ids(tokens: Tokens, texts: Sequence[str], instruction: str, max_length: int) -> list[list[int]]:
    """Ids of queries with their instruction, without the end token.

    Raises:
        InvalidArgumentError: A query exceeds `max_length`.
    """
    ids = tokens.encode([embed_query(instruction, text) for text in texts])
    for text, row in zip(texts, ids, strict=True):
        if len(row) >= max_length:
            raise InvalidArgumentError(
                f"instruction and query take {len(row) + 1} tokens; expected at most max_length={max_length}: "
                f"{text[:60]!r}…"
            )
    return ids


def matryoshka(full: int, dimensions: int | None) -> int:
    """Check the number of dimensions to keep; None keeps all.

    Raises:
        InvalidArgumentError: The number is below 32 (or below `full`, if that is less) or above `full`.
    """
    if dimensions is None:
        return full
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not min(32, full) <= dimensions <= full:
        raise InvalidArgumentError(f"dimensions is {dimensions!r}; this model gives {min(32, full)} to {full}")
    return dimensions


def unit_rows(states: Float32, dimensions: int) -> Float32:
    """The first `dimensions` values of each row, scaled to unit length."""
    cut = states[:, :dimensions]
    unit: Float32 = cut / np.linalg.norm(cut, axis=1, keepdims=True).clip(1e-12)
    return unit
