"""The store under the vector stores of both frameworks: every document is one passage, as the framework split it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.adapters.wrapped import Vectors, unit_rows
from qwen3_rag.arguments import as_path, at_least, one_of
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.index.retriever import MODES, Mode
from qwen3_rag.index.store import Passage, Store
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Document

__all__ = ["WholeDocuments"]

CHUNK = 400  # tokens of a passage, if somebody indexes files into the store


class WholeDocuments:
    """A store of documents that are not split further.

    Args:
        path: Its folder; a store is created if there is none.
        embedder: The embedder of documents and queries.
        reranker: The second stage of `pipeline`; None is the store's, or none in a new store.

    Raises:
        EmbedderMismatchError: Another embedder computed the store's vectors.
    """

    def __init__(
        self, path: str | Path, embedder: EmbedderProtocol, reranker: RerankerProtocol | str | None = None
    ) -> None:
        folder = as_path(path, "path")
        if Store.exists(folder):
            self.pipeline = Pipeline.open(folder, embedder, reranker)
        else:
            chunk = min(CHUNK, embedder.longest - 16)
            self.pipeline = Pipeline.create(
                folder, embedder, reranker, titles=False, chunk_tokens=chunk, chunk_overlap=min(50, chunk // 2)
            )

    def add(self, documents: Sequence[Document], vectors: Vectors) -> None:
        """Write documents in one commit, replacing those with the same ids.

        Args:
            documents: The documents.
            vectors: Their vectors (n, dimensions), of any length.

        Raises:
            InvalidArgumentError: A repeated id, or vectors that do not fit; nothing is written.
        """
        if not documents:
            return
        self.pipeline.add(documents, vectors=unit_rows(vectors))

    def nearest(
        self,
        k: int,
        *,
        query: str = "",
        vector: Sequence[float] | None = None,
        mode: Mode = "dense",
        filter: Mapping[str, Any] | None = None,
    ) -> list[tuple[Passage, float]]:
        """The k best passages with their first-stage scores, best first.

        Args:
            k: Maximum number.
            query: The query, for lexical and hybrid search.
            vector: The query's vector (dimensions,), of any length, for dense and hybrid search.
            mode: "dense", "lexical" or "hybrid".
            filter: Metadata filter, applied before the cut.
        """
        at_least(k, 1, "k")
        one_of(mode, MODES, "mode")
        row = None if vector is None else unit_rows([vector])[0]
        if row is not None and len(row) != self.pipeline.store.dimensions:
            raise InvalidArgumentError(
                f"the query's vector has {len(row)} values; expected {self.pipeline.store.dimensions}"
            )
        return self.pipeline.retriever.search(query, row, k, mode, filter)

    def vectors(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """Unit vectors (n, dimensions) of passages."""
        return self.pipeline.store.vectors([passage.number for passage in passages])

    def matching(self, filter: Mapping[str, Any]) -> list[str]:
        """Ids of the documents that match a filter."""
        return self.pipeline.store.matching(filter)

    def ids(self) -> list[str]:
        """Ids of all documents."""
        return [entry.id for entry in self.pipeline.documents()]
