"""Embeddings, retriever and vector store for LangChain: what the published suites do not ask."""

import copy
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from fakes import LengthReranker, WordEmbedder
from langchain_qwen3_rag import Qwen3Embeddings, Qwen3Rerank, Qwen3Retriever, Qwen3VectorStore
from qwen3_rag import Document as StoredDocument
from qwen3_rag import Embedder, EmbedderMismatchError, Pipeline
from qwen3_rag.adapters.fields import _Shared
from qwen3_rag.errors import FilterError, InvalidArgumentError

TEXTS = ["the moon pulls the sea", "yeast makes bread rise", "tides follow the moon and the sun"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Qwen3VectorStore]:
    store = Qwen3VectorStore(tmp_path / "store", Qwen3Embeddings(embedder=WordEmbedder()))
    store.add_texts(TEXTS, [{"year": 2019 + i, "source": f"{i}.txt"} for i in range(3)], ids=["0", "1", "2"])
    yield store
    store.close()


def test_embeddings_are_those_of_the_embedder_with_the_query_instruction(tiny_embedder: Path) -> None:
    embeddings = Qwen3Embeddings(model=str(tiny_embedder), dtype="float32", instruction="code-search")
    embedder = Embedder(str(tiny_embedder), dtype="float32")
    assert embeddings.embed_query("q") == pytest.approx(embedder.encode_query("q", "code-search").tolist(), abs=1e-6)
    assert embeddings.embed_query("q") != pytest.approx(embedder.encode_query("q").tolist(), abs=1e-6)
    assert embeddings.embed_documents(TEXTS) == [pytest.approx(r.tolist()) for r in embedder.encode_document(TEXTS)]
    assert embeddings.embed_documents([]) == []
    assert len(Qwen3Embeddings(model=str(tiny_embedder), dimensions=32).embed_query("q")) == 32


def test_embeddings_copy_pickle_and_change_as_components_do(tiny_embedder: Path) -> None:
    embeddings = Qwen3Embeddings(model=str(tiny_embedder), dtype="float32")
    expected = embeddings.embed_query("q")
    again = pickle.loads(pickle.dumps(embeddings))  # noqa: S301
    for other in (copy.copy(embeddings), copy.deepcopy(embeddings), embeddings.model_copy(), again):
        assert other.embed_query("q") == expected
        assert other.current_embedder() is embeddings.current_embedder(), "equal fields share the weights"
    embeddings.dimensions = 32
    assert len(embeddings.embed_query("q")) == 32
    with pytest.raises(ValidationError, match="model set together with embedder"):
        Qwen3Embeddings(model=str(tiny_embedder), embedder=WordEmbedder())
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Qwen3Embeddings(modle="x")


def test_models_are_shared_by_where_and_what_they_are_not_by_how_they_are_called(
    tiny_embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        shutil.copytree(tiny_embedder, tmp_path / name / "model")
    monkeypatch.chdir(tmp_path / "one")
    first = Qwen3Embeddings(model="./model")
    assert Qwen3Embeddings(model="./model").current_embedder() is first.current_embedder()
    monkeypatch.chdir(tmp_path / "two")
    second = Qwen3Embeddings(model="./model")
    assert second.current_embedder() is not first.current_embedder()
    assert Qwen3Embeddings(model="./model", device="cpu").current_embedder() is not second.current_embedder()
    os.utime("model/model.safetensors", ns=(0, 2 * 10**18))
    assert Qwen3Embeddings(model="./model").current_embedder() is not second.current_embedder(), "trained again"
    before = len(_Shared.models)
    del first, second
    assert len(_Shared.models) < before, "weights that nobody uses are freed"


def test_retriever_documents_carry_place_and_both_scores(tmp_path: Path) -> None:
    file = tmp_path / "guide.md"
    file.write_text("# Guide\n\n## Setup\n\nRun the script now.\n\n## Removal\n\nDelete the folder.\n")
    options = {"chunk_tokens": 8, "chunk_overlap": 0}
    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker(), **options) as pipeline:
        pipeline.index(file)
        documents = Qwen3Retriever(pipeline=pipeline).invoke("delete the folder")
        hits = pipeline.search("delete the folder")
        assert [(each.page_content, each.id) for each in documents] == [(hit.text, hit.id) for hit in hits]
        document, hit = next(both for both in zip(documents, hits, strict=True) if "Delete" in both[1].text)
        assert document.metadata == hit.metadata | {
            "source": str(file), "title": "Guide", "headings": ["Removal"], "document_id": hit.document_id,
            "start_index": hit.start, "end_index": hit.end, "relevance_score": hit.score,
            "retrieval_score": hit.retrieval_score,
        }  # fmt: skip


