"""Documents and vectors into a store: what is written, and what is refused."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fakes import DIMENSIONS, WordEmbedder, unit
from qwen3_rag import Document, Pipeline
from qwen3_rag.errors import InvalidArgumentError, ModelError

DOCUMENTS = [Document(f"text {number}", f"d{number}") for number in range(3)]


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        yield pipeline


@pytest.mark.parametrize("scale", [40.0, 0.9, 1.02, 0.0, float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_refuses_vectors_that_are_no_unit_vectors(pipeline: Pipeline, scale: float, dtype: type) -> None:
    rows = np.stack([unit(d.text) for d in DOCUMENTS]).astype(dtype)
    rows[1] *= scale
    with pytest.raises(InvalidArgumentError, match=r"vectors\[1\] has norm .*; expected unit vectors"):
        pipeline.add(DOCUMENTS, vectors=rows)
    assert len(pipeline) == 0, "nothing is written"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_add_takes_unit_vectors_however_they_are_rounded(pipeline: Pipeline, dtype: type) -> None:
    rows = np.stack([unit(d.text) for d in DOCUMENTS]).astype(dtype)
    assert pipeline.add(DOCUMENTS, vectors=rows).documents == 3
    assert pipeline.search("text 2")[0].document_id == "d2"


def test_an_embedder_that_does_not_normalise_is_a_model_error(tmp_path: Path) -> None:
    with Pipeline.create(tmp_path / "store", WordEmbedder(scale=3.0), None) as pipeline:
        with pytest.raises(ModelError, match=r"a vector of norm 3 for 'text 0'; expected 1"):
            pipeline.add(DOCUMENTS)
        assert len(pipeline) == 0, "nothing is written"
        pipeline.add(DOCUMENTS, vectors=np.stack([unit(d.text) for d in DOCUMENTS]))
        with pytest.raises(ModelError, match="a query vector of norm 3; expected 1"):
            pipeline.search("text")


def test_an_embedder_of_other_dimensions_is_a_model_error(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.add(DOCUMENTS)
    monkeypatch.setattr(pipeline.embedder, "encode_query", lambda *_: unit("a")[:-1])
    with pytest.raises(ModelError, match=rf"shape \({DIMENSIONS - 1},\); expected \(1, {DIMENSIONS}\)"):
        pipeline.search("text")


@pytest.mark.parametrize(("before", "after"), [(1, True), (0, False), (1, 1.0)])
def test_add_writes_metadata_that_changed_its_type_only(pipeline: Pipeline, before: object, after: object) -> None:
    pipeline.add([Document("a text", "a", metadata={"m": before, "n": 1})])
    assert pipeline.add([Document("a text", "a", metadata={"n": 1, "m": before})]).unchanged == 1
    report = pipeline.add([Document("a text", "a", metadata={"m": after, "n": 1})])
    assert (report.documents, report.unchanged, report.embedded) == (1, 0, 0)
    (stored,) = pipeline.get(["a"])
    assert stored is not None
    assert json.dumps(stored.metadata) == json.dumps({"m": after, "n": 1})


def test_sync_writes_metadata_that_changed_its_type_only(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for value, age in (("1", 200), ("true", 100)):
        path.write_text(f'{{"_id": "a", "text": "a text", "metadata": {{"m": {value}}}}}\n')
        os.utime(path, (time.time() - age,) * 2)
        assert pipeline.sync(path).documents == 1
    assert pipeline.search("text", filter={"m": True})
