"""Embedding, retriever and vector store for LlamaIndex."""

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from pydantic import ValidationError

from fakes import LengthReranker, WordEmbedder
from llama_index_qwen3_rag import Qwen3Embedding, Qwen3Rerank, Qwen3Retriever, Qwen3VectorStore
from qwen3_rag import Document as StoredDocument
from qwen3_rag import Embedder, EmbedderMismatchError, Pipeline
from qwen3_rag.errors import InvalidArgumentError

TEXTS = ["the moon pulls the sea", "yeast makes bread rise", "tides follow the moon and the sun"]
WORDS = Qwen3Embedding(embedder=WordEmbedder())


def nodes() -> list[TextNode]:
    rows = [
        TextNode(
            id_=str(i),
            text=text,
            metadata={"year": 2019 + i, "tags": ["a", "b"][: i + 1], "kind": "text" if i else ""},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document {i // 2}")},
        )
        for i, text in enumerate(TEXTS)
    ]
    for row in rows:
        row.embedding = WORDS.get_text_embedding(row.text)
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Qwen3VectorStore]:
    store = Qwen3VectorStore(tmp_path / "store", WORDS)
    store.add(nodes())
    yield store
    store.close()


def found(store: Qwen3VectorStore, text: str, k: int = 3, **fields: Any) -> list[str]:
    query = VectorStoreQuery(WORDS.get_query_embedding(text), k, query_str=text, **fields)
    return store.query(query).ids or []


async def test_embedding_is_that_of_the_embedder_in_batches_and_async(tiny_embedder: Path) -> None:
    embedding = Qwen3Embedding(model=str(tiny_embedder), dtype="float32", instruction="code-search", embed_batch_size=2)
    embedder = Embedder(str(tiny_embedder), dtype="float32")
    query = pytest.approx(embedder.encode_query("q", "code-search").tolist(), abs=1e-5)
    texts = [pytest.approx(row.tolist(), abs=1e-5) for row in embedder.encode_document(TEXTS)]
    assert embedding.get_query_embedding("q") == query
    assert await embedding.aget_query_embedding("q") == query
    assert embedding.get_text_embedding(TEXTS[0]) == texts[0]
    assert await embedding.aget_text_embedding(TEXTS[0]) == texts[0]
    assert embedding.get_text_embedding_batch(TEXTS) == texts
    assert await embedding.aget_text_embedding_batch(TEXTS) == texts


def pickled(component: Any) -> Any:
    return pickle.loads(pickle.dumps(component))  # noqa: S301


def through_json(component: Qwen3Embedding) -> Qwen3Embedding:
    return Qwen3Embedding.from_json(component.to_json())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled, through_json])
def test_copies_of_an_embedding_share_its_weights(duplicate: Callable[[Any], Any], tiny_embedder: Path) -> None:
    embedding = Qwen3Embedding(model=str(tiny_embedder), dtype="float32")
    other = duplicate(embedding)
    assert other.to_dict() == embedding.to_dict()
    assert other.current_embedder() is embedding.current_embedder()
    assert other.model_name == str(tiny_embedder)
    ready = Qwen3Embedding(embedder=Embedder(str(tiny_embedder), dtype="float32"))
    assert duplicate(ready).get_query_embedding("q") == ready.get_query_embedding("q")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modle": "x"}, "Extra inputs are not permitted"),
        ({"model": "nope"}, "unknown embedder 'nope'"),
        ({"model": "demo", "embedder": WordEmbedder()}, "model set together with embedder"),
        ({"embedder": 3}, "without dimensions"),
        ({"embedder": {"modle": "x"}}, r"the description is \{'modle': 'x'\}"),
        ({"embed_batch_size": 0}, "greater than 0"),
    ],
)
def test_wrong_fields_of_an_embedding_are_the_frameworks_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Qwen3Embedding(**fields)


