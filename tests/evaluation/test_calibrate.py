"""Calibration: fitted curves are right on queries they have not seen, and are used for what they hold for only."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import WordEmbedder
from qwen3_rag import Cascade, Document, InvalidArgumentError, JudgementError, ModelError, Pipeline, Reranker
from qwen3_rag.calibration import Calibration, Isotonic, Platt, calibrations_of
from qwen3_rag.evaluation import calibrate
from qwen3_rag.evaluation.fitting import Pairs, calibration_error, fitted, reliability, threshold
from qwen3_rag.models.binding import binding_of, binding_text
from qwen3_rag.scores import RerankResult, probability

QUERIES, DOCUMENTS = 60, 12


class BoldReranker:
    """Log-odds that tell relevant texts from others, but are three times too large: of a text "… is 0.7", 3 logit(0.7).

    Args:
        name: Of the model.
        broken: Returns NaN.
    """

    def __init__(self, name: str = "bold", broken: bool = False) -> None:
        self.name, self.broken = name, broken

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        chances = np.array([float(text.rsplit(" ", 1)[-1]) for text in documents])
        log_odds = 3 * np.log(chances / (1 - chances))
        if self.broken:
            log_odds[:] = np.nan
        return RerankResult(log_odds.astype(np.float32), np.zeros(len(documents), np.int64))

    def describe(self) -> dict[str, Any]:
        return {"model": self.name}


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Queries whose documents are relevant with the probability that they say."""
    generator = np.random.default_rng(5)
    corpus, queries, grades = [], [], ["query-id\tcorpus-id\tscore"]
    for query in range(QUERIES):
        queries.append({"_id": f"q{query}", "text": f"word{query}"})
        for number in range(DOCUMENTS):
            chance = round(float(generator.uniform(0.05, 0.95)), 3)
            name = f"q{query}d{number}"
            corpus.append({"_id": name, "title": "", "text": f"word{query} is {chance}"})
            grades.append(f"q{query}\t{name}\t{int(generator.uniform() < chance)}")
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)), "utf-8")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), "utf-8")
    (folder / "qrels/test.tsv").write_text("\n".join(grades) + "\n", "utf-8")
    return folder


@pytest.fixture
def pipeline(judged: Path, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), BoldReranker()) as opened:
        opened.index(judged / "corpus.jsonl")
        yield opened


def calibrated(pipeline: Pipeline, judged: Path, **options: Any) -> dict[str, Any]:
    files = judged / "queries.jsonl", judged / "qrels/test.tsv"
    return calibrate(pipeline, *files, **{"candidates": DOCUMENTS} | options)


def test_probabilities_are_the_share_of_relevant_passages(pipeline: Pipeline, judged: Path, tmp_path: Path) -> None:
    report = calibrated(pipeline, judged, out=tmp_path / "out")
    error = report["calibration error"]["all"]
    assert error["before"] > 0.15
    assert error["after"] < 0.06
    assert report["stages"][0]["curve"] == "platt"
    hits = pipeline.search("word3", top_k=DOCUMENTS, candidates=DOCUMENTS)
    for hit in hits:
        assert hit.score is not None
        assert hit.probability == pytest.approx(float(hit.text.rsplit(" ", 1)[-1]), abs=0.1)
    assert json.loads((tmp_path / "out/calibration.json").read_text()) == report
    assert (tmp_path / "out/reliability.svg").read_text().startswith("<svg")


def test_a_threshold_reaches_the_precision_that_was_wished(pipeline: Pipeline, judged: Path) -> None:
    report = calibrated(pipeline, judged, precision=0.8)
    least = report["min_probability"]
    grades = dict(line.rsplit("\t", 1) for line in (judged / "qrels/test.tsv").read_text().splitlines()[1:])
    kept = [
        grades.get(f"q{query}\t{hit.document_id}") == "1"
        for query in range(QUERIES)
        for hit in pipeline.search(f"word{query}", top_k=DOCUMENTS, candidates=DOCUMENTS, min_probability=least)
    ]
    assert len(kept) > 50
    assert np.mean(kept) > 0.75
    assert report["answer_probability"] is not None
    rows = {row["precision"]: row for row in report["thresholds"]}
    assert rows[0.8]["min_probability"] == least
    assert 0 < rows[0.8]["relevant kept"] < rows[0.5]["relevant kept"] <= 1


