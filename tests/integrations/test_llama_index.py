import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import ValidationError

from fakes import LengthReranker
from llama_index_qwen3_rag import Qwen3Rerank
from qwen3_rag import Reranker

TEXTS = ["The moon pulls the sea.", "Yeast makes bread rise.", "Merge intervals.", "Tides come twice a day."]


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32")


def nodes() -> list[NodeWithScore]:
    scores = [0.5, 0.0, None, -1.0]
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(i), metadata={"page": i}), score=score)
        for i, (text, score) in enumerate(zip(TEXTS, scores, strict=True))
    ]


def test_it_reranks_in_a_query_engine(reranker: Reranker) -> None:
    index = VectorStoreIndex([node.node for node in nodes()], embed_model=MockEmbedding(embed_dim=4))
    engine = index.as_query_engine(
        llm=MockLLM(), similarity_top_k=4, node_postprocessors=[Qwen3Rerank(reranker=reranker, top_n=2)]
    )
    kept = engine.query("tides").source_nodes
    read = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes()]
    assert "page: 0" in read[0], "the node's metadata settings apply"
    scores = reranker.score("tides", read)
    expected = sorted(range(4), key=lambda i: -scores[i])[:2]
    assert [node.node.text for node in kept] == [TEXTS[i] for i in expected]
    assert [node.score for node in kept] == pytest.approx([float(scores[i]) for i in expected])


async def test_async_gives_the_same(reranker: Reranker) -> None:
    postprocessor = Qwen3Rerank(reranker=reranker)
    kept = await postprocessor.apostprocess_nodes(nodes(), query_str="q")
    assert kept == postprocessor.postprocess_nodes(nodes(), query_str="q")


def test_inputs_stay_unchanged_and_the_retrieval_score_is_kept_on_request(reranker: Reranker) -> None:
    inputs, before = nodes(), nodes()
    kept = Qwen3Rerank(reranker=reranker, top_n=9, keep_retrieval_score=True).postprocess_nodes(inputs, query_str="q")
    assert inputs == before
    assert {node.node.node_id: node.node.metadata["retrieval_score"] for node in kept} == {
        "0": 0.5, "1": 0.0, "2": None, "3": -1.0,
    }  # fmt: skip
    assert (
        "retrieval_score"
        not in Qwen3Rerank(reranker=reranker).postprocess_nodes(inputs, query_str="q")[0].node.metadata
    )


def test_events_and_callbacks_are_sent(reranker: Reranker) -> None:
    seen: list[Any] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            seen.append(event)

    get_dispatcher("root").add_event_handler(Handler())
    debug = LlamaDebugHandler(print_trace_on_end=False)
    postprocessor = Qwen3Rerank(reranker=reranker, top_n=2, callback_manager=CallbackManager([debug]))
    postprocessor.postprocess_nodes(nodes(), query_str="q")
    start, end = (e for e in seen if e.class_name().startswith("ReRank"))
    assert (start.top_n, start.model_name, len(start.nodes), len(end.nodes)) == (2, str(reranker.source.absolute), 4, 2)
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1


def test_json_round_trip(tiny_reranker: Path) -> None:
    postprocessor = Qwen3Rerank(model=str(tiny_reranker), top_n=2, dtype="float32")
    again = Qwen3Rerank.from_json(postprocessor.to_json())
    assert again.to_dict() == postprocessor.to_dict()
    assert again.postprocess_nodes(nodes(), query_str="q") == postprocessor.postprocess_nodes(nodes(), query_str="q")


def test_a_ready_reranker_survives_the_round_trip(reranker: Reranker) -> None:
    postprocessor = Qwen3Rerank(reranker=reranker, top_n=2)
    again = Qwen3Rerank.from_json(postprocessor.to_json())
    assert again.postprocess_nodes(nodes(), query_str="q") == postprocessor.postprocess_nodes(nodes(), query_str="q")


def test_no_nodes_give_no_nodes_and_no_query_is_an_error(reranker: Reranker) -> None:
    assert Qwen3Rerank(reranker=reranker).postprocess_nodes([], query_bundle=QueryBundle("q")) == []
    with pytest.raises(ValueError, match="query_bundle is None"):
        Qwen3Rerank(reranker=reranker).postprocess_nodes(nodes())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_n": 0}, "greater than or equal to 1"),
        ({"modle": "x"}, "Extra inputs are not permitted"),
        ({"model": "nope"}, "unknown reranker 'nope'"),
        ({"reranker": 3}, "without read, describe"),
    ],
)
def test_wrong_fields_are_the_frameworks_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Qwen3Rerank(**fields)


def test_both_model_and_reranker_is_an_error(reranker: Reranker) -> None:
    with pytest.raises(ValidationError, match="model set together with reranker"):
        Qwen3Rerank(model="demo", reranker=reranker)


