"""The reranker as a LlamaIndex node postprocessor."""

import copy
import threading
from typing import Any, Self

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from qwen3_rag.models.cascade import reranker_of
from qwen3_rag.models.reranker import Reranker, RerankerProtocol, ranked

__all__ = ["Qwen3Rerank"]

DEFAULT_MODEL = "Qwen/Qwen3-Reranker-0.6B"
SETTINGS = ("model", "runtime", "runtime_options", "device", "dtype", "max_length")
# Shared by all objects, because a lock can neither be copied nor pickled; weights are not loaded under it.
_building = threading.Lock()
dispatcher = get_dispatcher(__name__)


class Qwen3Rerank(BaseNodePostprocessor):
    """Keeps the most relevant nodes for a query, for use in a query engine's `node_postprocessors`.

    Input nodes are not changed; the returned copies carry the probability of yes as their score. The reranker reads a
    node's content in embedding mode, with the metadata that the node includes in that mode.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `reranker`. A failed assignment leaves the object unchanged.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        validate_assignment=True,
        protected_namespaces=("pydantic_model_",),
    )

    model: str | None = Field(default=None, description=f"Hub id, folder or preset; by default {DEFAULT_MODEL}.")
    reranker: Any = Field(
        default=None, description="A Reranker or Cascade to use instead of `model`, or its description."
    )
    top_n: int = Field(default=3, ge=1, description="Number of nodes to keep.")
    instruction: str | None = Field(default=None, description="A preset's name or a sentence.")
    keep_retrieval_score: bool = Field(
        default=False, description="Keep the earlier score as metadata `retrieval_score`."
    )
    runtime: str = "native"
    runtime_options: dict[str, Any] = Field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    max_length: int = Field(default=8192, ge=2)
    _built: tuple[dict[str, Any], Reranker] | None = PrivateAttr(default=None)

    @field_validator("reranker")
    @classmethod
    def _from_description(cls, reranker: Any) -> Any:
        return reranker_of(reranker) if isinstance(reranker, dict) else reranker

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

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex removes what cannot be pickled from the object itself, so this uses a copy. Callbacks may be lost,
        # but without one of these fields the pickle would load a different model.
        state = super(Qwen3Rerank, self.model_copy()).__getstate__()
        for name in (*SETTINGS, "reranker"):
            if name not in state["__dict__"]:
                raise TypeError(f"{name} is {getattr(self, name)!r}; expected something that can be pickled")
        return state

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

    @field_serializer("reranker")
    def _described(self, reranker: Any) -> dict[str, Any] | None:
        return None if reranker is None else dict(reranker.describe())

    @classmethod
    def class_name(cls) -> str:
        """Name of the component in LlamaIndex's serialisation."""
        return "Qwen3Rerank"

    @property
    def _model_name(self) -> str:
        described = self._current().describe()
        return str(described.get("model", described))

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("query_bundle is None; expected the query to rank the nodes for")
        if not nodes:
            return []
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self._model_name)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._model_name,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
            best = ranked(self._current().read(query_bundle.query_str, texts, self.instruction))[: self.top_n]
            kept = [self._scored(nodes[r.corpus_id], r.score) for r in best]
            event.on_end(payload={EventPayload.NODES: kept})
        dispatcher.event(ReRankEndEvent(nodes=kept))
        return kept

    def _scored(self, node: NodeWithScore, score: float) -> NodeWithScore:
        if not self.keep_retrieval_score:
            return NodeWithScore(node=node.node, score=score)
        copy = node.node.model_copy(update={"metadata": node.node.metadata | {"retrieval_score": node.score}})
        return NodeWithScore(node=copy, score=score)


def _default(name: str) -> Any:
    return Qwen3Rerank.model_fields[name].get_default(call_default_factory=True)
