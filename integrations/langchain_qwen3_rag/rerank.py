"""The reranker as a LangChain document compressor."""

import copy
import threading
from collections.abc import Sequence
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from qwen3_rag.models.reranker import Ranked, Reranker, RerankerProtocol, ranked

__all__ = ["Qwen3Rerank"]

DEFAULT_MODEL = "Qwen/Qwen3-Reranker-0.6B"
SETTINGS = ("model", "runtime", "runtime_options", "device", "dtype", "max_length")
# Shared by all objects, because a lock can neither be copied nor pickled; weights are not loaded under it.
_building = threading.Lock()


class Qwen3Rerank(BaseDocumentCompressor):
    """Keeps the most relevant documents for a query, for use in `ContextualCompressionRetriever`.

    Inputs are not changed. The returned copies keep ids and metadata, with the probability of yes as
    `relevance_score`; an earlier `relevance_score` is kept as `retrieval_score`.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `reranker`. A failed assignment leaves the object unchanged.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_assignment=True)

    model: str | None = Field(default=None, description=f"Hub id, folder or preset; by default {DEFAULT_MODEL}.")
    reranker: Any = Field(default=None, exclude=True, description="A Reranker or Cascade to use instead of `model`.")
    top_n: int = Field(default=3, ge=1, description="Number of documents to keep.")
    min_score: float | None = Field(default=None, ge=0, le=1, description="Lowest probability of a document to keep.")
    instruction: str | None = Field(default=None, description="A preset's name or a sentence.")
    runtime: str = "native"
    runtime_options: dict[str, Any] = Field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    max_length: int = Field(default=8192, ge=2)
    _built: tuple[dict[str, Any], Reranker] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._current()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        before = dict(self.__dict__)
        try:
            super().__setattr__(name, value)
        except ValidationError:
            # pydantic keeps a value that a model validator rejected.
            self.__dict__.update(before)
            raise

    def _current(self) -> RerankerProtocol:
        """The reranker that the current fields describe; weights load at first use."""
        settings = {name: getattr(self, name) for name in SETTINGS}
        if self.reranker is not None:
            if not hasattr(self.reranker, "read"):
                raise ValueError(f"reranker is {self.reranker!r}; expected a qwen3_rag Reranker or Cascade")
            if conflicting := [name for name in SETTINGS if settings[name] != _default(name)]:
                raise ValueError(f"{', '.join(conflicting)} set together with reranker; expected one or the other")
            self._built = None
            return self.reranker  # type: ignore[no-any-return]
        with _building:
            if self._built is None or self._built[0] != settings:
                reranker = Reranker(**settings | {"model": self.model or DEFAULT_MODEL})
                self._built = copy.deepcopy(settings), reranker
            return self._built[1]

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
        texts = [d if isinstance(d, str) else d.page_content for d in documents]
        ranking = ranked(self._current().read(query, texts, self.instruction))
        return [r for r in ranking if self.min_score is None or r.score >= self.min_score][:limit]

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best `top_n` documents, best first, as copies with `relevance_score` in their metadata."""
        return [_scored(documents[r.corpus_id], r.score) for r in self._best(documents, query, None)]


def _default(name: str) -> Any:
    return Qwen3Rerank.model_fields[name].get_default(call_default_factory=True)


def _scored(document: Document, score: float) -> Document:
    metadata = dict(document.metadata)
    before = metadata.pop("relevance_score", None)
    if before is not None:
        metadata.setdefault("retrieval_score", before)
    return document.model_copy(update={"metadata": metadata | {"relevance_score": score}})