def pickled(postprocessor: Qwen3Rerank) -> Qwen3Rerank:
    return pickle.loads(pickle.dumps(postprocessor))  # noqa: S301


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled, lambda p: p.model_copy(deep=True)])
def test_copies_of_a_postprocessor_give_the_same_scores(
    duplicate: Callable[[Qwen3Rerank], Qwen3Rerank], tiny_reranker: Path, reranker: Reranker
) -> None:
    for postprocessor in (Qwen3Rerank(model=str(tiny_reranker), dtype="float32"), Qwen3Rerank(reranker=reranker)):
        expected = postprocessor.postprocess_nodes(nodes(), query_str="q")
        assert duplicate(postprocessor).postprocess_nodes(nodes(), query_str="q") == expected


def test_a_reranker_that_cannot_be_pickled_is_an_error_not_another_model(reranker: Reranker) -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock, self.read, self.describe = threading.Lock(), reranker.read, reranker.describe

    postprocessor = Qwen3Rerank(reranker=Locked())
    with pytest.raises(
        TypeError, match=r"reranker of Qwen3Rerank is .*Locked object .* expected something that can be pickled"
    ):
        pickle.dumps(postprocessor)
    assert isinstance(postprocessor.reranker, Locked), "pickling leaves the object unchanged"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime", "transformers"), ("runtime_options", {"token_budget": 64}), ("device", "cpu"),
        ("dtype", "bfloat16"), ("max_length", 300),
    ],
)  # fmt: skip
def test_changed_fields_take_effect_however_they_are_changed(tiny_reranker: Path, name: str, value: Any) -> None:
    postprocessor = Qwen3Rerank(model=str(tiny_reranker))
    other = postprocessor.model_copy(update={name: value})
    assert getattr(other.current_reranker(), name) == value
    assert getattr(postprocessor.current_reranker(), name) != value
    setattr(postprocessor, name, value)
    assert getattr(postprocessor.current_reranker(), name) == value


def test_another_model_takes_effect_however_it_is_named(tiny_reranker: Path, tiny_classifier: Path) -> None:
    def ranked(postprocessor: Qwen3Rerank) -> list[NodeWithScore]:
        return postprocessor.postprocess_nodes(nodes(), query_str="q")

    expected = ranked(Qwen3Rerank(model=str(tiny_classifier), dtype="float32"))
    postprocessor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32")
    assert ranked(postprocessor) != expected
    assert ranked(postprocessor.model_copy(update={"model": str(tiny_classifier)})) == expected
    postprocessor.model = str(tiny_classifier)
    assert ranked(postprocessor) == expected
    assert postprocessor.model_name() == str(tiny_classifier)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("top_n", "many", "valid integer"),
        ("model", 3, "valid string"),
        ("model", "nope", "unknown reranker 'nope'"),
        ("reranker", "a string", "without read, describe"),
        ("reranker", {"model": "nope"}, "unknown reranker 'nope'"),
    ],
)
def test_a_wrong_assignment_is_an_error_and_changes_nothing(
    tiny_reranker: Path, name: str, value: Any, message: str
) -> None:
    postprocessor = Qwen3Rerank(model=str(tiny_reranker))
    before = postprocessor.to_dict()
    with pytest.raises(ValidationError, match=message):
        setattr(postprocessor, name, value)
    assert postprocessor.to_dict() == before


def test_assigning_both_a_model_and_a_reranker_is_an_error(reranker: Reranker, tiny_reranker: Path) -> None:
    named, ready = Qwen3Rerank(model=str(tiny_reranker)), Qwen3Rerank(reranker=reranker)
    with pytest.raises(ValidationError, match="model set together with reranker"):
        named.reranker = reranker
    with pytest.raises(ValidationError, match="dtype set together with reranker"):
        ready.dtype = "float32"
    ready.reranker = reranker.describe()
    assert isinstance(ready.current_reranker(), Reranker)
    named.model = None
    named.reranker = reranker
    assert named.current_reranker() is reranker


def test_adaptive_leaves_nodes_unread_that_are_not_among_the_best() -> None:
    nodes = [NodeWithScore(node=TextNode(text="word " * (1 + i)), score=1 / (1 + i)) for i in range(50)]
    reranker = LengthReranker()
    full, auto = (Qwen3Rerank(reranker=reranker, top_n=3, adaptive=adaptive) for adaptive in (False, True))
    expected = full.postprocess_nodes(nodes, query_str="q")
    assert reranker.pairs == 50
    assert [node.score for node in auto.postprocess_nodes(nodes, query_str="q")] == [node.score for node in expected]
    assert reranker.pairs == 50 + 20