def test_results_say_whether_they_answer(pipeline: Pipeline, judged: Path) -> None:
    before = pipeline.search("word3", candidates=DOCUMENTS)
    assert before.answered is None
    assert before.uncalibrated is None
    assert before[0].probability is None
    calibrated(pipeline, judged)
    best = pipeline.search("word3", candidates=DOCUMENTS)[0].probability
    assert best is not None
    assert pipeline.search("word3", candidates=DOCUMENTS, min_probability=best).answered is True
    none = pipeline.search("word3", candidates=DOCUMENTS, min_probability=1.0)
    assert none.answered is False
    assert not none
    assert pipeline.search("word3", rerank=False).answered is None
    assert "probability" in pipeline.search("word3", candidates=DOCUMENTS).explain()


def test_without_a_calibration_a_search_says_so_and_goes_on(pipeline: Pipeline) -> None:
    results = pipeline.search("word3", candidates=DOCUMENTS, min_probability=0.9)
    assert len(results) == 10
    assert results.uncalibrated == "the store has no calibration, so min_probability was not applied"


def test_a_calibration_is_not_used_for_another_model_or_instruction(pipeline: Pipeline, judged: Path) -> None:
    calibrated(pipeline, judged)
    with Pipeline.open(pipeline.store.folder, WordEmbedder(), BoldReranker("other")) as other:
        results = other.search("word3", candidates=DOCUMENTS, min_probability=0.99)
    assert results.answered is None
    assert len(results) == 10
    assert results.uncalibrated is not None
    assert "is calibrated for {'model': 'bold'}" in results.uncalibrated
    assert "used {'model': 'other'}" in results.uncalibrated
    results = pipeline.search("word3", candidates=DOCUMENTS, instruction="Judge the passage strictly")
    assert results[0].probability is None
    calibrated(pipeline, judged, instruction="Judge the passage strictly")
    assert pipeline.search("word3", instruction="Judge the passage strictly")[0].probability is not None
    assert pipeline.search("word3")[0].probability is not None
    assert len(pipeline.info()["calibrations"]) == 2


def test_a_new_calibration_replaces_its_own_kind_and_is_seen_by_other_readers(pipeline: Pipeline, judged: Path) -> None:
    with Pipeline.open(pipeline.store.folder, WordEmbedder(), BoldReranker()) as reader:
        calibrated(pipeline, judged, precision=0.7)
        assert reader.search("word3")[0].probability is not None
        calibrated(pipeline, judged, precision=0.9)
        assert [each["precision"] for each in reader.info()["calibrations"]] == [0.9]


def test_a_cascade_is_calibrated_by_stage(pipeline: Pipeline, judged: Path) -> None:
    cascade = Cascade([(BoldReranker("small"), DOCUMENTS), (BoldReranker("large"), 5)])
    with Pipeline.open(pipeline.store.folder, WordEmbedder(), cascade) as opened:
        report = calibrated(opened, judged)
        assert [stage["curve"] for stage in report["stages"]] == ["platt", "platt"]
        hits = opened.search("word3", top_k=DOCUMENTS, candidates=DOCUMENTS)
    values = [hit.probability for hit in hits]
    assert all(value is not None for value in values)


def test_too_few_queries_and_one_class_only_are_errors_with_the_number(pipeline: Pipeline, judged: Path) -> None:
    table = judged / "qrels/test.tsv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[: 1 + 7 * DOCUMENTS]))
    with pytest.raises(JudgementError, match=r"has \d judged queries; a calibration needs at least 20"):
        calibrated(pipeline, judged)
    table.write_text(lines[0] + "".join(line[:-2] + "1\n" for line in lines[1:]))
    with pytest.raises(JudgementError, match="hold 0 other passages; expected at least 10"):
        calibrated(pipeline, judged, candidates=1)
    assert pipeline.info()["calibrations"] == []


def test_nan_scores_are_an_error_with_the_number(pipeline: Pipeline, judged: Path) -> None:
    with (
        Pipeline.open(pipeline.store.folder, WordEmbedder(), BoldReranker(broken=True)) as opened,
        pytest.raises(ModelError, match="12 of 12 log-odds are NaN"),
    ):
        calibrated(opened, judged)


def test_wrong_arguments_are_errors(pipeline: Pipeline, judged: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"precision is 1\.5"):
        calibrated(pipeline, judged, precision=1.5)
    with pytest.raises(InvalidArgumentError, match="min_probability is 2"):
        pipeline.search("word3", min_probability=2)
    with (
        Pipeline.open(pipeline.store.folder, WordEmbedder(), "none") as opened,
        pytest.raises(InvalidArgumentError, match="there is no reranker"),
    ):
        calibrated(opened, judged)


