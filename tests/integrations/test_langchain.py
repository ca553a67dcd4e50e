import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ValidationError

from fakes import LengthReranker
from langchain_qwen3_rag import Qwen3Rerank
from qwen3_rag import Cascade, Reranker

DOCUMENTS = [
    Document("The moon pulls the sea.", id="1", metadata={"page": 3, "relevance_score": 0.4}),
    Document("Yeast makes bread rise.", id="2", metadata={"page": 4}),
    Document("Merge intervals.", metadata={}),
    Document("", id="empty"),
]


class Everything(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: object = None) -> list[Document]:
        return DOCUMENTS


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32")


def test_titles_are_read_as_in_a_store_if_wanted(reranker: Reranker) -> None:
    metadata = {"title": "Guide", "headings": ["Setup", "Linux"], "other": 1}
    documents = [Document("Run the script.", metadata=metadata), Document("No metadata.")]
    plain, titled = Qwen3Rerank(reranker=reranker), Qwen3Rerank(reranker=reranker, titles=True)
    texts = [document.page_content for document in documents]
    expected = reranker.rank("q", texts), reranker.rank("q", ["Guide\nSetup > Linux\nRun the script.", texts[1]])
    for compressor, ranking in zip((plain, titled), expected, strict=True):
        rows = compressor.rerank(documents, "q")
        assert [row["index"] for row in rows] == [place.corpus_id for place in ranking]
        assert [row["relevance_score"] for row in rows] == pytest.approx([place.score for place in ranking], abs=1e-5)
        assert compressor.compress_documents(documents, "q")[0].page_content in texts


def test_it_compresses_in_a_contextual_compression_retriever(reranker: Reranker) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=Qwen3Rerank(reranker=reranker, top_n=2), base_retriever=Everything()
    )
    scores = reranker.score("tides", [d.page_content for d in DOCUMENTS])
    expected = sorted(range(4), key=lambda i: -scores[i])[:2]
    documents = retriever.invoke("tides")
    assert [d.page_content for d in documents] == [DOCUMENTS[i].page_content for i in expected]
    assert [d.id for d in documents] == [DOCUMENTS[i].id for i in expected]
    assert [d.metadata["relevance_score"] for d in documents] == pytest.approx([float(scores[i]) for i in expected])


async def test_async_gives_the_same(reranker: Reranker) -> None:
    compressor = Qwen3Rerank(reranker=reranker)
    assert await compressor.acompress_documents(DOCUMENTS, "q") == compressor.compress_documents(DOCUMENTS, "q")


def scores(documents: list[Document]) -> dict[str, float]:
    return {document.page_content: document.metadata["relevance_score"] for document in documents}


def test_inputs_stay_unchanged_and_scores_are_recomputed(reranker: Reranker) -> None:
    before = [d.model_copy(deep=True) for d in DOCUMENTS]
    compressor = Qwen3Rerank(reranker=reranker, top_n=10)
    first = compressor.compress_documents(DOCUMENTS, "one query")
    second = compressor.compress_documents(first, "another query entirely")
    assert before == DOCUMENTS
    moon = next(d for d in first if d.id == "1")
    assert (moon.metadata["page"], moon.metadata["retrieval_score"]) == (3, 0.4)
    fresh = scores(compressor.compress_documents(DOCUMENTS, "another query entirely"))
    assert scores(second) == pytest.approx(fresh)
    assert next(d for d in second if d.id == "1").metadata["retrieval_score"] == 0.4


def test_rerank_gives_positions_and_scores(reranker: Reranker) -> None:
    rerank = Qwen3Rerank(reranker=reranker).rerank
    assert [set(entry) for entry in rerank(["a", "b"], "q")] == [{"index", "relevance_score"}] * 2
    assert len(rerank(DOCUMENTS, "q", top_n=1)) == 1
    assert rerank([], "q") == []


def test_min_score_and_instruction(reranker: Reranker) -> None:
    scores = sorted(reranker.score("q", [d.page_content for d in DOCUMENTS]))
    kept = Qwen3Rerank(reranker=reranker, top_n=4, min_score=float(scores[2])).compress_documents(DOCUMENTS, "q")
    assert len(kept) == 2
    by_instruction = Qwen3Rerank(reranker=reranker, instruction="code-search").compress_documents(DOCUMENTS, "q")
    plain = Qwen3Rerank(reranker=reranker).compress_documents(DOCUMENTS, "q")
    assert by_instruction[0].metadata != plain[0].metadata


def test_a_model_by_name_loads_at_first_use(tiny_reranker: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32", max_length=512)
    assert compressor.current_reranker()._loaded is None
    assert len(compressor.compress_documents(DOCUMENTS, "q")) == 3
    assert compressor.compress_documents([], "q") == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_n": 0}, "greater than or equal to 1"),
        ({"min_score": 2}, "less than or equal to 1"),
        ({"modle": "x"}, "Extra inputs are not permitted"),
        ({"model": "nope"}, "unknown reranker 'nope'"),
        ({"reranker": "a string"}, "without read, describe"),
    ],
)
def test_wrong_fields_are_the_frameworks_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Qwen3Rerank(**fields)


