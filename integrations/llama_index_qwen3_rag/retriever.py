"""The pipeline as a LlamaIndex retriever."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_qwen3_rag.filters import filter_of
from llama_index_qwen3_rag.nodes import is_node, node_of
from qwen3_rag.adapters.hits import hit_metadata
from qwen3_rag.adapters.searches import search_options
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Hit, Results

__all__ = ["Qwen3Retriever"]

# What the text of a node does not need to be read with, by an LLM or another reranker.
UNREAD = ["document_id", "start_index", "end_index", "retrieval_score"]


class Qwen3Retriever(BaseRetriever):
    """Both stages of a pipeline: the nearest passages, reranked, the best `similarity_top_k` as nodes.

    A node's score is the probability of yes, or the first stage's score if nothing was reranked; its metadata are the
    document's own, with source, title, page, headings and offsets. Its source node is the document. Nodes that
    `Qwen3VectorStore` keeps come back as they were. Strings that a `QueryBundle` has to embed in place of the query are
    not used.

    Args:
        pipeline: An open `Pipeline`.
        similarity_top_k: Maximum number of nodes.
        filters: LlamaIndex's filters, or a filter of the store.
        instruction: A preset's name or a sentence.
        keep_retrieval_score: Put the first stage's score into the metadata as `retrieval_score`. It makes the nodes of
            several queries differ, so that fusing retrievers do not see that they are the same.
        search_kwargs: Further arguments of `Pipeline.search`, such as mode or candidates.
        callback_manager: LlamaIndex's callbacks.

    Raises:
        ValueError: A value is wrong.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        similarity_top_k: int = 10,
        filters: MetadataFilters | Mapping[str, Any] | None = None,
        instruction: str | None = None,
        keep_retrieval_score: bool = False,
        search_kwargs: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if not isinstance(pipeline, Pipeline):
            raise ValueError(f"pipeline is {pipeline!r:.100}; expected a Pipeline, such as Pipeline.open('my-store')")
        self.pipeline, self.similarity_top_k, self.filters = pipeline, similarity_top_k, filters
        self.instruction, self.search_kwargs = instruction, dict(search_kwargs or {})
        self.keep_retrieval_score = keep_retrieval_score
        self._options()
        super().__init__(callback_manager=callback_manager)

    def _options(self) -> dict[str, Any]:
        """Arguments of `Pipeline.search`, checked."""
        chosen = filter_of(self.filters) if isinstance(self.filters, MetadataFilters) else self.filters
        own = {"top_k": self.similarity_top_k, "filter": chosen, "instruction": self.instruction}
        return search_options(own | self.search_kwargs)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(self.pipeline.search(query_bundle.query_str, **self._options()))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(await self.pipeline.asearch(query_bundle.query_str, **self._options()))

    def _nodes(self, results: Results) -> list[NodeWithScore]:
        reranked = any(hit.reranked for hit in results)
        return [
            NodeWithScore(node=self._node(hit), score=hit.score if reranked else hit.retrieval_score) for hit in results
        ]

    def _node(self, hit: Hit) -> BaseNode:
        node = node_of(hit.metadata, hit.text) if is_node(hit.metadata) else _passage_node(hit)
        if self.keep_retrieval_score:
            node.metadata["retrieval_score"] = hit.retrieval_score
        return node


def _passage_node(hit: Hit) -> TextNode:
    return TextNode(
        id_=hit.id,
        text=hit.text,
        metadata=hit_metadata(hit, scores=False),
        excluded_llm_metadata_keys=UNREAD,
        excluded_embed_metadata_keys=UNREAD,
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.document_id)},
    )