def test_retriever_nodes_carry_place_and_both_scores_in_a_query_engine(tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as pipeline:
        pipeline.add([StoredDocument("The moon pulls the sea.", "tides", title="Tides", metadata={"year": 2020})])
        debug = LlamaDebugHandler(print_trace_on_end=False)
        retriever = Qwen3Retriever(pipeline, callback_manager=CallbackManager([debug]))
        engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
        (node,) = engine.query("moon").source_nodes
        hit = pipeline.search("moon")[0]
        assert (node.score, node.node_id, node.text) == (hit.score, "tides#0", hit.text)
        assert (node.node.start_char_idx, node.node.end_char_idx, node.node.ref_doc_id) == (0, 23, "tides")
        assert (node.metadata["title"], node.metadata["year"]) == ("Tides", 2020)
        assert not {"retrieval_score", "relevance_score"} & node.metadata.keys(), "nodes of several queries stay equal"
        kept = Qwen3Retriever(pipeline, keep_retrieval_score=True).retrieve("moon")[0]
        assert kept.metadata["retrieval_score"] == hit.retrieval_score
        assert "start_index" not in node.node.get_content("llm")
        assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 1
        unranked = Qwen3Retriever(pipeline, search_kwargs={"rerank": False}).retrieve("moon")
        assert unranked[0].score == hit.retrieval_score


async def test_retriever_takes_filters_of_both_languages(store: Qwen3VectorStore) -> None:
    newest = MetadataFilters(filters=[MetadataFilter(key="year", value=2021)])
    for filters in (newest, {"year": 2021}):
        retriever = Qwen3Retriever(store.client, 2, filters)
        (node,) = retriever.retrieve("moon")
        assert node.node.model_copy(update={"embedding": None}) == nodes()[2].model_copy(update={"embedding": None})
        assert [node.node_id for node in await retriever.aretrieve("moon")] == ["2"]
    with pytest.raises(InvalidArgumentError, match="top_k is 0"):
        Qwen3Retriever(store.client, 0)
    with pytest.raises(InvalidArgumentError, match="unknown argument of a search 'modle'"):
        Qwen3Retriever(store.client, search_kwargs={"modle": 1})
    with pytest.raises(ValueError, match="pipeline is 'my-store'; expected a Pipeline"):
        Qwen3Retriever("my-store")


def test_vector_store_gives_back_the_nodes_as_they_were(store: Qwen3VectorStore) -> None:
    result = store.query(VectorStoreQuery(WORDS.get_query_embedding(TEXTS[0]), 1))
    (node,) = result.nodes or []
    assert node.model_copy(update={"embedding": None}) == nodes()[0].model_copy(update={"embedding": None})
    assert result.similarities == [pytest.approx(1, abs=1e-3)]
    link = IndexNode(text="elsewhere", index_id="other", id_="link", embedding=node_vector("elsewhere"))
    store.add([link])
    assert store.get_nodes(["link", "unknown"])[0].index_id == "other"  # type: ignore[attr-defined]


def node_vector(text: str) -> list[float]:
    return WORDS.get_text_embedding(text)


FILTERS = [
    MetadataFilter(key="year", value=2020, operator=operator)
    for operator in (
        FilterOperator.EQ, FilterOperator.NE, FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT,
        FilterOperator.LTE,
    )
] + [
    MetadataFilter(key="year", value=[2019, 2021], operator=FilterOperator.IN),
    MetadataFilter(key="year", value=[2019, 2021], operator=FilterOperator.NIN),
    MetadataFilter(key="nowhere", value=1, operator=FilterOperator.NE),
    MetadataFilter(key="tags", value="b", operator=FilterOperator.CONTAINS),
    MetadataFilter(key="tags", value=["b", "z"], operator=FilterOperator.ANY),
    MetadataFilter(key="tags", value=["a", "b"], operator=FilterOperator.ALL),
    MetadataFilter(key="tags", value=[], operator=FilterOperator.ANY),
    MetadataFilter(key="tags", value=[], operator=FilterOperator.ALL),
    MetadataFilter(key="kind", value=None, operator=FilterOperator.IS_EMPTY),
    MetadataFilter(key="nowhere", value=None, operator=FilterOperator.IS_EMPTY),
]  # fmt: skip


@pytest.mark.parametrize("condition", list(FilterCondition))
@pytest.mark.parametrize("filter", FILTERS, ids=lambda each: f"{each.key}{each.operator.value}")
def test_filters_mean_what_they_mean_in_the_framework(
    store: Qwen3VectorStore, filter: MetadataFilter, condition: FilterCondition
) -> None:
    filters = MetadataFilters(
        filters=[filter, MetadataFilter(key="year", value=2021, operator=FilterOperator.LT)], condition=condition
    )
    of_framework = build_metadata_filter_fn({node.node_id: node.metadata for node in nodes()}.__getitem__, filters)
    expected = {node.node_id for node in nodes() if of_framework(node.node_id)}
    assert set(found(store, "moon", filters=filters)) == expected
    assert {node.node_id for node in store.get_nodes(filters=filters)} == expected
    nested = MetadataFilters(filters=[filters])
    assert set(found(store, "moon", filters=nested)) == expected


def test_a_filter_that_the_store_does_not_have_is_an_error(store: Qwen3VectorStore) -> None:
    text_match = MetadataFilter(key="kind", value="te", operator=FilterOperator.TEXT_MATCH)
    with pytest.raises(ValueError, match="'kind' has the operator TEXT_MATCH; expected one of: EQ"):
        found(store, "moon", filters=MetadataFilters(filters=[text_match]))


def test_vector_store_queries_by_mode_node_and_document(store: Qwen3VectorStore) -> None:
    assert found(store, TEXTS[1], 1) == ["1"]
    for mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH):
        assert set(store.query(VectorStoreQuery(None, 3, query_str="moon", mode=mode)).ids or []) == {"0", "2"}
    assert found(store, "moon", 2, mode=VectorStoreQueryMode.HYBRID)[0] in "02"
    assert len(found(store, "moon", 1, mode=VectorStoreQueryMode.HYBRID, hybrid_top_k=2)) == 2
    assert set(found(store, "moon", doc_ids=["document 0"])) == {"0", "1"}
    twin = TextNode(id_="twin", text=TEXTS[0] + " .", embedding=node_vector(TEXTS[0] + " ."))
    store.add([twin])
    assert set(found(store, TEXTS[0], 2)) == {"0", "twin"}
    spread = found(store, TEXTS[0], 2, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.1)
    assert len({"0", "twin"} & set(spread)) == 1
    index = VectorStoreIndex.from_vector_store(store, embed_model=WORDS)

    def diverse(threshold: float) -> set[str]:
        options = {"vector_store_query_mode": "mmr", "vector_store_kwargs": {"mmr_threshold": threshold}}
        return {n.node_id for n in index.as_retriever(similarity_top_k=2, **options).retrieve(TEXTS[0])}

    assert diverse(1.0) == {"0", "twin"}
    assert diverse(0.1) == set(spread)
    with pytest.raises(ValueError, match=r"unknown arguments \{'thresh': 1\}"):
        store.query(VectorStoreQuery(node_vector("moon"), 2), thresh=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": VectorStoreQueryMode.SVM}, "mode is 'svm'; expected one of: default"),
        ({"mode": VectorStoreQueryMode.HYBRID, "alpha": 0.3}, r"the query sets \{'alpha': 0.3\}"),
        ({"mode": VectorStoreQueryMode.SPARSE, "query_str": None}, "the query has no query_str"),
        ({"query_embedding": None}, "the query has no query_embedding"),
        ({"query_embedding": [1.0]}, "has 1 values; expected 32"),
        ({"similarity_top_k": 0}, "k is 0"),
    ],
)
def test_queries_that_cannot_be_answered_are_errors(
    store: Qwen3VectorStore, fields: dict[str, Any], message: str
) -> None:
    query = {"query_embedding": node_vector("moon"), "similarity_top_k": 3, "query_str": "moon"} | fields
    with pytest.raises(ValueError, match=message):
        store.query(VectorStoreQuery(**query))


