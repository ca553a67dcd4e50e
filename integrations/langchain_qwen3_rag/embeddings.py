"""The embedder as LangChain's `Embeddings`."""

import threading
from collections.abc import Callable

from langchain_core.embeddings import Embeddings

from qwen3_rag.adapters.fields import EmbedderFields
from qwen3_rag.models.concurrency import in_thread

__all__ = ["Qwen3Embeddings"]


class Qwen3Embeddings(EmbedderFields, Embeddings):
    """Unit vectors of Qwen3-Embedding; queries carry the instruction, documents go in as they are.

    Fields and their behaviour are those of `ModelFields`; `dimensions` keeps the first values of each vector.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `embedder`.
    """

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors (n, dimensions) of documents."""
        return self.document_vectors(texts)

    def embed_query(self, text: str) -> list[float]:
        """Vector (dimensions,) of a query, with the instruction."""
        return self.query_vectors([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors (n, dimensions) of documents; tasks share the model's batches."""
        return await in_thread(_embedded, self.document_vectors, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Vector (dimensions,) of a query; tasks share the model's batches."""
        return (await in_thread(_embedded, self.query_vectors, [text]))[0]


def _embedded(
    embed: Callable[[list[str]], list[list[float]]], texts: list[str], cancel: threading.Event
) -> list[list[float]]:
    return embed(texts)