def test_a_store_of_other_documents_is_an_error(judged: Path, tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "other", WordEmbedder(), BoldReranker()) as pipeline:
        pipeline.add([Document(f"something {i} 0.5") for i in range(20)])
        with pytest.raises(JudgementError, match="hold 0 relevant passages"):
            calibrated(pipeline, judged)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3), st.floats(-3, 1))
def test_a_curve_is_found_again_and_rises(seed: int, slope: float, intercept: float) -> None:
    pairs = _drawn(seed, slope, intercept)
    curve, outside, brier = fitted(pairs)
    truth = probability(slope * pairs.log_odds + intercept)
    assert np.abs(curve(pairs.log_odds) - truth).mean() < 0.08
    assert calibration_error(outside, pairs.relevant) < 0.08
    assert min(brier.values()) <= float(np.mean((probability(pairs.log_odds) - pairs.relevant) ** 2)) + 0.01
    points = np.linspace(-20, 20, 200)
    assert (np.diff(curve(points)) >= 0).all()
    assert ((curve(points) >= 0) & (curve(points) <= 1)).all()


def _drawn(seed: int, slope: float, intercept: float) -> Pairs:
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(0, 3, 2000)
    relevant = generator.uniform(size=2000) < probability(slope * log_odds + intercept)
    query = np.repeat(np.arange(100), 20)
    return Pairs(log_odds, relevant, query, np.tile(np.arange(20), 100), np.zeros(2000, np.int64))


def test_scores_that_mislead_give_a_flat_curve() -> None:
    curve, _, _ = fitted(_drawn(1, -1.0, -1.0))
    values = curve(np.array([-10.0, 0.0, 10.0]))
    assert (np.diff(values) >= 0).all()
    assert np.ptp(values) < 0.5


def test_bins_and_error_are_those_of_the_definition() -> None:
    predicted = np.array([0.05, 0.05, 0.95, 1.0])
    relevant = np.array([False, True, True, True])
    assert reliability(predicted, relevant) == [
        {"pairs": 2, "predicted": pytest.approx(0.05), "relevant": 0.5},
        {"pairs": 2, "predicted": pytest.approx(0.975), "relevant": 1.0},
    ]
    assert calibration_error(predicted, relevant) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_a_threshold_is_the_lowest_that_keeps_the_precision() -> None:
    falling = np.repeat(np.linspace(0.95, 0.05, 10), 10)
    relevant = np.tile(np.arange(10), 10) < np.repeat(np.arange(10, 0, -1), 10)
    assert threshold(falling, relevant, 0.8) == pytest.approx(0.55)  # the first five bins: (10 + 9 + 8 + 7 + 6) / 50
    assert threshold(falling, relevant, 1.0) == pytest.approx(0.95)
    assert threshold(falling, ~relevant, 0.99) is None


def test_a_calibration_survives_json() -> None:
    curves = Platt(0.5, -1.0), None, Isotonic((-1.0, 2.0), (0.1, 0.9))
    calibration = Calibration({"model": "x"}, curves, 0.8, 0.4, None, {"queries": 50})
    assert calibrations_of(json.loads(json.dumps([calibration.as_json()]))) == [calibration]
    log_odds = np.array([0.0, 0.0, 0.5, np.nan], dtype=np.float32)
    values = calibration.probabilities(log_odds, np.array([0, 1, 2, 2]))
    assert values[:3] == pytest.approx([1 / (1 + np.e), np.nan, 0.5], nan_ok=True)
    assert np.isnan(values[3])


def test_a_reranker_is_bound_by_model_dtype_class_and_instruction(tiny_reranker: Path) -> None:
    bindings = [
        binding_of(Reranker(str(tiny_reranker), dtype=dtype), instruction)
        for dtype in ("float32", "bfloat16", "float16")
        for instruction in (None, "code-search")
    ]
    assert bindings[2] == bindings[4]
    assert [bindings.index(each) for each in bindings] == [0, 1, 2, 3, 2, 3]
    assert "32-bit" in binding_text(bindings[0])
    cascade = Cascade([(BoldReranker(), 10), (Reranker(str(tiny_reranker)), 5)])
    assert "bold" in binding_text(binding_of(cascade, None))
