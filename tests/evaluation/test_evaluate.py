"""Evaluations on a small collection, with models that know words and nothing else."""

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, nDCG

from fakes import KnowingReranker, WordEmbedder
from qwen3_rag import Document, InvalidArgumentError, JudgementError, MissingDependencyError, Pipeline, UnknownNameError
from qwen3_rag.evaluation import evaluate
from qwen3_rag.evaluation.figures import by_query, ceiling, compared, mean
from qwen3_rag.evaluation.judged import Judged, read_judged, read_run

QUERIES = 12


def report_of(collection: Path, out: Path, **options: Any) -> dict[str, Any]:
    models = {"embedder": WordEmbedder(), "reranker": KnowingReranker()}
    return evaluate(collection, out, **models | options)  # type: ignore[arg-type]


def test_the_report_has_every_run_and_is_what_is_written(collection: Path, tmp_path: Path) -> None:
    report = report_of(collection, tmp_path / "out", candidates=20)
    assert set(report["runs"]) == {"dense", "lexical", "hybrid", "reranked"}
    for values in report["runs"].values():
        assert set(values) == {"nDCG@10", "MRR@10", "MAP", "recall@10", "recall@100"}
    assert report["runs"]["dense"]["nDCG@10"] < 0.9
    assert report["runs"]["reranked"]["nDCG@10"] == report["ceiling"]["nDCG@10"] == 1
    assert json.loads((tmp_path / "out/report.json").read_text("utf-8")) == report
    assert list(report["curve"]) == ["10", "20"]
    assert report["latency ms"]["reranked"]["rerank"]["p95"] >= 0
    change = report["comparisons"][0]
    assert (change["first"], change["second"]) == ("dense", "reranked")
    assert change["wins"] > 0 == change["losses"]
    assert change["p"] < 0.05
    assert report["best"][0]["hits"][0]["grade"] == 2


def test_measures_are_those_of_ir_measures_on_the_written_runs(collection: Path, tmp_path: Path) -> None:
    report = report_of(collection, tmp_path / "out", candidates=10)
    qrels = list(ir_measures.read_trec_qrels(_trec(collection / "qrels/test.tsv", tmp_path)))
    measures = {"nDCG@10": nDCG @ 10, "MRR@10": RR @ 10, "MAP": AP, "recall@10": R @ 10, "recall@100": R @ 100}
    for name, values in report["runs"].items():
        run = list(ir_measures.read_trec_run(str(tmp_path / f"out/runs/{name}.trec")))
        theirs = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
        assert values == {label: pytest.approx(theirs[m], abs=1e-4) for label, m in measures.items()}


def _trec(table: Path, folder: Path) -> str:
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    (folder / "qrels").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in rows))
    return str(folder / "qrels")


def test_an_evaluation_ranks_as_a_search_does(collection: Path, tmp_path: Path) -> None:
    report_of(collection, tmp_path / "out", candidates=15)
    run = read_run(tmp_path / "out/runs/reranked.trec")
    with Pipeline.open(tmp_path / "out/store", WordEmbedder(), KnowingReranker()) as pipeline:
        hits = pipeline.search("tide moon", top_k=15, candidates=15, group_by_document=True)
    assert list(run["q2"]) == [hit.document_id for hit in hits]


def test_a_second_evaluation_scores_no_pair_again(collection: Path, tmp_path: Path) -> None:
    first, again, other = KnowingReranker(), KnowingReranker(), KnowingReranker(right=False)
    one = report_of(collection, tmp_path / "out", reranker=first, candidates=20)
    two = report_of(collection, tmp_path / "out", reranker=again, candidates=20)
    assert first.pairs == 20 * QUERIES
    assert again.pairs == 0
    assert two["runs"] == one["runs"]
    assert "seconds per pair" in one
    assert "seconds per pair" not in two  # they would be those of reading a file
    assert "rerank" in one["latency ms"]["reranked"]
    assert set(two["latency ms"]["reranked"]) == {"embed", "retrieve"}
    assert two["notes"] == [f"{20 * QUERIES} pairs had been scored before, so times of reranking are not shown"]
    assert "Time of each stage" not in (tmp_path / "out/report.html").read_text("utf-8")
    wrong = report_of(collection, tmp_path / "out", reranker=other, candidates=20)
    assert other.pairs == first.pairs  # another model's scores are not its own
    assert wrong["runs"]["reranked"]["nDCG@10"] < 0.6


