"""The embedder: turns texts into unit vectors, with any runtime."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING, at_least, check_cancel, check_seconds, one_or_many, text_list
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.runtimes.protocols import EmbeddingRuntime
from qwen3_rag.progress import progress
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.scores import NEVER, Cancellation, EmbedResult

__all__ = ["Embedder"]

Float32 = NDArray[np.float32]
SLICE = 1024  # texts tokenized at once, to bound memory


class Embedder(NamedModel[EmbeddingRuntime]):
    r"""Qwen3-Embedding or another embedder; weights load at first use.

    Formats follow the `Qwen/Qwen3-Embedding-*` model cards: queries as `Instruct: {task}\nQuery:{query}`,
    documents unchanged, one `<|endoftext|>` at the end, last-token pooling, L2 normalisation.

    Args:
        model: A Hugging Face id, a local folder, or a preset: "0.6b", "4b", "8b", "demo".
        device: "auto", "cpu", "cuda", "cuda:1", ….
        dtype: "auto", "float32", "bfloat16", "float16", or, with the native runtime on a CPU, "int8".
        dimensions: Number of leading values to keep (Matryoshka); None keeps all.
        max_length: Most tokens; longer documents are truncated, a longer query is an error.
        instruction: Default instruction for queries: a preset's name, a name from `instructions`, or a sentence.
        instructions: Your own named instructions.
        revision: Commit, branch or tag on the hub.
        hub: "huggingface" or "modelscope".
        runtime: "native"; "transformers" (the official script's computation); "sentence-transformers" (any model that
            library loads); "vllm" (in this process); or the URL of a server with `/v1/embeddings`.
        runtime_options: As for `Reranker`.

    Raises:
        InvalidArgumentError: An argument is wrong. Names are checked at once, weights at first use.
    """

    kind = "embedder"

    def __init__(
        self,
        model: str = "Qwen/Qwen3-Embedding-0.6B",
        *,
        device: str = "auto",
        dtype: str = "auto",
        dimensions: int | None = None,
        max_length: int = 8192,
        instruction: str | None = None,
        instructions: Mapping[str, str] = NOTHING,
        revision: str | None = None,
        hub: str = "huggingface",
        runtime: str = "native",
        runtime_options: Mapping[str, Any] = NOTHING,
    ) -> None:
        super().__init__(
            model,
            device=device,
            dtype=dtype,
            instruction=instruction,
            instructions=instructions,
            max_length=max_length,
            revision=revision,
            hub=hub,
            runtime=runtime,
            runtime_options=runtime_options,
        )
        if dimensions is not None:
            at_least(dimensions, 1, "dimensions")
        self._wanted_dimensions = dimensions

    def _load(self, **extra: Any) -> EmbeddingRuntime:
        return super()._load(dimensions=self._wanted_dimensions, **extra)

    @property
    def dimensions(self) -> int:
        """Number of values in a vector."""
        return self.loaded.dimensions

    def embed(
        self,
        texts: Sequence[str],
        *,
        query: bool = False,
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> EmbedResult:
        """Vectors of texts, with the number of their tokens and of truncated texts.

        Args:
            texts: The texts.
            query: Whether they are queries; otherwise they are documents.
            instruction: For queries; replaces the embedder's instruction; a name or a sentence.
            deadline: Seconds from now after which the call fails.
            cancel: Once set, from any thread, the call fails.

        Raises:
            InvalidArgumentError: As in `encode_query`, or an instruction is passed for documents.
            StoppedError: The deadline passed, or `cancel` was set, before all texts were embedded.
        """
        cancellation = Cancellation.after(check_seconds(deadline, "deadline"), check_cancel(cancel))
        if query:
            return self._queries(text_list(texts, "texts"), instruction, cancellation)
        if instruction is not None:
            raise InvalidArgumentError(f"instruction is {instruction!r}; expected None: documents take no instruction")
        return self._documents(text_list(texts, "texts"), False, cancellation)

    def embed_ids(
        self, inputs: Sequence[list[int]], deadline: float | None = None, cancel: threading.Event | None = None
    ) -> EmbedResult:
        """Vectors of complete inputs as token ids, the end token included; arguments as in `embed`.

        Raises:
            InvalidArgumentError: Ids that are no complete input of this model, or a runtime that takes no ids.
            StoppedError: As in `embed`.
        """
        cancellation = Cancellation.after(check_seconds(deadline, "deadline"), check_cancel(cancel))
        return self._checked(self.loaded.embed_ids(inputs, cancellation), len(inputs))

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> Float32:
        """Embed queries.

        Args:
            texts: One query or a list.
            instruction: Replaces the embedder's instruction; a name or a sentence.

        Returns:
            float32 (dimensions,) for one query, (n, dimensions) for a list; unit rows.

        Raises:
            InvalidArgumentError: A query exceeds `max_length`, or the model takes no instructions.
        """
        queries, single = one_or_many(texts, "texts")
        rows = self._queries(queries, instruction, NEVER).vectors
        return rows[0] if single else rows

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> Float32:
        """Embed documents, each truncated to `max_length` tokens.

        Args:
            texts: One document or a list.
            show_progress: Show a bar on a terminal, log lines elsewhere.

        Returns:
            float32 (dimensions,) for one document, (n, dimensions) for a list; unit rows.
        """
        documents, single = one_or_many(texts, "texts")
        rows = self._documents(documents, show_progress, NEVER).vectors
        return rows[0] if single else rows

    def _queries(self, queries: list[str], instruction: str | None, cancellation: Cancellation) -> EmbedResult:
        if instruction is not None and not self.loaded.takes_instructions:
            raise InvalidArgumentError(
                f"instruction is {instruction!r}, but {self.model!r} takes no instructions; expected None"
            )
        sentence = resolve_instruction(instruction, self.instructions, self.instruction)
        return self._checked(self.loaded.embed_queries(queries, sentence, cancellation), len(queries))

    def _documents(self, documents: list[str], show_progress: bool, cancellation: Cancellation) -> EmbedResult:
        result = EmbedResult(np.empty((0, self.dimensions), dtype=np.float32))
        parts = [result.vectors]
        with progress("embedding", len(documents), show_progress) as count:
            for start in range(0, len(documents), SLICE):
                part = self.loaded.embed_documents(documents[start : start + SLICE], count, cancellation)
                parts.append(part.vectors)
                result = EmbedResult(result.vectors, result.tokens + part.tokens, result.truncated + part.truncated)
        return self._checked(replace(result, vectors=np.concatenate(parts)), len(documents))

    def _checked(self, result: EmbedResult, count: int) -> EmbedResult:
        rows = result.vectors
        if rows.shape != (count, self.dimensions) or not np.isfinite(rows).all():
            raise ModelError(
                f"{self.model!r} returned vectors of shape {rows.shape}, or NaN; expected {count} unit rows"
            )
        return result

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""
        return self.loaded.spans(text)

    @property
    def longest(self) -> int:
        """Most tokens of a document; longer documents are truncated."""
        return self.loaded.max_length

    @property
    def takes_instructions(self) -> bool:
        """Whether the model takes an instruction with queries."""
        return self.loaded.takes_instructions

    def describe(self) -> dict[str, Any]:
        """Arguments that recreate this embedder, as JSON; once loaded, with the resolved revision."""
        return super().describe() | {"dimensions": self._wanted_dimensions}