async def test_retriever_takes_every_argument_of_a_search_for_one_call(store: Qwen3VectorStore) -> None:
    retriever = Qwen3Retriever(pipeline=store.pipeline, k=3, filter={"year": {"$lte": 2020}})
    assert {d.metadata["document_id"] for d in retriever.invoke("moon")} == {"0", "1"}
    assert [d.metadata["document_id"] for d in retriever.invoke("moon", filter={"year": 2021})] == ["2"]
    assert len(await retriever.ainvoke("moon", k=1)) == 1
    lexical = Qwen3Retriever(pipeline=store.pipeline, search_kwargs={"mode": "lexical"})
    assert {d.metadata["document_id"] for d in lexical.invoke("moon")} == {"0", "2"}
    assert len(lexical.invoke("moon", mode="dense")) == 3
    by_call = retriever.configurable_fields(filter=ConfigurableField("filter"))
    assert len(by_call.invoke("moon", {"configurable": {"filter": {"year": 2021}}})) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "greater than or equal to 1"),
        ({"search_kwargs": {"modle": 1}}, "unknown argument of a search 'modle'"),
        ({"search_kwargs": {"mode": "fast"}}, "unknown mode 'fast'"),
        ({"search_kwargs": {"blend": 2}}, "blend is 2; expected a number from 0 to 1"),
        ({"pipeline": "my-store"}, "pipeline is 'my-store'; expected a Pipeline"),
        ({"top_k": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_fields_of_a_retriever_are_the_frameworks_errors(
    store: Qwen3VectorStore, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Qwen3Retriever(**{"pipeline": store.pipeline} | fields)
    with pytest.raises(InvalidArgumentError, match="unknown argument of a search 'filtr'"):
        Qwen3Retriever(pipeline=store.pipeline).invoke("moon", filtr={})


def test_vector_store_searches_by_filter_and_mode_and_gives_cosines(store: Qwen3VectorStore) -> None:
    found = store.similarity_search_with_score("the moon pulls the sea", k=2)
    assert found[0][0] == Document(TEXTS[0], id="0", metadata={"year": 2019, "source": "0.txt"})
    assert found[0][1] == pytest.approx(1, abs=1e-3)
    assert store.similarity_search("moon", k=9, filter={"year": {"$gte": 2020}})[0].id == "2"
    assert {d.id for d in store.similarity_search("moon", k=9, mode="lexical")} == {"0", "2"}
    assert store.similarity_search("moon", k=1, mode="hybrid")[0].id in "02"
    relevance = dict(enumerate(score for _, score in store.similarity_search_with_relevance_scores(TEXTS[1], k=3)))
    assert relevance[0] == pytest.approx(1, abs=1e-3)
    assert relevance[0] > relevance[2] >= 0
    assert store.similarity_search_by_vector(store.embeddings.embed_query(TEXTS[1]), k=1)[0].id == "1"


def test_vector_store_finds_different_documents_by_marginal_relevance(store: Qwen3VectorStore) -> None:
    store.add_texts([TEXTS[0] + " ."], ids=["copy"])
    near = [d.id for d in store.similarity_search(TEXTS[0], k=2)]
    spread = [d.id for d in store.max_marginal_relevance_search(TEXTS[0], k=2, fetch_k=4, lambda_mult=0.1)]
    assert set(near) == {"0", "copy"}
    assert len({"0", "copy"} & set(spread)) == 1
    assert store.as_retriever(search_type="mmr", search_kwargs={"k": 2}).invoke("moon")


def test_vector_store_deletes_by_ids_filter_or_all(store: Qwen3VectorStore) -> None:
    store.delete(filter={"year": {"$lt": 2020}})
    assert [d.id for d in store.get_by_ids(["0", "1", "2", "1"])] == ["1", "2"]
    store.delete(["1", "unknown"], filter={"year": 2021})
    assert len(store.pipeline) == 2
    store.delete()
    assert len(store.pipeline) == 0


def test_vector_store_keeps_documents_without_ids_metadata_or_text(store: Qwen3VectorStore) -> None:
    ids = store.add_documents([Document(""), Document("same"), Document("same"), Document("x", id="0")])
    assert len(set(ids)) == 4
    assert ids[3] == "0"
    assert len(store.pipeline) == 3 + 3
    assert store.get_by_ids(["0"])[0].page_content == "x"
    assert store.get_by_ids([ids[0]])[0].page_content == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metadatas": [{"when": object()}]}, "is not JSON"),
        ({"metadatas": [{}, {}]}, "1 texts, 2 metadatas"),
        ({"ids": ["a", "b"]}, "1 metadatas, 2 ids"),
        ({"metadatas": [None]}, "metadata of .* is None"),
        ({"namespace": 3}, r"unknown arguments \{'namespace': 3\}"),
        ({"ids": [""]}, "id is ''"),
        ({"ids": [3]}, "id is 3"),
    ],
)
def test_what_a_vector_store_cannot_hold_is_an_error_and_nothing_is_written(
    store: Qwen3VectorStore, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.add_texts(["new"], **arguments)
    assert len(store.pipeline) == 3
    with pytest.raises(InvalidArgumentError, match="repeats the id 'a'"):
        store.add_texts(["one", "two"], ids=["a", "a"])
    with pytest.raises(FilterError):
        store.similarity_search("moon", filter={"year": {"$near": 3}})
    with pytest.raises(InvalidArgumentError, match="k is 0"):
        store.similarity_search("moon", k=0)
    with pytest.raises(InvalidArgumentError, match="unknown mode 'fast'"):
        store.similarity_search("moon", mode="fast")
    with pytest.raises(ValueError, match="vector 0 has the length 0"):
        store.similarity_search_by_vector([0.0] * 32)


def test_a_misspelt_argument_is_an_error_and_not_a_search_without_it(store: Qwen3VectorStore) -> None:
    vector = store.embeddings.embed_query("moon")
    for search in (
        lambda: store.similarity_search("moon", filtr={}),
        lambda: store.similarity_search_by_vector(vector, filtr={}),
        lambda: store.max_marginal_relevance_search("moon", filtr={}),
        lambda: store.max_marginal_relevance_search("moon", mode="lexical"),
        lambda: store.delete(filtr={}),
    ):
        with pytest.raises(ValueError, match="unknown arguments"):
            search()
    with pytest.raises(ValueError, match="only cosines are relevance scores"):
        store.similarity_search_with_relevance_scores("moon", mode="lexical")


async def test_vector_store_is_kept_in_step_by_langchains_indexing_api(store: Qwen3VectorStore) -> None:
    records = InMemoryRecordManager("test")
    records.create_schema()
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    documents = [Document(text, metadata={"source": f"{i}.txt"}) for i, text in enumerate(TEXTS)]
    store.delete()
    assert index(documents, records, store, **options)["num_added"] == 3
    assert (await aindex(documents, records, store, **options))["num_skipped"] == 3
    assert index(documents[:2], records, store, **options)["num_deleted"] == 1
    assert len(store.pipeline) == 2


async def test_vector_store_uses_the_embeddings_own_async_methods(tmp_path: Path) -> None:
    class Recording(Unscaled):
        def embed_query(self, text: str) -> list[float]:
            calls.append("query")
            return super().embed_query(text)

        async def aembed_query(self, text: str) -> list[float]:
            calls.append("async query")
            return super().embed_query(text)

        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            calls.append("async documents")
            return super().embed_documents(texts)

    calls: list[str] = []
    store = Qwen3VectorStore(tmp_path / "store", Recording(size=8))
    calls.clear()
    await store.aadd_texts(["a", "b"], ids=["a", "b"])
    assert [d.id for d in await store.asimilarity_search("a", k=1)] == ["a"]
    assert len(await store.amax_marginal_relevance_search("a", k=2)) == 2
    assert calls == ["async documents", "async query", "async query"]
    store.close()


def test_retriever_over_a_vector_store_reranks_and_keeps_the_documents_own_place(tmp_path: Path) -> None:
    store = Qwen3VectorStore(tmp_path / "store", Qwen3Embeddings(embedder=WordEmbedder()), LengthReranker())
    store.add_texts(["the moon"], [{"start_index": 1200, "document_id": "book"}], ids=["c7"])
    (document,) = Qwen3Retriever(pipeline=store.pipeline).invoke("moon")
    own = {name: document.metadata[name] for name in ("document_id", "start_index", "end_index")}
    assert own == {"document_id": "book", "start_index": 1200, "end_index": 1208}
    assert document.metadata["relevance_score"] is not None
    (plain,) = Qwen3Retriever(pipeline=store.pipeline, scores=False).invoke("moon")
    assert not {"relevance_score", "retrieval_score"} & plain.metadata.keys()
    store.close()


def test_a_failed_assignment_leaves_a_retriever_as_it_was(store: Qwen3VectorStore) -> None:
    retriever = Qwen3Retriever(pipeline=store.pipeline)
    with pytest.raises(ValidationError, match="unknown argument of a search 'modle'"):
        retriever.search_kwargs = {"modle": 1}
    assert len(retriever.invoke("moon")) == 3


class Unscaled(DeterministicFakeEmbedding):
    """Vectors that are not of length 1."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[3 * value for value in row] for row in super().embed_documents(texts)]


def test_vector_store_takes_any_embeddings_and_notices_others(tmp_path: Path) -> None:
    store = Qwen3VectorStore.from_texts(["a", "b"], Unscaled(size=8), path=tmp_path / "store")
    assert store.similarity_search("a", k=1)[0].page_content == "a"
    store.close()
    again = Qwen3VectorStore(tmp_path / "store", Unscaled(size=8))
    assert len(again.similarity_search("a", k=9)) == 2
    again.close()
    for other in (DeterministicFakeEmbedding(size=9), Qwen3Embeddings(embedder=WordEmbedder())):
        with pytest.raises(EmbedderMismatchError):
            Qwen3VectorStore(tmp_path / "store", other)


class Broken(Embeddings):
    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.0, 0.0] for _ in texts]


def test_vectors_of_zero_and_things_that_embed_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vector 0 has the length 0\.0"):
        Qwen3VectorStore(tmp_path / "store", Broken())
    assert not (tmp_path / "store").exists()
    with pytest.raises(ValueError, match="embedding is 'words'"):
        Qwen3VectorStore(tmp_path / "store", "words")
    with pytest.raises(ValueError, match="not JSON"):
        Qwen3VectorStore.from_texts(["a"], Unscaled(size=8), [{"a": object()}], path=tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(ValueError, match="path is None"):
        Qwen3VectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=8))


def test_a_store_made_on_the_command_line_opens_as_a_vector_store(tmp_path: Path, tiny_embedder: Path) -> None:
    with Pipeline.create(tmp_path / "store", str(tiny_embedder), None) as pipeline:
        pipeline.add([StoredDocument("The moon pulls the sea.", "doc", title="Tides")])
    store = Qwen3VectorStore(tmp_path / "store", Qwen3Embeddings(model=str(tiny_embedder)))
    (document,) = store.similarity_search("moon")
    assert (document.id, document.metadata) == ("doc", {"title": "Tides"})
    store.close()


def test_components_work_together_in_an_ensemble_with_the_reranker(store: Qwen3VectorStore) -> None:
    lexical = store.as_retriever(search_kwargs={"mode": "lexical"})
    both = EnsembleRetriever(retrievers=[lexical, store.as_retriever()], weights=[0.5, 0.5])
    chain = {"documents": both, "query": lambda query: query} | Qwen3Rerank(reranker=LengthReranker(), top_n=2)
    assert [d.id for d in chain.invoke("moon")] == ["0", "1"]
