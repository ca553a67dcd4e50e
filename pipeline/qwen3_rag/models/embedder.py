"""The embedder: texts to unit vectors, with any runtime."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING, at_least, one_or_many
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.named import NamedModel
from qwen3_rag.models.runtimes import EmbeddingRuntime
from qwen3_rag.progress import progress
from qwen3_rag.prompts import resolve_instruction

__all__ = ["Embedder", "EmbedderProtocol"]

Float32 = NDArray[np.float32]
SLICE = 1024  # texts tokenized at once, so that memory does not grow with their number


class EmbedderProtocol(Protocol):
    """What the index and the pipeline need of an embedder."""

    @property
    def dimensions(self) -> int:
        """Values in a vector."""

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> Float32:
        """Unit vectors of queries."""

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> Float32:
        """Unit vectors of documents."""

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""

    def describe(self) -> dict[str, Any]:
        """Arguments that make this embedder again; for the store."""


class Embedder(NamedModel[EmbeddingRuntime]):
    r"""Qwen3-Embedding, or another embedder, by name; weights are loaded at first use.

    Formats are those of the `Qwen/Qwen3-Embedding-*` model cards: queries as `Instruct: {task}\nQuery:{query}`,
    documents as they are, one `<|endoftext|>` at the end, last-token pooling, L2 normalisation.

    Args:
        model: A Hugging Face id, a local folder, or a preset: "0.6b", "4b", "8b", "demo".
        device: "auto", "cpu", "cuda", "cuda:1", ….
        dtype: "auto", "float32", "bfloat16", "float16", or, natively on a CPU, "int8".
        dimensions: Keep the first so many values (Matryoshka); None keeps all.
        max_length: Tokens; documents are cut to it, a query that exceeds it is an error.
        instruction: Default instruction of queries: a preset's name, one of `instructions`, or a sentence.
        instructions: Your own named instructions.
        revision: Commit or tag on the hub.
        runtime: "native"; "transformers" (the official script's computation); "sentence-transformers" (any model that
            library loads); "vllm" (in this process); or the URL of a server that speaks `/v1/embeddings`.
        runtime_options: As for `Reranker`.

    Raises:
        InvalidArgumentError: Any argument is wrong; names are checked here, weights at first use.
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
            runtime=runtime,
            runtime_options=runtime_options,
        )
        if dimensions is not None:
            at_least(dimensions, 1, "dimensions")
        self._wanted_dimensions = dimensions

    def _load(self, **further: Any) -> EmbeddingRuntime:
        return super()._load(dimensions=self._wanted_dimensions, **further)

    @property
    def dimensions(self) -> int:
        """Values in a vector."""
        return self.loaded.dimensions

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> Float32:
        """Embed queries.

        Args:
            texts: One query or a list.
            instruction: In place of the object's; a name or a sentence. Models without instructions refuse it.

        Returns:
            float32 (dimensions,) for one query, (n, dimensions) for a list; unit rows.

        Raises:
            InvalidArgumentError: A query does not fit into `max_length`, or the model takes no instruction.
        """
        queries, single = one_or_many(texts, "texts")
        if instruction is not None and not self.loaded.takes_instructions:
            raise InvalidArgumentError(f"instruction={instruction!r} given, but {self.model!r} takes no instructions")
        sentence = resolve_instruction(instruction, self.instructions, self.instruction)
        rows = self._checked(self.loaded.embed_queries(queries, sentence), len(queries))
        return rows[0] if single else rows

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> Float32:
        """Embed documents; each is cut to `max_length` tokens.

        Args:
            texts: One document or a list.
            show_progress: A bar on a terminal, log lines elsewhere.

        Returns:
            float32 (dimensions,) for one document, (n, dimensions) for a list; unit rows.
        """
        documents, single = one_or_many(texts, "texts")
        parts = [np.empty((0, self.dimensions), dtype=np.float32)]
        with progress("embedding", len(documents), show_progress) as count:
            for start in range(0, len(documents), SLICE):
                parts.append(self.loaded.embed_documents(documents[start : start + SLICE], count))
        rows = self._checked(np.concatenate(parts), len(documents))
        return rows[0] if single else rows

    def _checked(self, rows: Float32, count: int) -> Float32:
        if rows.shape != (count, self.dimensions) or not np.isfinite(rows).all():
            raise ModelError(f"{self.model!r} gave vectors of shape {rows.shape}, or NaN; expected {count} unit rows")
        return rows

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""
        return self.loaded.spans(text)

    @property
    def longest(self) -> int:
        """Tokens of a document at most; what is beyond is cut."""
        return self.loaded.max_length

    @property
    def takes_instructions(self) -> bool:
        """Whether queries carry an instruction."""
        return self.loaded.takes_instructions

    def describe(self) -> dict[str, Any]:
        """Arguments that make this embedder again, as JSON; the revision is the one found, once loaded."""
        return super().describe() | {"dimensions": self._wanted_dimensions}
