"""The reranker as a LangChain document compressor and as a step of a chain."""

import threading
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import merge_configs
from pydantic import Field

from qwen3_rag.adapters.fields import CONFIG, RerankerFields
from qwen3_rag.models.concurrency import in_thread
from qwen3_rag.records import heading_path, passage_text
from qwen3_rag.scores import Ranked, ranked

__all__ = ["Qwen3Rerank"]

Input = dict[str, Any]


class Qwen3Rerank(RerankerFields, RunnableSerializable[Input, list[Document]], BaseDocumentCompressor):
    """Keeps the most relevant documents for a query, for use in `ContextualCompressionRetriever` or in a chain.

    As a step of a chain its input is `{"query": ..., "documents": ...}`, and
    `configurable_fields(instruction=ConfigurableField("instruction"))` makes a field one of each call's configuration.

    Fields passed to `invoke` count for one call.

    Inputs are not changed. The returned copies keep ids and metadata, with the probability of yes as
    `relevance_score`; an earlier one becomes `retrieval_score`, unless there is one already. Traces show the step with
    its model.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights; in one process, equal fields share the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `reranker`. A failed assignment leaves the object unchanged.
    """

    model_config = CONFIG

    reranker: Any = Field(default=None, exclude=True, description="A Reranker or Cascade to use instead of `model`.")
    top_n: int = Field(default=3, ge=1, description="Number of documents to keep.")
    titles: bool = Field(
        default=False, description="Put `title` and `headings` of the metadata before the text, as a store does."
    )
    min_score: float | None = Field(default=None, ge=0, le=1, description="Lowest probability of a document to keep.")

    def rerank(
        self, documents: Sequence[str | Document], query: str, *, top_n: int | None = None
    ) -> list[dict[str, Any]]:
        """Positions and probabilities of the best documents, best first: `{"index": 2, "relevance_score": 0.98}`.

        Args:
            documents: Texts or documents.
            query: The query.
            top_n: Replaces the object's `top_n`.
        """
        return [{"index": r.corpus_id, "relevance_score": r.score} for r in self._best(documents, query, top_n)]

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best `top_n` documents, best first, as copies with `relevance_score` in their metadata."""
        return self.invoke({"query": query, "documents": documents}, {"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`; a cancelled task leaves the reranker's queue."""
        return await self.ainvoke({"query": query, "documents": documents}, {"callbacks": callbacks})

    def invoke(self, input: Input, config: RunnableConfig | None = None, **fields: Any) -> list[Document]:
        """The best `top_n` documents of `{"query": ..., "documents": ...}`, as `compress_documents` gives them."""
        if fields:
            return self._with(fields).invoke(input, config)
        return self._call_with_config(self._compressed, input, self._traced(config))

    async def ainvoke(self, input: Input, config: RunnableConfig | None = None, **fields: Any) -> list[Document]:
        """As `invoke`; a cancelled task leaves the reranker's queue."""
        if fields:
            return await self._with(fields).ainvoke(input, config)

        async def compressed(input: Input) -> list[Document]:
            return await in_thread(self._compressed, input)

        return await self._acall_with_config(compressed, input, self._traced(config))

    def _with(self, fields: dict[str, Any]) -> "Qwen3Rerank":
        """A checked copy with other fields, which shares the weights."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | fields)

    def _traced(self, config: RunnableConfig | None) -> RunnableConfig:
        return merge_configs({"run_name": self.get_name(), "metadata": {"model": self.model_name()}}, config)

    def _compressed(self, input: Input, cancel: threading.Event | None = None) -> list[Document]:
        if not isinstance(input, dict) or input.keys() != {"query", "documents"}:
            raise ValueError(f"input is {input!r:.200}; expected a dict with query and documents")
        query, documents = input["query"], input["documents"]
        if not isinstance(documents, Sequence) or not all(isinstance(each, Document) for each in documents):
            raise ValueError(f"documents is {documents!r:.200}; expected a list of Document")
        return [_scored(documents[r.corpus_id], r.score) for r in self._best(documents, query, None, cancel)]

    def _best(
        self,
        documents: Sequence[str | Document],
        query: str,
        top_n: int | None,
        cancel: threading.Event | None = None,
    ) -> list[Ranked]:
        limit = self.top_n if top_n is None else top_n
        if limit < 1:
            raise ValueError(f"top_n is {limit}; expected at least 1")
        if not documents:
            return []
        texts = [d if isinstance(d, str) else self._text(d) for d in documents]
        ranking = ranked(self.reader(limit).read(query, texts, self.instruction, cancel=cancel))
        return [r for r in ranking if self.min_score is None or r.score >= self.min_score][:limit]

    def _text(self, document: Document) -> str:
        """What the reranker reads of a document: as in a store, if its title and headings are wanted."""
        title, headings = (document.metadata.get(name) for name in ("title", "headings"))
        path = heading_path([str(heading) for heading in headings]) if isinstance(headings, list | tuple) else None
        return passage_text(document.page_content, str(title) if title else None, path, self.titles)


def _scored(document: Document, score: float) -> Document:
    metadata = dict(document.metadata)
    before = metadata.pop("relevance_score", None)
    if before is not None:
        metadata.setdefault("retrieval_score", before)
    return document.model_copy(update={"metadata": metadata | {"relevance_score": score}})
