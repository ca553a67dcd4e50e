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
# One for all objects, as a lock can neither be copied nor pickled; no weights are loaded under it.
_building = threading.Lock()


class Qwen3Rerank(BaseDocumentCompressor):
    """Keeps the documents that best meet the query, for `ContextualCompressionRetriever`.

    Ids and metadata stay as they are and inputs are not changed; copies carry the probability of yes under
    `relevance_score`, fresh on every pass. A score that was there before is kept under `retrieval_score`.

    Fields may be assigned, and `model_copy(update=...)` takes effect: another model is loaded at the next use. Copies
    and pickles carry the fields, not the weights.

    Raises:
        pydantic.ValidationError: Unknown fields, wrong values, or settings of a model together with `reranker`; on
            assignment too, and the object stays as it was.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_assignment=True)

    model: str | None = Field(default=None, description=f"Hub id, folder or preset; by default {DEFAULT_MODEL}.")
    reranker: Any = Field(default=None, exclude=True, description="A ready Reranker or Cascade, in place of a model.")
    top_n: int = Field(default=3, ge=1, description="Documents to keep.")
    min_score: float | None = Field(default=None, ge=0, le=1, description="Least probability of a document kept.")
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
            # pydantic leaves what the validator of the whole has refused.
            self.__dict__.update(before)
            raise

    def _current(self) -> RerankerProtocol:
        """The reranker that the fields describe now; weights are loaded at first use."""
        settings = {name: getattr(self, name) for name in SETTINGS}
        if self.reranker is not None:
            if not hasattr(self.reranker, "read"):
                raise ValueError(f"reranker is {self.reranker!r}; expected a qwen3_rag Reranker or Cascade")
            if set_too := [name for name in SETTINGS if settings[name] != _default(name)]:
                raise ValueError(f"{', '.join(set_too)} given together with reranker; expected one or the other")
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
            top_n: In place of the object's.
        """
        return [{"index": r.corpus_id, "relevance_score": r.score} for r in self._best(documents, query, top_n)]

    def _best(self, documents: Sequence[str | Document], query: str, top_n: int | None) -> list[Ranked]:
        wanted = self.top_n if top_n is None else top_n
        if wanted < 1:
            raise ValueError(f"top_n is {wanted}; expected at least 1")
        if not documents:
            return []
        texts = [d if isinstance(d, str) else d.page_content for d in documents]
        found = ranked(self._current().read(query, texts, self.instruction))
        return [r for r in found if self.min_score is None or r.score >= self.min_score][:wanted]

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
