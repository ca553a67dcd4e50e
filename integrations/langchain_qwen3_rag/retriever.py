"""The pipeline as a LangChain retriever."""

from collections.abc import Mapping
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, field_validator, model_validator

from qwen3_rag.adapters.fields import CONFIG, Checked
from qwen3_rag.adapters.hits import hit_metadata
from qwen3_rag.adapters.searches import search_options
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Hit

__all__ = ["Qwen3Retriever"]


class Qwen3Retriever(Checked, BaseRetriever):
    """Both stages of a pipeline: the nearest passages, reranked, the best `k` as documents.

    The metadata are the document's own, with source, title, page, headings, `document_id`, `start_index`, `end_index`
    and, unless `scores` is False, `retrieval_score` and `relevance_score`. The id is the passage's.

    Every field but `pipeline`, and every argument of `Pipeline.search`, can be passed to `invoke` for one call.

    Raises:
        pydantic.ValidationError: A field is unknown or a value is wrong.
    """

    model_config = CONFIG

    pipeline: Any = Field(description="An open `Pipeline`.")
    k: int = Field(default=10, ge=1, description="Maximum number of documents.")
    filter: dict[str, Any] | None = Field(default=None, description="Metadata filter, applied before the cut.")
    instruction: str | None = Field(default=None, description="A preset's name or a sentence.")
    scores: bool = Field(
        default=True,
        description="Scores in the metadata; False for what compares documents, as MultiQueryRetriever does.",
    )
    search_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of `Pipeline.search`, such as mode or candidates."
    )

    @field_validator("pipeline")
    @classmethod
    def _is_pipeline(cls, pipeline: Any) -> Any:
        if not isinstance(pipeline, Pipeline):
            raise ValueError(f"pipeline is {pipeline!r:.100}; expected a Pipeline, such as Pipeline.open('my-store')")
        return pipeline

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._options({})
        return self

    def _options(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `Pipeline.search`, with those of one call, checked."""
        own = {"k": self.k, "filter": self.filter, "instruction": self.instruction}
        options = {**own, **self.search_kwargs, **changed}
        return search_options({"top_k" if name == "k" else name: value for name, value in options.items()})

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        return [self._document(hit) for hit in self.pipeline.search(query, **self._options(changed))]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        return [self._document(hit) for hit in await self.pipeline.asearch(query, **self._options(changed))]

    def _document(self, hit: Hit) -> Document:
        return Document(hit.text, id=hit.id, metadata=hit_metadata(hit, self.scores))
