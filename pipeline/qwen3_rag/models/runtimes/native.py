"""The native runtime: packed batches, the shared part of a query once, last tokens only."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.decoder import load_decoder
from qwen3_rag.models.loading import check_length, head_of
from qwen3_rag.models.packing import Prefix, Segment
from qwen3_rag.models.runtimes import NEVER, Float32, Progress, Reading, Until, reading_of
from qwen3_rag.models.tokens import Tokens
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, embed_query, rerank_query

__all__ = ["END_OF_TEXT", "NativeEmbedder", "NativeReranker", "RerankInput", "unit_rows"]

END_OF_TEXT = "<|endoftext|>"
SLICE = 4096  # pairs tokenized at once, so that memory does not grow with their number


class RerankInput:
    """Text to token ids in the official reranker format, for every runtime that takes ids.

    Args:
        tokens: The model's tokenizer.
        max_length: Tokens of prefix, instruction, query, document and suffix together; only the document is cut.

    Raises:
        ModelError: The tokenizer joins the document's first characters to what stands before it.
    """

    def __init__(self, tokens: Tokens, max_length: int) -> None:
        self.tokens, self.max_length = tokens, max_length
        self.prefix = tokens.encode_control(RERANK_PREFIX)
        self.suffix = tokens.encode_control(RERANK_SUFFIX)
        self._check_cut()

    def _check_cut(self) -> None:
        # Query and document are encoded apart, which is exact only if no token spans "<Document>:" and the blank.
        head = rerank_query("i", "q")
        for document in ("a", "\nb", " c", "中", "1", "<", ""):
            whole, apart = self.tokens.encode([f"{head} {document}"])[0], self.tokens.encode([head, f" {document}"])
            if whole != apart[0] + apart[1]:
                raise ModelError(
                    f"this tokenizer joins '<Document>:' and what follows ({document!r}); cannot be native"
                )

    def query(self, instruction: str, query: str) -> list[int]:
        """Ids that all candidates of a query share.

        Raises:
            InvalidArgumentError: They leave no room for a document within `max_length`.
        """
        ids = self.prefix + self.tokens.encode([rerank_query(instruction, query)])[0]
        if len(ids) + len(self.suffix) >= self.max_length:
            raise InvalidArgumentError(
                f"instruction and query take {len(ids) + len(self.suffix)} tokens with the template; expected fewer "
                f"than max_length={self.max_length}, so that a document fits: {query[:60]!r}…"
            )
        return ids

    def documents(self, documents: Sequence[str], room: int | Sequence[int]) -> tuple[list[list[int]], int]:
        """Ids of the documents, each cut to `room` tokens and closed by the suffix; and how many were cut."""
        encoded = self.tokens.encode([f" {d}" for d in documents])
        rooms = [room] * len(encoded) if isinstance(room, int) else room
        cut = sum(len(ids) > most for ids, most in zip(encoded, rooms, strict=True))
        return [ids[:most] + self.suffix for ids, most in zip(encoded, rooms, strict=True)], cut

    def room(self, query_ids: Sequence[int]) -> int:
        """Tokens left for a document after these ids of prefix and query."""
        return self.max_length - len(query_ids) - len(self.suffix)


def direction_of(folder: Path, tokens: Tokens) -> tuple[Any, list[int]]:
    """Which head a reranker's checkpoint has, and the vocabulary ids of no and yes that a causal one needs."""
    head = head_of(folder)
    if head == "none":
        raise ModelError(f"{folder} is neither a causal decoder nor a one-label classifier; expected a reranker")
    return head, [tokens.token_id("no"), tokens.token_id("yes")] if head == "causal" else []


class NativeReranker:
    """Rereads candidates with a causal decoder, or its one-label classifier form, exactly as the official script."""

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
        until: Until = NEVER,
        progress: Progress | None = None,
    ) -> Reading:
        """Log-odds of pairs; those of one query share its part of the computation."""
        log_odds = np.full(len(pairs), np.nan, dtype=np.float32)
        truncated = read = 0
        for start in range(0, len(pairs), SLICE):
            part = slice(start, start + SLICE)
            segments, cut = self._segments(instruction, pairs[part])
            truncated += cut
            for batch, states in self.decoder.last_states(segments, until):
                log_odds[part][batch] = states @ self.direction
                read += len(batch)
                if progress:
                    progress(len(batch))
        return reading_of(log_odds, read, truncated, until)

    def _segments(self, instruction: str, pairs: Sequence[tuple[str, str]]) -> tuple[list[Segment], int]:
        """A segment for each pair, and how many documents were cut."""
        heads = {query: self.input.query(instruction, query) for query, _ in pairs}
        room = [self.input.room(heads[query]) for query, _ in pairs]
        rest, cut = self.input.documents([document for _, document in pairs], room)
        count = Counter(query for query, _ in pairs)
        # A query with a single candidate has nothing to share.
        shared = {query: Prefix(head) for query, head in heads.items() if count[query] > 1}
        segments = [
            Segment(ids, after=shared[query]) if query in shared else Segment(heads[query] + ids)
            for (query, _), ids in zip(pairs, rest, strict=True)
        ]
        return segments, cut


class NativeEmbedder:
    """Embeds with a causal decoder: one `<|endoftext|>` at the end, whose last state is the vector."""

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
        """Unit rows of queries; a query that does not fit is an error, never cut."""
        return self._embed(query_ids(self.tokens, texts, instruction, self.max_length), None)

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Float32:
        """Unit rows of documents, each cut to `max_length`."""
        return self._embed([ids[: self.max_length - 1] for ids in self.tokens.encode(texts)], progress)

    def _embed(self, ids: list[list[int]], progress: Progress | None) -> Float32:
        rows = np.empty((len(ids), self.dimensions), dtype=np.float32)
        for batch, states in self.decoder.last_states([Segment([*i, self.end]) for i in ids]):
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
        InvalidArgumentError: One does not fit into `max_length`.
    """
    ids = tokens.encode([embed_query(instruction, text) for text in texts])
    for text, found in zip(texts, ids, strict=True):
        if len(found) >= max_length:
            raise InvalidArgumentError(
                f"instruction and query take {len(found) + 1} tokens; expected at most max_length={max_length}: "
                f"{text[:60]!r}…"
            )
    return ids


def matryoshka(full: int, wanted: int | None) -> int:
    """Number of dimensions to keep.

    Raises:
        InvalidArgumentError: Below 32 (or the model's own, if fewer), or above the model's own.
    """
    if wanted is None:
        return full
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not min(32, full) <= wanted <= full:
        raise InvalidArgumentError(f"dimensions is {wanted!r}; this model gives {min(32, full)} to {full}")
    return wanted


def unit_rows(states: Float32, dimensions: int) -> Float32:
    """First `dimensions` values of each row, scaled to length one."""
    cut = states[:, :dimensions]
    unit: Float32 = cut / np.linalg.norm(cut, axis=1, keepdims=True).clip(1e-12)
    return unit
