"""A store of `qwen3_rag` as a LangChain vector store."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_qwen3_rag.embeddings import Qwen3Embeddings
from qwen3_rag.adapters.documents import WholeDocuments
from qwen3_rag.adapters.hits import passage_metadata
from qwen3_rag.adapters.wrapped import WrappedEmbedder
from qwen3_rag.index.retriever import Mode
from qwen3_rag.index.store import Passage
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Document as StoredDocument

__all__ = ["Qwen3VectorStore"]

Filter = Mapping[str, Any] | None


class Qwen3VectorStore(VectorStore):
    """Documents in a store on disk: every write is one commit, searches are exact, BM25 and hybrid too.

    Documents are kept as they are, one passage each. Scores are cosines, higher is better. Searches take `mode`
    ("dense", "lexical" or "hybrid") and `filter`, such as `{"year": {"$gte": 2020}}`. A `source` in the metadata is the
    document's source. Add the second stage with `Qwen3Rerank`, or with `Qwen3Retriever(pipeline=store.pipeline)`.

    Args:
        path: Folder of the store; one is created if there is none.
        embedding: Any LangChain embeddings. The store remembers `Qwen3Embeddings`; others have to be passed again.

    Raises:
        EmbedderMismatchError: Other embeddings made the store's vectors.
    """

    def __init__(self, path: str | Path, embedding: Embeddings) -> None:
        self._embedding = embedding
        self._store = WholeDocuments(path, _embedder(embedding))

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings."""
        return self._embedding

    @property
    def pipeline(self) -> Pipeline:
        """The open pipeline over the store, without a reranker unless the store has one."""
        return self._store.pipeline

    def close(self) -> None:
        """Close the store."""
        self.pipeline.close()

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with texts in it.

        Args:
            texts: The texts.
            embedding: Any LangChain embeddings.
            metadatas: Metadata of each text.
            ids: Ids of the texts.
            path: Folder of the store; required.
            **kwargs: None are known.
        """
        if path is None or kwargs:
            raise ValueError(
                f"path is {path!r} and further arguments are {list(kwargs)}; expected a folder, and no others"
            )
        store = cls(path, embedding)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write texts in one commit, replacing documents with the same ids; returns the ids.

        Args:
            texts: The texts.
            metadatas: JSON metadata of each text.
            ids: Id of each text; None is a new one.
            **kwargs: None are known.

        Raises:
            ValueError: Lists of different lengths, an id that is there twice, metadata that are not JSON, or an unknown
                argument; nothing is written.
        """
        rows = list(texts)
        metadata = [{} for _ in rows] if metadatas is None else metadatas
        wanted = [None] * len(rows) if ids is None else ids
        if kwargs or not len(rows) == len(metadata) == len(wanted):
            raise ValueError(
                f"{len(rows)} texts, {len(metadata)} metadatas, {len(wanted)} ids, further arguments {list(kwargs)}; "
                "expected as many of each, and no further arguments"
            )
        names = [name or str(uuid.uuid4()) for name in wanted]
        self._store.add(
            [
                StoredDocument(text, name, source=_source(each), metadata=each)
                for text, name, each in zip(rows, names, metadata, strict=True)
            ]
        )
        return names

    def delete(self, ids: list[str] | None = None, *, filter: Filter = None, **kwargs: Any) -> bool:
        """Delete documents by id, or those that match a filter, or with neither all; unknown ids are ignored."""
        if kwargs:
            raise ValueError(f"further arguments are {list(kwargs)}; expected ids and filter only")
        if filter is not None:
            matching = self._store.matching(filter)
            ids = matching if ids is None else sorted({*ids} & {*matching})
        self.pipeline.delete(self._store.ids() if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by id, each once; unknown ids are left out."""
        found = self.pipeline.get(list(dict.fromkeys(ids)))
        return [Document(each.text, id=each.id, metadata=dict(each.metadata)) for each in found if each is not None]

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter = None, mode: Mode = "dense", **kwargs: Any
    ) -> list[Document]:
        """The k best documents, best first."""
        return [each for each, _ in self.similarity_search_with_score(query, k, filter=filter, mode=mode, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter = None, mode: Mode = "dense"
    ) -> list[tuple[Document, float]]:
        """The k best documents with their scores: cosine, BM25 or, for hybrid, fused; higher is better."""
        vector = None if mode == "lexical" else self._embedding.embed_query(query)
        found = self._store.nearest(k, query=query, vector=vector, mode=mode, filter=filter)
        return [(_document(passage), score) for passage, score in found]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a vector."""
        return [_document(passage) for passage, _ in self._store.nearest(k, vector=embedding, filter=filter)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The k documents among the `fetch_k` nearest that are near to the query and far from one another."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter=filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for a vector."""
        passages = [passage for passage, _ in self._store.nearest(max(k, fetch_k), vector=embedding, filter=filter)]
        if not passages:
            return []
        vectors = self._store.vectors(passages).tolist()
        chosen = maximal_marginal_relevance(np.asarray(embedding, dtype=np.float32), vectors, lambda_mult, k)
        return [_document(passages[place]) for place in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(1.0, max(0.0, cosine))


def _embedder(embedding: Embeddings) -> EmbedderProtocol:
    """The store's embedder: this package's own, or the framework's wrapped."""
    if isinstance(embedding, Qwen3Embeddings):
        return embedding.current_embedder()
    if not isinstance(embedding, Embeddings):
        raise ValueError(f"embedding is {embedding!r:.100}; expected LangChain Embeddings, such as Qwen3Embeddings()")
    kind = type(embedding)
    name = f"langchain:{kind.__module__}.{kind.__qualname__}"
    return WrappedEmbedder(
        name, lambda texts: [embedding.embed_query(text) for text in texts], embedding.embed_documents
    )


def _source(metadata: Mapping[str, Any]) -> str | None:
    source = metadata.get("source")
    return source if isinstance(source, str) else None


def _document(passage: Passage) -> Document:
    return Document(passage.text, id=passage.document_id, metadata=passage_metadata(passage))
