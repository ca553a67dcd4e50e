"""The reranker as a LlamaIndex node postprocessor."""

from typing import Any

from llama_index.core.bridge.pydantic import Field, field_serializer, field_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from llama_index_qwen3_rag.pickling import checked_state, described
from qwen3_rag.adapters.fields import RerankerFields
from qwen3_rag.models.cascade import reranker_of
from qwen3_rag.scores import ranked

__all__ = ["Qwen3Rerank"]

dispatcher = get_dispatcher(__name__)


class Qwen3Rerank(RerankerFields, BaseNodePostprocessor):
    """Keeps the most relevant nodes for a query, for use in a query engine's `node_postprocessors`.

    Input nodes are not changed; the returned copies carry the probability of yes as their score. The reranker reads a
    node's content in embedding mode, with the metadata that the node includes in that mode.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `reranker`. A failed assignment leaves the object unchanged.
    """

    reranker: Any = Field(
        default=None, description="A Reranker or Cascade to use instead of `model`, or its description."
    )
    top_n: int = Field(default=3, ge=1, description="Number of nodes to keep.")
    keep_retrieval_score: bool = Field(
        default=False, description="Keep the earlier score as metadata `retrieval_score`."
    )

    @field_validator("reranker")
    @classmethod
    def _from_description(cls, reranker: Any) -> Any:
        return described(lambda **fields: reranker_of(fields), reranker) if isinstance(reranker, dict) else reranker

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex removes what cannot be pickled from the object itself, so this uses a copy.
        state = super(Qwen3Rerank, self.model_copy()).__getstate__()
        required = {name: getattr(self, name) for name in (*self.settings_fields, "reranker")}
        return checked_state(self, state, required)

    @field_serializer("reranker")
    def _described(self, reranker: Any) -> dict[str, Any] | None:
        return None if reranker is None else dict(reranker.describe())

    @classmethod
    def class_name(cls) -> str:
        """Name of the component in LlamaIndex's serialisation."""
        return "Qwen3Rerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("query_bundle is None; expected the query to rank the nodes for")
        if not nodes:
            return []
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model_name())
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name(),
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
            result = self.reader(self.top_n).read(query_bundle.query_str, texts, self.instruction)
            best = ranked(result)[: self.top_n]
            kept = [self._scored(nodes[r.corpus_id], r.score) for r in best]
            event.on_end(payload={EventPayload.NODES: kept})
        dispatcher.event(ReRankEndEvent(nodes=kept))
        return kept

    def _scored(self, node: NodeWithScore, score: float) -> NodeWithScore:
        if not self.keep_retrieval_score:
            return NodeWithScore(node=node.node, score=score)
        copy = node.node.model_copy(update={"metadata": node.node.metadata | {"retrieval_score": node.score}})
        return NodeWithScore(node=copy, score=score)
