"""The embedder as a LlamaIndex embedding."""

import threading
from collections.abc import Callable
from typing import Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, field_serializer, field_validator, model_validator

from llama_index_qwen3_rag.pickling import checked_state, described
from qwen3_rag.adapters.fields import CONFIG, EmbedderFields
from qwen3_rag.models.concurrency import in_thread
from qwen3_rag.models.embedder import Embedder

__all__ = ["Qwen3Embedding"]


class Qwen3Embedding(EmbedderFields, BaseEmbedding):
    """Unit vectors of Qwen3-Embedding; queries carry the instruction, nodes go in as they are.

    Fields and their behaviour are those of `ModelFields`; LlamaIndex passes `embed_batch_size` texts at once.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `embedder`.
    """

    model_config = CONFIG

    embedder: Any = Field(default=None, description="An Embedder to use instead of `model`, or its description.")
    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts that are passed to the model at once.")

    @field_validator("embedder")
    @classmethod
    def _from_description(cls, embedder: Any) -> Any:
        return described(Embedder, embedder) if isinstance(embedder, dict) else embedder

    @field_serializer("embedder")
    def _described(self, embedder: Any) -> dict[str, Any] | None:
        return None if embedder is None else dict(embedder.describe())

    @model_validator(mode="after")
    def _named(self) -> Self:
        self.__dict__["model_name"] = self.embedder_name()  # not by assignment, which would check all fields again
        return self

    def to_payload(self) -> dict[str, Any]:
        """What traces show; the name is that of the current fields."""
        return super().to_payload() | {"model_name": self.embedder_name()}

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex removes what cannot be pickled from the object itself, so this uses a copy.
        state = super(Qwen3Embedding, self.model_copy()).__getstate__()
        required = {name: getattr(self, name) for name in (*self.settings_fields, "embedder")}
        return checked_state(self, state, required)

    @classmethod
    def class_name(cls) -> str:
        """Name of the component in LlamaIndex's serialisation."""
        return "Qwen3Embedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.query_vectors([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.document_vectors([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self.document_vectors(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await in_thread(_embedded, self.query_vectors, [query]))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await in_thread(_embedded, self.document_vectors, [text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await in_thread(_embedded, self.document_vectors, texts)


def _embedded(
    embed: Callable[[list[str]], list[list[float]]], texts: list[str], cancel: threading.Event
) -> list[list[float]]:
    return embed(texts)