async def test_vector_store_deletes_by_document_node_filter_and_all(store: Qwen3VectorStore) -> None:
    await store.adelete("document 1")
    assert {node.node_id for node in await store.aget_nodes()} == {"0", "1"}
    store.delete_nodes()
    store.delete_nodes(filters=MetadataFilters(filters=[]))
    await store.adelete_nodes(["0", "unknown"])
    assert [node.node_id for node in store.get_nodes()] == ["1"]
    await store.async_add(nodes())
    store.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="year", value=2020)]))
    assert (await store.aquery(VectorStoreQuery(node_vector("moon"), 9))).ids == found(store, "moon")
    await store.aclear()
    assert store.get_nodes() == []


def test_what_a_vector_store_cannot_hold_is_an_error_and_nothing_is_written(store: Qwen3VectorStore) -> None:
    vector = node_vector("x")
    for wrong, message in (
        ([TextNode(text="x")], "embedding not set"),
        ([TextNode(text="x", id_="a", embedding=vector)] * 2, "repeats the id 'a'"),
        ([TextNode(text="x", metadata={"when": object()}, embedding=vector)], "not JSON: Object of type object"),
        ([TextNode(text="x", metadata={"rate": float("nan")}, embedding=vector)], "not JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            store.add(wrong)
    assert len(store.get_nodes()) == 3
    store.add([TextNode(text="", id_="empty", embedding=vector)])
    assert store.get_nodes(["empty"])[0].get_content() == ""


def test_vector_store_takes_any_embedding_and_notices_others(tmp_path: Path) -> None:
    store = Qwen3VectorStore(tmp_path / "store", MockEmbedding(embed_dim=4))
    store.add([TextNode(text="x", id_="x", embedding=[3.0, 0.0, 0.0, 0.0])])
    again = Qwen3VectorStore.from_json(store.to_json(), embed_model=MockEmbedding(embed_dim=4))
    assert again.query(VectorStoreQuery([1.0, 1.0, 0.0, 0.0], 1)).ids == ["x"]
    again.close()
    store.close()
    for other in (MockEmbedding(embed_dim=5), WORDS):
        with pytest.raises(EmbedderMismatchError):
            Qwen3VectorStore(tmp_path / "store", other)
    with pytest.raises(ValueError, match="embed_model is 'words'"):
        Qwen3VectorStore(tmp_path / "other", "words")
    assert not (tmp_path / "other").exists()


def test_nodes_of_others_are_an_error(tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        pipeline.add([StoredDocument("The moon.", "moon")])
    store = Qwen3VectorStore(tmp_path / "store", WORDS)
    with pytest.raises(ValueError, match=r"documents that LlamaIndex did not write, such as 'The moon\.'"):
        found(store, "moon")
    store.close()


def test_an_index_with_links_finds_its_texts_too(tmp_path: Path) -> None:
    store = Qwen3VectorStore(tmp_path / "store", WORDS)
    mixed = [TextNode(text="the moon pulls", id_="text"), IndexNode(text="the moon far", index_id="z", id_="link")]
    index = VectorStoreIndex(mixed, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=WORDS)
    assert {node.node_id for node in index.as_retriever(similarity_top_k=5).retrieve("moon")} == {"text", "link"}
    store.close()


def test_copies_and_pickles_of_a_vector_store_open_it_again_and_leave_it_whole(tmp_path: Path) -> None:
    store = Qwen3VectorStore(tmp_path / "store", Unpicklable(embed_dim=4))
    store.add([TextNode(text="x", id_="x", embedding=[1.0, 0.0, 0.0, 0.0])])
    with pytest.raises(
        TypeError, match=r"embed_model of Qwen3VectorStore is .* expected something that can be pickled"
    ):
        pickle.dumps(store)
    assert [node.node_id for node in store.get_nodes()] == ["x"]
    store.close()
    store = Qwen3VectorStore(tmp_path / "other", MockEmbedding(embed_dim=4))
    store.add([TextNode(text="x", id_="x", embedding=[1.0, 0.0, 0.0, 0.0])])
    for other in (pickled(store), copy.deepcopy(store), copy.copy(store)):
        assert [node.node_id for node in other.get_nodes()] == ["x"]


class Unpicklable(MockEmbedding):
    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("cannot be pickled")


@pytest.mark.parametrize("use_async", [False, True])
def test_an_index_over_the_store_lives_on_in_another_process(tmp_path: Path, use_async: bool) -> None:
    store = Qwen3VectorStore(tmp_path / "store", WORDS)
    documents = [Document(text=text, id_=f"document {i}") for i, text in enumerate(TEXTS)]
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(documents, context, embed_model=WORDS, use_async=use_async)
    index.delete_ref_doc("document 1")
    index.insert(Document(text="the moon is far away", id_="document 3"))
    store.close()
    again = Qwen3VectorStore(tmp_path / "store", WORDS)
    index = VectorStoreIndex.from_vector_store(again, embed_model=WORDS)
    engine = index.as_query_engine(
        llm=MockLLM(), similarity_top_k=9, node_postprocessors=[Qwen3Rerank(reranker=LengthReranker(), top_n=2)]
    )
    kept = engine.query("moon").source_nodes
    assert [node.node.ref_doc_id for node in kept] == ["document 3", "document 0"]
    hybrid = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3).retrieve("far away")
    assert hybrid[0].node.ref_doc_id == "document 3"
    again.close()


async def test_threads_and_tasks_on_one_model_give_the_serial_results(tiny_reranker: Path, tiny_embedder: Path) -> None:
    postprocessor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32")
    embedding = Qwen3Embedding(model=str(tiny_embedder), dtype="float32")
    queries = [f"tide number {i}" for i in range(32)]
    rows = VectorStoreIndex(nodes(), embed_model=WORDS).as_retriever(similarity_top_k=3).retrieve("moon")

    def work(query: str) -> tuple[list[tuple[str, Any]], Any]:
        kept = postprocessor.postprocess_nodes(rows, query_str=query)
        return scored(kept), pytest.approx(embedding.get_query_embedding(query), abs=1e-5)

    async def awork(query: str) -> tuple[list[tuple[str, Any]], Any]:
        kept = await postprocessor.apostprocess_nodes(rows, query_str=query)
        return scored(kept), await embedding.aget_query_embedding(query)

    def scored(kept: Any) -> list[tuple[str, Any]]:
        return [(node.node_id, pytest.approx(node.score, abs=1e-5)) for node in kept]

    serial = [work(query) for query in queries]
    tasks = await asyncio.gather(*map(awork, queries))
    with ThreadPoolExecutor(32) as pool:
        threads = list(pool.map(work, queries))
    for results in (tasks, threads):
        for (kept, vector), (expected, expected_vector) in zip(results, serial, strict=True):
            assert [(name, score.expected) for name, score in kept] == expected
            assert getattr(vector, "expected", vector) == expected_vector
