"""The reranker as a LangChain document compressor."""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import Field

from qwen3_rag.adapters import RerankerFields
from qwen3_rag.records import heading_path, passage_text
from qwen3_rag.scores import Ranked, ranked

__all__ = ["Qwen3Rerank"]


class Qwen3Rerank(RerankerFields, BaseDocumentCompressor):
    """Keeps the most relevant documents for a query, for use in `ContextualCompressionRetriever`.

    Inputs are not changed. The returned copies keep ids and metadata, with the probability of yes as
    `relevance_score`; an earlier `relevance_score` is kept as `retrieval_score`.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `reranker`. A failed assignment leaves the object unchanged.
    """

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

    def _best(self, documents: Sequence[str | Document], query: str, top_n: int | None) -> list[Ranked]:
        limit = self.top_n if top_n is None else top_n
        if limit < 1:
            raise ValueError(f"top_n is {limit}; expected at least 1")
        if not documents:
            return []
        texts = [d if isinstance(d, str) else self._text(d) for d in documents]
        ranking = ranked(self.reader(limit).read(query, texts, self.instruction))
        return [r for r in ranking if self.min_score is None or r.score >= self.min_score][:limit]

    def _text(self, document: Document) -> str:
        """What the reranker reads of a document: as in a store, if its title and headings are wanted."""
        title, headings = (document.metadata.get(name) for name in ("title", "headings"))
        path = heading_path([str(heading) for heading in headings]) if isinstance(headings, list | tuple) else None
        return passage_text(document.page_content, str(title) if title else None, path, self.titles)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best `top_n` documents, best first, as copies with `relevance_score` in their metadata."""
        return [_scored(documents[r.corpus_id], r.score) for r in self._best(documents, query, None)]


def _scored(document: Document, score: float) -> Document:
    metadata = dict(document.metadata)
    before = metadata.pop("relevance_score", None)
    if before is not None:
        metadata.setdefault("retrieval_score", before)
    return document.model_copy(update={"metadata": metadata | {"relevance_score": score}})
