"""The models' exact inputs as token ids, and their vectors; shared by every runtime.

Formats follow the model cards of `Qwen/Qwen3-Reranker-*` and `Qwen/Qwen3-Embedding-*`. The templates are in
`qwen3_rag.prompts`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, embed_query, rerank_query
from qwen3_rag.scores import Group

__all__ = ["END_OF_TEXT", "EmbedFormat", "Encoded", "Inputs", "RerankFormat", "matryoshka", "sliced", "unit_rows"]

END_OF_TEXT = "<|endoftext|>"
SLICE = 4096  # pairs tokenized at once, to bound memory
INSTRUCTIONS_KEPT = 16
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """The token ids of one query with its documents.

    Attributes:
        head: Ids of prefix, instruction and query, which all of its candidates share.
        tails: For each document, its ids and those of the suffix.
        truncated: For each document, whether it was truncated.
        constant: Number of ids of `head` that do not depend on the query.
    """

    head: list[int]
    tails: list[list[int]]
    truncated: list[bool]
    constant: int = 0

    @property
    def inputs(self) -> list[list[int]]:
        """The complete input of each pair."""
        return [self.head + tail for tail in self.tails]

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each complete input."""
        return [len(self.head) + len(tail) for tail in self.tails]


class RerankFormat:
    """Turns queries and documents into token ids in the official reranker format.

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
        self._start = lru_cache(INSTRUCTIONS_KEPT)(partial(_start_of, tokens, rerank_query))
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
        """Ids of prefix, instruction and query.

        Raises:
            InvalidArgumentError: They leave no tokens for a document within `max_length`.
        """
        ids = self.prefix + self.tokens.encode([rerank_query(instruction, query)], self.max_length)[0]
        if len(ids) + len(self.suffix) >= self.max_length:
            raise InvalidArgumentError(
                f"instruction and query take at least {len(ids) + len(self.suffix)} tokens with the template; expected "
                f"fewer than max_length={self.max_length}, so that a document fits: {query[:60]!r}…"
            )
        return ids

    def document_budget(self, head: Sequence[int]) -> int:
        """Number of tokens left for a document after the ids of prefix, instruction and query."""
        return self.max_length - len(head) - len(self.suffix)

    def encode(self, instruction: str, groups: Sequence[Group]) -> list[Encoded]:
        """Ids of each group; documents are truncated to fit. Errors as in `query`."""
        heads = [self.query(instruction, query) for query, _ in groups]
        most = self.max_length  # no document has more
        ids = iter(self.tokens.encode([f" {document}" for _, documents in groups for document in documents], most))
        return [
            self._encoded(instruction, head, islice(ids, len(documents)))
            for head, (_, documents) in zip(heads, groups, strict=True)
        ]

    def _encoded(self, instruction: str, head: list[int], documents: Iterable[list[int]]) -> Encoded:
        start = [*self.prefix, *self._start(instruction)]
        constant = len(start if head[: len(start)] == start else self.prefix)
        limit = self.document_budget(head)
        tails, truncated = [], []
        for ids in documents:
            tails.append(ids[:limit] + self.suffix)
            truncated.append(len(ids) > limit)
        return Encoded(head, tails, truncated, constant)

    def encoded(self, inputs: Sequence[list[int]]) -> Encoded:
        """Complete inputs from outside, divided after the tokens that all share.

        Raises:
            InvalidArgumentError: An input lacks the template, has control tokens elsewhere, or is too long.
        """
        start, end = len(self.prefix), len(self.suffix)
        for place, ids in enumerate(inputs):
            if ids[:start] != self.prefix or ids[-end:] != self.suffix:
                raise InvalidArgumentError(
                    f"input[{place}] is {str(ids[:8])[:-1]}, …]; expected the ids of the reranker's whole template"
                )
            self.tokens.check_plain(ids[start:-end], f"input[{place}]")
            if len(ids) > self.max_length:
                raise InvalidArgumentError(f"input[{place}] has {len(ids)} tokens; expected at most {self.max_length}")
        shared = _common_start([ids[:-end] for ids in inputs])
        return Encoded(inputs[0][:shared], [ids[shared:] for ids in inputs], [False] * len(inputs), start)


def _start_of(tokens: Tokens, template: Callable[[str, str], str], instruction: str) -> tuple[int, ...]:
    """The ids that a template and an instruction start with before nearly every query."""
    one, other = tokens.encode([template(instruction, query) for query in ("a", "中")])
    return tuple(one[: _common_start([one, other])])


def _common_start(sequences: Sequence[Sequence[int]]) -> int:
    """How many ids at the start are the same in all sequences."""
    columns = enumerate(zip(*sequences, strict=False))
    return next((i for i, column in columns if len(set(column)) > 1), min(map(len, sequences)))


def sliced(groups: Sequence[Group], size: int = SLICE) -> Iterator[tuple[int, list[Group]]]:
    """The groups in slices of at most `size` documents, a larger group split; each with its first document's position.

    Positions count the documents of all groups, one after the other.
    """
    part: list[Group] = []
    first = count = 0
    for query, documents in groups:
        start = 0
        while start < len(documents):
            taken = documents[start : start + size - count]
            part.append((query, taken))
            start, count = start + len(taken), count + len(taken)
            if count == size:
                yield first, part
                first, count, part = first + count, 0, []
    if part:
        yield first, part


class Inputs(NamedTuple):
    """Complete inputs of an embedder.

    Attributes:
        ids: Token ids of each.
        truncated: How many of their texts were truncated.
        start: Ids that nearly all of them start with.
    """

    ids: list[list[int]]
    truncated: int = 0
    start: tuple[int, ...] = ()


class EmbedFormat:
    """Turns texts into token ids in the official embedder format, with the end token whose state is the vector.

    Args:
        tokens: The model's tokenizer.
        max_length: Most tokens of an input, the end token included.

    Raises:
        ModelError: The tokenizer has no `<|endoftext|>`.
    """

    def __init__(self, tokens: Tokens, max_length: int) -> None:
        self.tokens, self.max_length = tokens, max_length
        self.end = tokens.token_id(END_OF_TEXT)
        self._start = lru_cache(INSTRUCTIONS_KEPT)(partial(_start_of, tokens, embed_query))

    def queries(self, texts: Sequence[str], instruction: str) -> Inputs:
        """Ids of queries with their instruction.

        Raises:
            InvalidArgumentError: A query exceeds `max_length`.
        """
        encoded = self.tokens.encode([embed_query(instruction, text) for text in texts], self.max_length)
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) >= self.max_length:
                raise InvalidArgumentError(
                    f"instruction and query take at least {len(ids) + 1} tokens; expected at most "
                    f"max_length={self.max_length}: {text[:60]!r}…"
                )
        return Inputs([[*ids, self.end] for ids in encoded], start=self._start(instruction))

    def documents(self, texts: Sequence[str]) -> Inputs:
        """Ids of documents, each truncated to `max_length`."""
        limit = self.max_length - 1
        encoded = self.tokens.encode(texts, limit)
        return Inputs([[*ids[:limit], self.end] for ids in encoded], sum(len(ids) > limit for ids in encoded))

    def checked(self, inputs: Sequence[list[int]]) -> Inputs:
        """Complete inputs from outside.

        Raises:
            InvalidArgumentError: An input lacks the end token, has other control tokens, or is too long.
        """
        for place, ids in enumerate(inputs):
            if ids[-1:] != [self.end]:
                raise InvalidArgumentError(
                    f"input[{place}] is token ids that do not end with {self.end} ({END_OF_TEXT}), so they come from "
                    "another tokenizer; expected a text, or this model's ids (langchain-openai: "
                    "check_embedding_ctx_length=False sends texts)"
                )
            self.tokens.check_plain(ids[:-1], f"input[{place}]")
            if len(ids) > self.max_length:
                raise InvalidArgumentError(f"input[{place}] has {len(ids)} tokens; expected at most {self.max_length}")
        return Inputs(list(inputs))


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
