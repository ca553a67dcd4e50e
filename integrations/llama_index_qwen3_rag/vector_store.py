"""A store of `qwen3_rag` as a LlamaIndex vector store."""

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_qwen3_rag.embedding import Qwen3Embedding
from llama_index_qwen3_rag.filters import filter_of
from llama_index_qwen3_rag.nodes import document_of, node_of
from llama_index_qwen3_rag.pickling import checked_state
from qwen3_rag.adapters.documents import WholeDocuments
from qwen3_rag.adapters.fields import CONFIG
from qwen3_rag.adapters.wrapped import WrappedEmbedder
from qwen3_rag.index.retriever import Mode
from qwen3_rag.index.store import Passage
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.pipeline import Pipeline

__all__ = ["Qwen3VectorStore"]

MODES: dict[VectorStoreQueryMode, Mode] = {
    VectorStoreQueryMode.DEFAULT: "dense",
    VectorStoreQueryMode.MMR: "dense",
    VectorStoreQueryMode.SPARSE: "lexical",
    VectorStoreQueryMode.TEXT_SEARCH: "lexical",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.SEMANTIC_HYBRID: "hybrid",
}
PREFETCH = 4  # times as many nodes are fetched as `mmr` returns
PASSED_IN = {"alpha", "sparse_top_k"}


class Qwen3VectorStore(BasePydanticVectorStore):
    """Nodes in a store on disk: every write is one commit, searches are exact, BM25 and hybrid too.

    Scores are cosines, BM25 or fused ones; higher is better. Add the second stage with `Qwen3Rerank`.

    Args:
        path: Folder of the store; one is created if there is none.
        embed_model: The embedding that the index uses too. The store remembers `Qwen3Embedding`; others have to be
            passed again.

    Raises:
        EmbedderMismatchError: Another embedding made the store's vectors.
    """

    model_config = CONFIG

    stores_text: bool = True
    path: str = Field(description="Folder of the store.")
    embed_model: Any = Field(exclude=True, description="The embedding of the index.")
    _store: WholeDocuments = PrivateAttr()

    def __init__(self, path: str | Path, embed_model: BaseEmbedding, **fields: Any) -> None:
        values: dict[str, Any] = {"path": str(path), "embed_model": embed_model, **fields}
        super().__init__(**values)
        self._store = WholeDocuments(path, _embedder(embed_model))

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex removes what cannot be pickled from the object itself, so this uses a copy. The store itself is
        # opened again.
        duplicate = self.model_copy()
        duplicate.__pydantic_private__ = None
        state = super(Qwen3VectorStore, duplicate).__getstate__()
        return checked_state(self, state, {"path": self.path, "embed_model": self.embed_model})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "Qwen3VectorStore":
        return type(self)(self.path, copy.deepcopy(self.embed_model, memo))

    @classmethod
    def class_name(cls) -> str:
        """Name of the component in LlamaIndex's serialisation."""
        return "Qwen3VectorStore"

    @property
    def client(self) -> Pipeline:
        """The open pipeline over the store."""
        return self._store.pipeline

    def close(self) -> None:
        """Close the store."""
        self.client.close()

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes with their embeddings in one commit, replacing those with the same ids; returns the ids.

        Raises:
            ValueError: A node without an embedding, an id that is there twice, metadata that are not JSON; nothing is
                written.
        """
        documents = [document_of(node) for node in nodes]
        if documents:
            self._store.add(documents, np.asarray([node.get_embedding() for node in nodes], dtype=np.float32))
        return [document.id for document in documents]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self.client.delete(self._store.matching({"ref_doc_id": ref_doc_id}))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or those that meet both; with neither, none."""
        if node_ids is not None or filter_of(filters) is not None:
            self.client.delete(self._named(node_ids, filters))

    def clear(self) -> None:
        """Delete all nodes."""
        self.client.delete(self._store.ids())

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by id, by filter, or those that meet both; with neither, all. Unknown ids are left out."""
        found = self.client.get(self._named(node_ids, filters))
        return [node_of(each.metadata, each.text) for each in found if each is not None]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes that a query finds, best first: by vector, by words, hybrid, or diverse ones (`mmr`).

        `node_ids` of a query are not a filter: an index fills them with its nodes that are no text.

        Args:
            query: LlamaIndex's query.
            **kwargs: `mmr_threshold`, as an index passes it.

        Raises:
            ValueError: A mode, an operator or an argument that the store does not have, or a query without what its
                mode needs.
        """
        threshold = kwargs.pop("mmr_threshold", query.mmr_threshold)
        if kwargs:
            raise ValueError(f"unknown arguments {kwargs}; expected mmr_threshold only")
        mode = _mode(query)
        k = (query.hybrid_top_k or query.similarity_top_k) if mode == "hybrid" else query.similarity_top_k
        diverse = query.mode is VectorStoreQueryMode.MMR
        found = self._store.nearest(
            k * PREFETCH if diverse else k,
            query=query.query_str or "",
            vector=None if mode == "lexical" else query.query_embedding,
            mode=mode,
            filter=_filter(query),
        )
        if diverse and found:
            found = self._spread(query, found, k, threshold)
        return VectorStoreQueryResult(
            nodes=[node_of(passage.metadata, passage.text) for passage, _ in found],
            similarities=[score for _, score in found],
            ids=[passage.document_id for passage, _ in found],
        )

    def _spread(
        self, query: VectorStoreQuery, found: list[tuple[Passage, float]], k: int, threshold: float | None
    ) -> list[tuple[Passage, float]]:
        vectors = self._store.vectors([passage for passage, _ in found]).tolist()
        _, places = get_top_k_mmr_embeddings(
            query.query_embedding or [], vectors, similarity_top_k=k, mmr_threshold=threshold
        )
        return [found[place] for place in places]

    def _named(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> list[str]:
        chosen = filter_of(filters)
        if chosen is None:
            return self._store.ids() if node_ids is None else list(dict.fromkeys(node_ids))
        matching = self._store.matching(chosen)
        return matching if node_ids is None else sorted({*node_ids} & {*matching})

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`, in a thread."""
        return await asyncio.to_thread(self.add, nodes)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """As `delete`, in a thread."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """As `delete_nodes`, in a thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    async def aclear(self) -> None:
        """As `clear`, in a thread."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As `get_nodes`, in a thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`, in a thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)