def test_an_interrupted_evaluation_continues_and_leaves_no_report(collection: Path, tmp_path: Path) -> None:
    report_of(collection, tmp_path / "out", reranker=KnowingReranker(), candidates=10)
    stopped = KnowingReranker()
    stopped.stop_after = 65
    with pytest.raises(KeyboardInterrupt):
        report_of(collection, tmp_path / "out", reranker=stopped, candidates=20)
    assert not (tmp_path / "out/report.json").exists()
    assert not (tmp_path / "out/report.html").exists()
    resumed = KnowingReranker()
    report_of(collection, tmp_path / "out", reranker=resumed, candidates=20)
    assert stopped.pairs + resumed.pairs == 10 * QUERIES


def test_a_sweep_is_chosen_on_one_half_and_measured_on_the_other(collection: Path, tmp_path: Path) -> None:
    reranker = KnowingReranker()
    sweep = {"blend": ["0", "0.9"], "candidates": ["5", "20"]}
    sweep_report = report_of(collection, tmp_path / "out", reranker=reranker, candidates=20, sweep=sweep)["sweep"]
    assert [row["options"] for row in sweep_report["rows"]] == [
        {"blend": blend, "candidates": candidates} for blend in (0.0, 0.9) for candidates in (5, 20)
    ]
    assert sweep_report["best"]["options"]["blend"] == 0.0
    assert sweep_report["best"]["chosen on"] == max(row["chosen on"] for row in sweep_report["rows"])
    assert reranker.pairs == 20 * QUERIES


def test_adaptive_depth_is_measured_beside_a_fixed_one_of_as_many_pairs(collection: Path, tmp_path: Path) -> None:
    reranker = KnowingReranker()
    report = report_of(collection, tmp_path / "out", reranker=reranker, sweep={"candidates": ["auto", "10"]})
    found = report["adaptive"]
    assert reranker.pairs == 24 * QUERIES  # all documents, once
    assert found["full"] == report["runs"]["reranked"]["nDCG@10"]
    assert 20 <= found["pairs"] <= 24
    assert found["fixed depth"] == round(found["pairs"])
    assert found["against full"]["difference"] == pytest.approx(found["auto"] - found["full"])
    assert [row["options"]["candidates"] for row in report["sweep"]["rows"]] == ["auto", 10]
    assert "Adaptive depth" in (tmp_path / "out/report.html").read_text("utf-8")


def test_runs_alone_need_no_model(collection: Path, tmp_path: Path) -> None:
    runs = tmp_path / "mine.trec"
    runs.write_text("q0 Q0 d0 1 2.0 me\nq1 Q0 e1 1 2.0 me\n")
    (collection / "corpus.jsonl").unlink()
    report = evaluate(collection, tmp_path / "out", runs=[runs])
    assert report["runs"] == {"mine": pytest.approx(dict.fromkeys(report["runs"]["mine"], 1 / 12), abs=1e-4)}
    assert report["notes"] == [
        "the run mine lacks 10 of 12 judged queries, which count as 0",
        "the run mine has fewer than 100 documents for 2 queries; the fewest, 1, for 'q0'",
    ]


def test_a_blend_orders_as_a_search_with_that_blend(collection: Path, tmp_path: Path) -> None:
    report_of(collection, tmp_path / "out", candidates=15, blend=0.9)
    run = read_run(tmp_path / "out/runs/reranked.trec")
    with Pipeline.open(tmp_path / "out/store", WordEmbedder(), KnowingReranker()) as pipeline:
        hits = pipeline.search("tide moon", top_k=15, candidates=15, group_by_document=True, blend=0.9)
    assert list(run["q2"]) == [hit.document_id for hit in hits]


def test_without_a_reranker_the_first_stages_are_measured(collection: Path, tmp_path: Path) -> None:
    report = report_of(collection, tmp_path / "out", reranker="none")
    assert set(report["runs"]) == {"dense", "lexical", "hybrid"}
    with Pipeline.create(tmp_path / "store", WordEmbedder(), KnowingReranker()) as pipeline:
        pipeline.index(collection / "corpus.jsonl")
    # The store remembers a reranker that only its own program can make; it is not needed here.
    again = report_of(collection, tmp_path / "again", store=tmp_path / "store", reranker="none")
    assert again["runs"] == report["runs"]


