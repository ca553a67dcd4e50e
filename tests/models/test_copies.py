"""Copies and pickles of embedders, rerankers and cascades carry their arguments and load the weights again."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_rag import Cascade, Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError

DOCUMENTS = ["The moon pulls the sea.", "Yeast makes bread rise.", ""]
Duplicate = Callable[[Any], Any]


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))  # noqa: S301


copied = pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])


class House(Reranker):
    """A subclass whose constructor takes other arguments."""

    def __init__(self, folder: Path, motto: str) -> None:
        super().__init__(str(folder), dtype="float32", instructions={"house": "Find what the house rules say"})
        self.motto = motto


@copied
def test_a_copy_of_a_model_has_its_arguments_but_no_weights_or_locks(duplicate: Duplicate, tiny_reranker: Path) -> None:
    options = {"token_budget": 512, "attention": "math"}
    reranker = Reranker(
        str(tiny_reranker), dtype="float32", instruction="code-search", max_length=900, runtime_options=options
    )
    expected = reranker.log_odds("tides", DOCUMENTS)
    other = duplicate(reranker)
    assert other._loaded is None
    assert other._lock is not reranker._lock
    assert other.describe() == reranker.describe()
    assert other.runtime_options == options
    np.testing.assert_array_equal(other.log_odds("tides", DOCUMENTS), expected)


@copied
def test_a_copy_of_an_embedder_keeps_its_dimensions(duplicate: Duplicate, tiny_embedder: Path) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", dimensions=40)
    other = duplicate(embedder)
    assert other.describe() == embedder.describe()
    np.testing.assert_array_equal(other.encode_document(DOCUMENTS), embedder.encode_document(DOCUMENTS))


@copied
def test_a_copy_of_a_subclass_keeps_its_type(duplicate: Duplicate, tiny_reranker: Path) -> None:
    house = House(tiny_reranker, "quiet after ten")
    other = duplicate(house)
    assert (type(other), other.motto) == (House, "quiet after ten")
    np.testing.assert_array_equal(
        other.log_odds("noise", DOCUMENTS, "house"), house.log_odds("noise", DOCUMENTS, "house")
    )


@copied
def test_a_copy_of_a_cascade_keeps_its_stages(duplicate: Duplicate, tiny_reranker: Path, tiny_classifier: Path) -> None:
    cascade = Cascade([(Reranker(str(folder)), depth) for folder, depth in ((tiny_reranker, 3), (tiny_classifier, 2))])
    expected = cascade.rank("tides", DOCUMENTS)
    assert duplicate(cascade).describe() == cascade.describe()
    assert duplicate(cascade).rank("tides", DOCUMENTS) == expected


def test_a_deep_copy_shares_no_mutable_state(tiny_reranker: Path) -> None:
    reranker = Reranker(str(tiny_reranker), runtime_options={"token_budget": 512})
    copy.deepcopy(reranker).runtime_options["token_budget"] = 64
    assert reranker.runtime_options == {"token_budget": 512}


def test_a_pickled_model_loads_in_another_process_and_folder(
    tiny_embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_embedder.parent)
    embedder = Embedder(tiny_embedder.name, dtype="float32")
    (tmp_path / "embedder.pickle").write_bytes(pickle.dumps(embedder))
    script = "import pickle; print(pickle.load(open('embedder.pickle', 'rb')).encode_document('tides').tolist())"
    paths = os.pathsep.join([str(Path(sys.modules["qwen3_rag"].__file__ or "").parents[1]), *sys.path])
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True, text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    np.testing.assert_allclose(
        np.array(json.loads(answer.stdout), dtype=np.float32), embedder.encode_document("tides"), atol=1e-6
    )


def test_unpickling_a_model_whose_folder_is_missing_is_an_error(tmp_path: Path, tiny_embedder: Path) -> None:
    shutil.copytree(tiny_embedder, tmp_path / "model")
    raw = pickle.dumps(Embedder(str(tmp_path / "model")))
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(InvalidArgumentError, match=r"model folder .* does not exist"):
        pickle.loads(raw)  # noqa: S301


def test_a_pickled_preset_keeps_its_name() -> None:
    for kind in (Embedder, Reranker):
        assert pickled(kind()).describe() == kind().describe()
