"""mteb's own code on a task made here, with the pipeline, the embedder and the reranker as its models."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fakes import KnowingReranker, WordEmbedder
from qwen3_rag import Embedder, InvalidArgumentError, Reranker, UnknownNameError
from qwen3_rag.evaluation import evaluate
from qwen3_rag.evaluation.mteb_groups import GROUPS, compared_with_published, evaluate_mteb, tasks_of
from qwen3_rag.evaluation.mteb_models import MtebEmbedder, MtebPipeline, MtebReranker

mteb = pytest.importorskip("mteb")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
INSTRUCTION = "Given two words, retrieve the answer to them"


def task_of(folder: Path) -> Any:
    """A retrieval task of mteb's over a folder in BEIR layout."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def rows(name: str) -> list[dict[str, str]]:
        records = map(json.loads, (folder / name).read_text("utf-8").splitlines())
        return [{"id": r["_id"], "text": r["text"]} | ({"title": r["title"]} if "title" in r else {}) for r in records]

    grades: dict[str, dict[str, int]] = {}
    with (folder / "qrels/test.tsv").open() as table:
        for row in csv.DictReader(table, delimiter="\t"):
            grades.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])

    class Small(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="Small",
            description="Made here",
            dataset={"path": "none", "revision": "none"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            prompt={"query": INSTRUCTION},
        )

        def load_data(self, **_: Any) -> None:
            split = {
                "corpus": Dataset.from_list(rows("corpus.jsonl")),
                "queries": Dataset.from_list(rows("queries.jsonl")),
                "relevant_docs": grades,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Small()


def figures(model: Any, task: Any, **options: Any) -> dict[str, float]:
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, **options)
    return result.task_results[0].scores["test"][0]  # type: ignore[no-any-return]


class Listening(KnowingReranker):
    """Remembers the instructions that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.instructions: set[str | None] = set()

    def read(self, query: str, documents: Any, instruction: str | None = None, *rest: Any, **options: Any) -> Any:
        self.instructions.add(instruction)
        return super().read(query, documents, instruction, *rest, **options)


def test_the_pipeline_has_mtebs_figures_that_eval_has(collection: Path, tmp_path: Path) -> None:
    ours = evaluate(collection, tmp_path / "out", embedder=WordEmbedder(), reranker=KnowingReranker(), candidates=20)
    first = figures(MtebPipeline(tmp_path / "first", WordEmbedder(), None), task_of(collection))
    both = figures(
        MtebPipeline(tmp_path / "both", WordEmbedder(), KnowingReranker(), candidates=20), task_of(collection)
    )
    assert first["ndcg_at_10"] == pytest.approx(ours["runs"]["dense"]["nDCG@10"], abs=1e-4)
    assert first["map_at_100"] == pytest.approx(ours["runs"]["dense"]["MAP"], abs=1e-4)
    assert both["ndcg_at_10"] == ours["runs"]["reranked"]["nDCG@10"] == 1


def test_the_pipeline_passes_the_tasks_instruction(collection: Path, tmp_path: Path) -> None:
    reranker = Listening()
    figures(MtebPipeline(tmp_path, WordEmbedder(), reranker, candidates=10), task_of(collection))
    assert reranker.instructions == {INSTRUCTION}


def test_the_official_two_steps_rerank_what_the_first_found(collection: Path, tmp_path: Path) -> None:
    first = MtebPipeline(tmp_path / "first", WordEmbedder(), None)
    before = figures(first, task_of(collection), prediction_folder=tmp_path / "predictions")
    task = task_of(collection).convert_to_reranking(tmp_path / "predictions", top_k=20)
    after = figures(MtebPipeline(tmp_path / "second", WordEmbedder(), KnowingReranker()), task)
    assert before["ndcg_at_10"] < after["ndcg_at_10"] == 1


def test_the_embedder_is_an_encoder_of_mteb(collection: Path, tiny_embedder: Path, tmp_path: Path) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32")
    exact = figures(MtebEmbedder(embedder), task_of(collection))
    pipeline = figures(MtebPipeline(tmp_path, embedder, None, vectors="float32", titles=False), task_of(collection))
    assert exact["ndcg_at_10"] == pytest.approx(pipeline["ndcg_at_10"], abs=1e-3)


def test_the_reranker_is_a_cross_encoder_of_mteb(collection: Path, tiny_reranker: Path, tmp_path: Path) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32")
    figures(
        MtebPipeline(tmp_path / "first", WordEmbedder(), None), task_of(collection), prediction_folder=tmp_path / "p"
    )
    alone = figures(MtebReranker(reranker), task_of(collection).convert_to_reranking(tmp_path / "p", top_k=10))
    ours = figures(
        MtebPipeline(tmp_path / "second", WordEmbedder(), reranker),
        task_of(collection).convert_to_reranking(tmp_path / "p", top_k=10),
    )
    assert alone["ndcg_at_10"] == pytest.approx(ours["ndcg_at_10"], abs=1e-4)


def test_a_search_before_an_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="search was called before index"):
        MtebPipeline(tmp_path, WordEmbedder(), None).search([], task_metadata=None, top_k=10)


def test_groups_are_mtebs_own_tasks() -> None:
    counts = {name: len(tasks_of(name)) for name in GROUPS}
    assert counts == {"MTEB-R": 10, "CMTEB-R": 8, "MMTEB-R": 18, "MLDR": 1, "MTEB-Code": 12, "FollowIR": 3}
    assert [task.metadata.name for task in tasks_of("SciFact")] == ["SciFact"]
    with pytest.raises(UnknownNameError, match="MTEB-R"):
        tasks_of("no such task")


def test_a_figure_far_from_the_published_one_is_flagged() -> None:
    rows = compared_with_published({"MTEB-R": 65.9, "MTEB-Code": 70.0, "SciFact": 70.0}, "Qwen3-Reranker-0.6B")
    assert rows == {
        "MTEB-R": {"score": 65.9, "published": 65.80, "differs": False},
        "MTEB-Code": {"score": 70.0, "published": 73.42, "differs": True},
        "SciFact": {"score": 70.0, "published": None, "differs": None},
    }


def test_tasks_are_run_once_and_reported(collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.evaluation.mteb_groups.tasks_of", lambda name: [task_of(collection)])
    reranker = KnowingReranker()
    options: dict[str, Any] = {"embedder": WordEmbedder(), "reranker": reranker, "candidates": 20}
    report = evaluate_mteb(["Small"], tmp_path / "out", **options)
    assert report == {"tasks": {"Small": 100}, "groups": {"Small": {"score": 100, "published": None, "differs": None}}}
    pairs = reranker.pairs
    assert evaluate_mteb(["Small"], tmp_path / "out", **options) == report
    assert reranker.pairs == pairs > 0
    assert json.loads((tmp_path / "out/mteb.json").read_text("utf-8")) == report
