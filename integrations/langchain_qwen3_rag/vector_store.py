"""A store of `qwen3_rag` as a LangChain vector store."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_qwen3_rag.embeddings import Qwen3Embeddings
from qwen3_rag.adapters.documents import WholeDocuments
from qwen3_rag.adapters.hits import passage_metadata
from qwen3_rag.adapters.wrapped import WrappedEmbedder
from qwen3_rag.index.retriever import Mode
from qwen3_rag.index.store import Passage
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Document as StoredDocument

__all__ = ["Qwen3VectorStore"]

Filter = Mapping[str, Any] | None


class Qwen3VectorStore(VectorStore):
    """Documents in a store on disk: every write is one commit, searches are exact, BM25 and hybrid too.

    Documents are kept as they are, one passage each. Scores are cosines, higher is better. Searches take `mode`
    ("dense", "lexical" or "hybrid") and `filter`, such as `{"year": {"$gte": 2020}}`. A `source` in the metadata is the
    document's source. Add the second stage with `Qwen3Rerank`, or with `Qwen3Retriever(pipeline=store.pipeline)` if the
    store has a reranker.

    Args:
        path: Folder of the store; one is created if there is none.
        embedding: Any LangChain embeddings. The store remembers `Qwen3Embeddings`; others have to be passed again.
        reranker: Second stage of `pipeline`, a `Reranker` or its name; None is the store's, a new store then has none.

    Raises:
        EmbedderMismatchError: Other embeddings made the store's vectors.
    """

    def __init__(self, path: str | Path, embedding: Embeddings, reranker: RerankerProtocol | str | None = None) -> None:
        self._embedding = embedding
        self._store = WholeDocuments(path, _embedder(embedding), reranker)

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
            **kwargs: `reranker`, as in the constructor.
        """
        if path is None:
            raise ValueError("path is None; expected the store's folder")
        _documents(texts, metadatas, ids)  # before a store is created
        store = cls(path, embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write texts in one commit, replacing documents with the same ids; returns the ids.

        Args:
            texts: The texts.
            metadatas: JSON metadata of each text.
            ids: Id of each text; None is a new one.
            batch_size: Passed by LangChain's `index`; not used, because the model makes its own batches.
            **kwargs: None are known.

        Raises:
            ValueError: Lists of different lengths, an id that is there twice, metadata that are not JSON, or an unknown
                argument; nothing is written.
        """
        _refuse(kwargs)
        documents = _documents(texts, metadatas, ids)
        self._store.add(documents, self._embedding.embed_documents([document.text for document in documents]))
        return [document.id for document in documents]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As `add_texts`, with the embeddings' own async method."""
        _refuse(kwargs)
        documents = _documents(texts, metadatas, ids)
        vectors = await self._embedding.aembed_documents([document.text for document in documents])
        await run_in_executor(None, self._store.add, documents, vectors)
        return [document.id for document in documents]

    def delete(self, ids: list[str] | None = None, *, filter: Filter = None, **kwargs: Any) -> bool:
        """Delete documents by id, or those that match a filter, or with neither all; unknown ids are ignored."""
        _refuse(kwargs)
        if filter is not None:
            matching = self._store.matching(filter)
            ids = matching if ids is None else sorted({*ids} & {*matching})
        self.pipeline.delete(self._store.ids() if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by id, each once; unknown ids are left out."""
        found = self.pipeline.get(list(dict.fromkeys(ids)))
        return [Document(each.text, id=each.id, metadata=dict(each.metadata)) for each in found if each is not None]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k best documents, best first; takes `filter` and `mode`."""
        return [each for each, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """As `similarity_search`, with the embeddings' own async method."""
        return [each for each, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter = None, mode: Mode = "dense", **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k best documents with their scores: cosine, BM25 or, for hybrid, fused; higher is better."""
        _refuse(kwargs)
        vector = None if mode == "lexical" else self._embedding.embed_query(query)
        return self._scored(query, vector, k, filter, mode)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter = None, mode: Mode = "dense", **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search_with_score`, with the embeddings' own async method."""
        _refuse(kwargs)
        vector = None if mode == "lexical" else await self._embedding.aembed_query(query)
        return await run_in_executor(None, self._scored, query, vector, k, filter, mode)

    def _scored(
        self, query: str, vector: list[float] | None, k: int, filter: Filter, mode: Mode
    ) -> list[tuple[Document, float]]:
        found = self._store.nearest(k, query=query, vector=vector, mode=mode, filter=filter)
        return [(_document(passage), score) for passage, score in found]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a vector."""
        _refuse(kwargs)
        return [each for each, _ in self._scored("", embedding, k, filter, "dense")]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """The k documents among the `fetch_k` nearest that are near to the query and far from one another."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, with the embeddings' own async method."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

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
        _refuse(kwargs)
        passages = [passage for passage, _ in self._store.nearest(max(k, fetch_k), vector=embedding, filter=filter)]
        if not passages:
            return []
        vectors = self._store.vectors(passages).tolist()
        chosen = maximal_marginal_relevance(np.asarray(embedding, dtype=np.float32), vectors, lambda_mult, k)
        return [_document(passages[place]) for place in chosen]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        _only_cosines(kwargs)
        return super()._similarity_search_with_relevance_scores(query, k, **kwargs)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        _only_cosines(kwargs)
        return await super()._asimilarity_search_with_relevance_scores(query, k, **kwargs)

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


def _documents(
    texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[StoredDocument]:
    """Texts as documents of the store.

    Raises:
        ValueError: Lists of different lengths, or something that a document cannot have.
    """
    rows = list(texts)
    metadata = [{} for _ in rows] if metadatas is None else metadatas
    wanted = [None] * len(rows) if ids is None else ids
    if not len(rows) == len(metadata) == len(wanted):
        raise ValueError(f"{len(rows)} texts, {len(metadata)} metadatas, {len(wanted)} ids; expected as many of each")
    return [
        StoredDocument(text, str(uuid.uuid4()) if name is None else name, source=_source(each), metadata=each)
        for text, name, each in zip(rows, wanted, metadata, strict=True)
    ]


def _source(metadata: object) -> str | None:
    source = metadata.get("source") if isinstance(metadata, Mapping) else None
    return source if isinstance(source, str) else None


def _document(passage: Passage) -> Document:
    return Document(passage.text, id=passage.document_id, metadata=passage_metadata(passage))


def _refuse(unknown: Mapping[str, Any]) -> None:
    """Refuse what would be ignored: a misspelt filter would return what it should keep out."""
    if unknown:
        raise ValueError(f"unknown arguments {dict(unknown)}; expected filter, or mode where words can be searched too")


def _only_cosines(options: Mapping[str, Any]) -> None:
    mode = options.get("mode", "dense")
    if mode != "dense":
        raise ValueError(f"mode is {mode!r}; expected 'dense': only cosines are relevance scores between 0 and 1")