def _embedder(embed_model: BaseEmbedding) -> EmbedderProtocol:
    """The store's embedder: this package's own, or the framework's wrapped."""
    if isinstance(embed_model, Qwen3Embedding):
        return embed_model.current_embedder()
    if not isinstance(embed_model, BaseEmbedding):
        raise ValueError(
            f"embed_model is {embed_model!r:.100}; expected a LlamaIndex embedding, such as Qwen3Embedding()"
        )
    return WrappedEmbedder(
        f"llama-index:{embed_model.class_name()}",
        lambda texts: [embed_model.get_query_embedding(text) for text in texts],
        lambda texts: embed_model.get_text_embedding_batch(texts),
    )


def _mode(query: VectorStoreQuery) -> Mode:
    """The store's mode for a query, once everything that the query asks for can be done."""
    if query.mode not in MODES:
        raise ValueError(f"mode is {query.mode.value!r}; expected one of: {', '.join(mode.value for mode in MODES)}")
    mode = MODES[query.mode]
    if unknown := {name: getattr(query, name) for name in PASSED_IN if getattr(query, name) is not None}:
        raise ValueError(f"the query sets {unknown}; expected neither: hybrid adds both normalised scores")
    missing = [
        name
        for name, needed in (("query_embedding", mode != "lexical"), ("query_str", mode != "dense"))
        if needed and getattr(query, name) is None
    ]
    if missing:
        raise ValueError(f"the query has no {' and no '.join(missing)}; expected them for mode {query.mode.value!r}")
    return mode


def _filter(query: VectorStoreQuery) -> dict[str, Any] | None:
    """The store's filter for a query's filters and documents."""
    of_documents = {"ref_doc_id": {"$in": list(query.doc_ids)}} if query.doc_ids else None
    chosen = [part for part in (filter_of(query.filters), of_documents) if part is not None]
    return {"$and": chosen} if chosen else None