def test_a_missing_package_is_an_error_before_anything_is_indexed(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qwen3-rag\[eval\]'"):
        report_of(collection, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_store_is_searched_as_it_is(collection: Path, tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        pipeline.index(collection / "corpus.jsonl")
    report = report_of(collection, tmp_path / "out", store=tmp_path / "store", candidates=10)
    assert not (tmp_path / "out/store").exists()
    assert report["runs"]["reranked"]["nDCG@10"] == 1


def test_a_store_of_another_collection_is_an_error(collection: Path, tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        pipeline.add([Document("something else")])
    with pytest.raises(JudgementError, match="none of the 12 documents that are judged relevant, such as 'd0'"):
        report_of(collection, tmp_path / "out", store=tmp_path / "store")


def test_relevant_documents_that_are_missing_are_counted(collection: Path, tmp_path: Path) -> None:
    lines = (collection / "corpus.jsonl").read_text("utf-8").splitlines()
    (collection / "corpus.jsonl").write_text("\n".join(lines[1:]), "utf-8")
    report = report_of(collection, tmp_path / "out", candidates=10)
    assert report["notes"] == ["1 relevant documents are not in the store, the first is 'd0'"]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"depth": [1]}, "option to sweep .*depth"),
        ({"candidates": ["few"]}, "candidates is 'few'; expected whole numbers or 'auto'"),
    ],
)
def test_a_wrong_sweep_is_an_error_before_anything_runs(
    collection: Path, tmp_path: Path, sweep: dict[str, Any], said: str
) -> None:
    with pytest.raises((InvalidArgumentError, UnknownNameError), match=said):
        report_of(collection, tmp_path / "out", sweep=sweep)
    assert not (tmp_path / "out").exists()


def test_the_page_has_plots_and_needs_nothing_from_elsewhere(collection: Path, tmp_path: Path) -> None:
    queries = collection / "queries.jsonl"
    queries.write_text(
        queries.read_text("utf-8").replace('"pump valve"', '"pump valve <script>alert(1)</script>"'), "utf-8"
    )
    report_of(collection, tmp_path / "out", candidates=20, sweep={"blend": [0, 0.5]})
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert page.count("<svg") == len(list((tmp_path / "out/plots").glob("*.svg"))) == 4
    assert "<script" not in page
    assert "src=" not in page
    assert "Best on one half of the queries" in page


def test_the_ceiling_is_the_best_order_of_the_candidates() -> None:
    judged = Judged("x", {"q": "text"}, {"q": {"a": 2, "b": 1, "c": 1}})
    run = {"q": {"z": 3.0, "b": 2.0, "a": 1.0}}
    assert mean(ceiling(judged, run))["nDCG@10"] == pytest.approx(
        mean(by_query(judged, {"q": {"a": 2.0, "b": 1.0, "z": 0.0}}))["nDCG@10"]
    )
    assert mean(ceiling(judged, run))["recall@10"] == pytest.approx(2 / 3)


def test_equal_runs_have_no_significance() -> None:
    values = {"a": 0.5, "b": 0.25}
    assert compared(values, values) == {"difference": 0, "wins": 0, "losses": 0, "ties": 2, "p": None, "interval": None}


def test_a_difference_has_its_interval_and_p_value() -> None:
    generator = np.random.default_rng(1)
    first = {str(i): float(value) for i, value in enumerate(generator.uniform(size=60))}
    second = {name: value + 0.1 + 0.05 * float(generator.standard_normal()) for name, value in first.items()}
    result = compared(first, second)
    low, high = result["interval"]
    assert low < result["difference"] < high
    assert low > 0.08
    assert result["p"] < 1e-6


def test_demo_data_is_read_as_it_is() -> None:
    from conftest import ROOT

    folder = ROOT / "data/demo"
    judged = read_judged(folder / "queries.jsonl", folder / "qrels/test.tsv", "demo")
    assert len(judged.queries) == 96
    assert judged.notes == ()