def test_both_model_and_reranker_is_an_error(reranker: Reranker) -> None:
    with pytest.raises(ValidationError, match="model set together with reranker"):
        Qwen3Rerank(model="demo", reranker=reranker)
    with pytest.raises(ValueError, match="top_n is 0"):
        Qwen3Rerank(reranker=reranker).rerank(["a"], "q", top_n=0)


def pickled(compressor: Qwen3Rerank) -> Qwen3Rerank:
    return pickle.loads(pickle.dumps(compressor))  # noqa: S301


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled, lambda c: c.model_copy(deep=True)])
def test_copies_of_a_compressor_give_the_same_scores(
    duplicate: Callable[[Qwen3Rerank], Qwen3Rerank], tiny_reranker: Path, reranker: Reranker
) -> None:
    for compressor in (Qwen3Rerank(model=str(tiny_reranker), dtype="float32"), Qwen3Rerank(reranker=reranker)):
        expected = compressor.compress_documents(DOCUMENTS, "q")
        assert duplicate(compressor).compress_documents(DOCUMENTS, "q") == expected


def test_a_shallow_model_copy_shares_the_loaded_weights(tiny_reranker: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32")
    assert compressor.model_copy(update={"top_n": 1}).current_reranker() is compressor.current_reranker()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime", "transformers"), ("runtime_options", {"token_budget": 64}), ("device", "cpu"),
        ("dtype", "bfloat16"), ("max_length", 300),
    ],
)  # fmt: skip
def test_changed_fields_take_effect_however_they_are_changed(tiny_reranker: Path, name: str, value: Any) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker))
    other = compressor.model_copy(update={name: value})
    assert getattr(other.current_reranker(), name) == value
    assert getattr(compressor.current_reranker(), name) != value
    setattr(compressor, name, value)
    assert getattr(compressor.current_reranker(), name) == value


def test_another_model_takes_effect_however_it_is_named(tiny_reranker: Path, tiny_classifier: Path) -> None:
    expected = Qwen3Rerank(model=str(tiny_classifier), dtype="float32").rerank(["a", "b"], "q")
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32")
    assert compressor.rerank(["a", "b"], "q") != expected
    assert compressor.model_copy(update={"model": str(tiny_classifier)}).rerank(["a", "b"], "q") == expected
    compressor.model = str(tiny_classifier)
    assert compressor.rerank(["a", "b"], "q") == expected


def test_options_changed_in_place_take_effect(tiny_reranker: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker))
    compressor.runtime_options["token_budget"] = 64
    assert compressor.current_reranker().describe()["runtime_options"] == {"token_budget": 64}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("top_n", "many", "valid integer"),
        ("model", 3, "valid string"),
        ("max_length", 1, "greater than or equal to 2"),
        ("model", "nope", "unknown reranker 'nope'"),
        ("reranker", "a string", "without read, describe"),
    ],
)
def test_a_wrong_assignment_is_an_error_and_changes_nothing(
    tiny_reranker: Path, name: str, value: Any, message: str
) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker))
    before = compressor.model_dump()
    with pytest.raises(ValidationError, match=message):
        setattr(compressor, name, value)
    assert compressor.model_dump() == before
    assert compressor.reranker is None


def test_assigning_both_a_model_and_a_reranker_is_an_error(reranker: Reranker, tiny_reranker: Path) -> None:
    named, ready = Qwen3Rerank(model=str(tiny_reranker)), Qwen3Rerank(reranker=reranker)
    with pytest.raises(ValidationError, match="model set together with reranker"):
        named.reranker = reranker
    with pytest.raises(ValidationError, match="dtype set together with reranker"):
        ready.dtype = "float32"
    both = named.model_copy(update={"reranker": reranker})
    with pytest.raises(ValueError, match="model set together with reranker"):
        both.compress_documents(DOCUMENTS, "q")
    named.model = None
    named.reranker = reranker
    assert named.current_reranker() is reranker


def test_adaptive_leaves_documents_unread_that_are_not_among_the_best() -> None:
    documents = [Document("word " * (1 + i)) for i in range(50)]
    reranker = LengthReranker()
    full, auto = (Qwen3Rerank(reranker=reranker, top_n=3, adaptive=adaptive) for adaptive in (False, True))
    expected = full.compress_documents(documents, "q")
    assert reranker.pairs == 50
    assert auto.compress_documents(documents, "q") == expected
    assert reranker.pairs == 50 + 20
    assert len(auto.rerank(documents, "q", top_n=15)) == 15


def test_a_preset_cascade_is_a_model_too() -> None:
    assert isinstance(Qwen3Rerank(model="laptop").current_reranker(), Cascade)
    with pytest.raises(ValidationError, match="dtype passed, but 'laptop' is a cascade"):
        Qwen3Rerank(model="laptop", dtype="float32")
