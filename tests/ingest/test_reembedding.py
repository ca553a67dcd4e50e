"""A store made from the texts of another: other vectors, other passages, the same documents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import LengthReranker, WordEmbedder
from qwen3_rag import Document, InvalidArgumentError, Pipeline, StoreExistsError

TEXT = "\n\n".join(f"## Part {n}\n\n" + " ".join(f"Word{n} is here {m}." for m in range(12)) for n in range(4))


class OtherEmbedder(WordEmbedder):
    """Embeds differently, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def encode_query(self, texts: Any, instruction: str | None = None) -> np.ndarray:
        return super().encode_query(texts)[..., ::-1].copy()

    def encode_document(self, texts: Any, show_progress: bool = False) -> np.ndarray:
        self.embedded += 1 if isinstance(texts, str) else len(texts)
        return super().encode_document(texts)[..., ::-1].copy()

    def describe(self) -> dict[str, Any]:
        return {"model": "other"}


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline.create(
        tmp_path / "store", WordEmbedder(), LengthReranker(), chunk_tokens=40, chunk_overlap=10, vectors="float32"
    )
    (folder := tmp_path / "docs").mkdir()
    for n in range(3):
        (folder / f"file{n}.md").write_text(f"# File {n}\n\n{TEXT}")
    pipeline.index(folder)
    pipeline.add([Document(f"note {n} of mine", f"note{n}", metadata={"n": n}) for n in range(70)])
    return pipeline


def passages(pipeline: Pipeline) -> dict[str, list[tuple[Any, ...]]]:
    rows = {entry.id: pipeline.store.rows_of(entry.id) for entry in pipeline.documents()}
    return {name: [(r.start, r.stop, r.heading, r.page, r.digest) for r in each] for name, each in rows.items()}


def test_reembed_with_another_embedder_keeps_documents_passages_and_files(pipeline: Pipeline, tmp_path: Path) -> None:
    before = passages(pipeline)
    report = pipeline.reembed(tmp_path / "new", OtherEmbedder())
    assert (report.documents, report.embedded) == (73, report.passages)
    with Pipeline.open(tmp_path / "new", OtherEmbedder(), LengthReranker()) as new:
        assert passages(new) == before
        assert new.verify() == []
        assert new.get(["note7"]) == pipeline.get(["note7"])
        assert new.search("word2", mode="lexical")[0].text == pipeline.search("word2", mode="lexical")[0].text
        report = new.sync(tmp_path / "docs")
        assert (report.documents, report.files, report.files_unchanged) == (0, 0, 3)
    assert passages(pipeline) == before
    assert pipeline.verify() == []


def test_reembed_with_the_same_embedder_embeds_only_passages_that_are_cut_differently(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    assert pipeline.reembed(tmp_path / "same").embedded == 0
    report = pipeline.reembed(tmp_path / "smaller", chunk_tokens=20, chunk_overlap=0)
    assert 0 < report.embedded < report.passages
    with Pipeline.open(tmp_path / "smaller", WordEmbedder(), LengthReranker()) as new:
        for name, rows in passages(new).items():
            (document,) = new.get([name])
            assert document is not None
            covered = "".join(document.text[start:stop] for start, stop, *_ in rows)
            assert "".join(covered.split()) == "".join(document.text.split())
        headings = {hit.headings for hit in new.search("word3 is here", top_k=60)}
        assert ("Part 3",) in headings


def test_an_interrupted_reembed_goes_on_where_it_was(pipeline: Pipeline, tmp_path: Path) -> None:
    class Interrupted(OtherEmbedder):
        def encode_document(self, texts: Any, show_progress: bool = False) -> np.ndarray:
            if self.embedded > 40:
                raise KeyboardInterrupt
            return super().encode_document(texts)

    with pytest.raises(KeyboardInterrupt):
        pipeline.reembed(tmp_path / "new", Interrupted())
    with pytest.raises(InvalidArgumentError, match="was begun with"):
        pipeline.reembed(tmp_path / "new", OtherEmbedder(), chunk_tokens=30)
    pipeline.delete(["note3"])
    embedder = OtherEmbedder()
    report = pipeline.reembed(tmp_path / "new", embedder)
    assert report.unchanged > 0
    assert 0 < report.embedded < 70
    with Pipeline.open(tmp_path / "new", OtherEmbedder(), LengthReranker()) as new:
        assert passages(new) == passages(pipeline)
    with pytest.raises(StoreExistsError, match="expected a new folder"):
        pipeline.reembed(tmp_path / "new", OtherEmbedder())


def test_reembed_into_another_store_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    Pipeline.create(tmp_path / "other", WordEmbedder(), None).close()
    with pytest.raises(StoreExistsError, match="is already a store"):
        pipeline.reembed(tmp_path / "other")
    with pytest.raises(StoreExistsError):
        pipeline.reembed(tmp_path / "store")
