"""`candidates="auto"`: the results are those of reading everything that was read, and nothing unread slips in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes import LengthReranker, WordEmbedder
from qwen3_rag import Cascade, Document, InvalidArgumentError, Pipeline
from qwen3_rag.cli import app

# The first stage's order is the reranker's: the more often a text says "tide" among other words, the shorter it is.
DOCUMENTS = [Document("tide " + "water " * (1 + i), id=f"d{i}", metadata={"even": i % 2 == 0}) for i in range(60)]


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as opened:
        opened.add(DOCUMENTS)
        yield opened


def test_auto_reads_fewer_and_finds_the_same(pipeline: Pipeline) -> None:
    full, auto = pipeline.search("tide", top_k=10), pipeline.search("tide", top_k=10, candidates="auto")
    assert [hit.id for hit in auto] == [hit.id for hit in full]
    assert (full.reread, auto.reread) == (60, 20)
    assert auto.degraded is None
    assert pipeline.search("tide", rerank=False, candidates="auto").reread == 0


def test_auto_of_many_queries_is_that_of_each(pipeline: Pipeline) -> None:
    queries = ["tide", "water", "tide water"]
    together = pipeline.search_many(queries, top_k=5, candidates="auto")
    for query, results in zip(queries, together, strict=True):
        alone = pipeline.search(query, top_k=5, candidates="auto")
        assert [hit.id for hit in results] == [hit.id for hit in alone]
        assert results.reread == alone.reread
    assert [results.reread for results in together] == [20, 60, 20]


def test_what_auto_left_unread_does_not_pass_a_threshold(pipeline: Pipeline) -> None:
    full = pipeline.search("tide", top_k=10)
    least = full[3].score
    assert least is not None
    auto = pipeline.search("tide", top_k=10, candidates="auto", min_score=least)
    assert [hit.id for hit in auto] == [hit.id for hit in full[:4]]
    assert all(hit.reranked for hit in auto)


def test_auto_wants_top_k_documents_and_texts(tmp_path: Path) -> None:
    with Pipeline.create(
        tmp_path / "store", WordEmbedder(), LengthReranker(), chunk_tokens=16, chunk_overlap=0
    ) as pipeline:
        long = " ".join(f"tide {'water ' * (i % 3)}." for i in range(200))
        pipeline.add([Document(long, id="long"), *DOCUMENTS[40:]])
        hits = pipeline.search("tide", top_k=5, candidates="auto", group_by_document=True)
        assert len({hit.document_id for hit in hits}) == 5
        assert all(hit.reranked for hit in hits)
        same = pipeline.search("tide", top_k=5, candidates="auto", distinct=True)
        assert len({hit.text for hit in same}) == len(same) == 5
        assert all(hit.reranked for hit in same)


def test_auto_ends_with_the_deadline(pipeline: Pipeline) -> None:
    with Pipeline.open(pipeline.store.folder, WordEmbedder(), LengthReranker(seconds=0.05)) as slow:
        results = slow.search("tide", top_k=30, candidates="auto", deadline=0.3)
    assert results.degraded is not None
    assert "deadline" in results.degraded
    assert 0 < results.reread < 30 <= len(results)


def test_auto_works_in_a_cascade(pipeline: Pipeline) -> None:
    cascade = Cascade([(LengthReranker(), 50), (LengthReranker(), 30)])
    with Pipeline.open(pipeline.store.folder, WordEmbedder(), cascade) as opened:
        results = opened.search("tide", top_k=5, candidates="auto")
    assert [hit.id for hit in results] == [hit.id for hit in pipeline.search("tide", top_k=5)]
    assert results.reread == 40


def test_another_word_for_candidates_is_an_error(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="candidates is 'all'; expected a whole number, 'auto' or None"):
        pipeline.search("tide", candidates="all")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"candidates is 2\.5"):
        pipeline.search("tide", candidates=2.5)  # type: ignore[arg-type]
    run = CliRunner().invoke(app, ["search", str(pipeline.store.folder), "tide", "--candidates", "many"])
    assert run.exit_code == 2
    assert "--candidates is 'many'; expected a whole number or 'auto'" in run.output
