"""Options of a search, ranks of its candidates, and from when its deadline counts."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fakes import LengthReranker, WordEmbedder
from qwen3_rag import Document, InvalidArgumentError, ModelError, Pipeline, RerankResult
from qwen3_rag.models import concurrency
from qwen3_rag.ranking import SearchOptions

QUERY = "apple pear plum cherry fig"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A long document whose passages crowd all others out of the first hundred candidates."""
    folder = tmp_path_factory.mktemp("crowded") / "store"
    with Pipeline.create(folder, WordEmbedder(), LengthReranker(), chunk_tokens=8, chunk_overlap=0) as pipeline:
        long = " ".join(f"apple pear word{number} plum cherry fig." for number in range(150))
        pipeline.add([Document(long, "long"), *(Document(f"apple other{n} stuff", f"other{n}") for n in range(20))])
        yield pipeline


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_retrieval_rank_of_grouped_hits_is_their_rank_in_the_first_stage(
    crowded: Pipeline, rerank: bool, mode: str
) -> None:
    ranks = {
        hit.id: hit.retrieval_rank
        for hit in crowded.search(QUERY, top_k=1000, rerank=False, mode=mode)  # type: ignore[arg-type]
    }
    grouped = crowded.search(QUERY, group_by_document=True, rerank=rerank, mode=mode)  # type: ignore[arg-type]
    assert len({hit.document_id for hit in grouped}) == len(grouped) == 10
    assert {hit.id: hit.retrieval_rank for hit in grouped} == {hit.id: ranks[hit.id] for hit in grouped}
    assert max(hit.retrieval_rank for hit in grouped) > 120


def test_neighbours_of_grouped_hits_are_of_their_own_document(crowded: Pipeline) -> None:
    texts = {name: document.text for name in ("long", "other3") if (document := crowded.get([name])[0])}
    for hit in crowded.search(QUERY, top_k=21, group_by_document=True, neighbours=1):
        if hit.document_id in texts:
            assert hit.text == texts[hit.document_id][hit.start : hit.end]
        else:
            assert hit.text.startswith("apple other")


def test_search_options_are_the_arguments_of_search_with_the_same_defaults() -> None:
    arguments = inspect.signature(Pipeline.search).parameters
    expected = {name: p.default for name, p in arguments.items() if name not in ("self", "query", "cancel")}
    assert {field.name: field.default for field in fields(SearchOptions)} == expected


def test_a_deadline_of_asearch_counts_from_its_call_not_from_when_a_thread_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(concurrency, "_pool", lambda: pool)
    busy = threading.Event()
    pool.submit(busy.wait)

    async def late(pipeline: Pipeline) -> tuple[str | None, float]:
        waiting = asyncio.create_task(pipeline.asearch("text", deadline=0.2))
        await asyncio.sleep(0.4)
        busy.set()
        results = await waiting
        return results.degraded, results.timings["total"]

    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as pipeline:
        pipeline.add([Document(f"text {number}") for number in range(5)])
        degraded, total = asyncio.run(late(pipeline))
    assert degraded == "deadline passed: 0 of 5 candidates were reranked; the rest are in first-stage order"
    assert total >= 0.4, "time spent waiting is part of the total"


def test_the_deadline_of_search_many_is_one_for_all_queries(tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker(seconds=0.05)) as pipeline:
        pipeline.add([Document(f"text {number}") for number in range(4)])
        assert [each.degraded for each in pipeline.search_many(["text"] * 6, deadline=60)] == [None] * 6
        results = pipeline.search_many(["text"] * 200, deadline=0.5)
    assert results[0].degraded is None
    assert "deadline passed: 0 of 4 candidates were reranked" in (results[-1].degraded or "")
    assert all(len(each) == 4 for each in results)
    assert results[-1].timings["total"] < 2


def test_an_error_in_one_query_of_search_many_stops_the_others(tmp_path: Path) -> None:
    class Failing(LengthReranker):
        calls = 0

        def read(self, *arguments: Any, **options: Any) -> RerankResult:
            self.calls += 1
            raise ModelError("no memory left")

    reranker = Failing()
    with Pipeline.create(tmp_path / "store", WordEmbedder(), reranker) as pipeline:
        pipeline.add([Document("text")])
        with pytest.raises(ModelError, match="no memory left"):
            pipeline.search_many(["text"] * 200)
    assert reranker.calls < 200


def test_an_object_that_is_no_embedder_or_reranker_is_an_error_that_lists_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"embedder is .*, without longest, takes_instructions.*expected"):
        Pipeline.create(tmp_path / "s", type("E", (), dict.fromkeys(
            ("dimensions", "encode_query", "encode_document", "spans", "describe")))())  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="reranker is 3, without read, describe"):
        Pipeline.create(tmp_path / "s", WordEmbedder(), 3)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()
