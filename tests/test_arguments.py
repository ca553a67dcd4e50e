"""Wrong arguments are errors of the package that show the value and what was expected, whatever the value."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import LengthReranker, WordEmbedder, unit
from qwen3_rag import Document, Pipeline
from qwen3_rag.arguments import as_path, shown
from qwen3_rag.errors import FilterError, IngestError, InvalidArgumentError, StoreNotFoundError


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as pipeline:
        yield pipeline


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("method", ["get", "delete"])
def test_ids_with_lone_surrogates_are_refused(pipeline: Pipeline, method: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"ids\[1\] is 'a\\ud800', .*expected valid Unicode"):
        getattr(pipeline, method)(["ok", "a\ud800"])


def test_cancel_that_is_no_event_is_refused(pipeline: Pipeline) -> None:
    pipeline.add([Document("text")])
    for wrong in (True, False):
        with pytest.raises(InvalidArgumentError, match=rf"cancel is {wrong}; expected a threading\.Event"):
            pipeline.search("text", cancel=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match=rf"cancel is {wrong}; expected a threading\.Event"):
            asyncio.run(pipeline.asearch("text", cancel=wrong))


@pytest.mark.parametrize(
    "filter",
    [
        nested(100_000),
        {"a": nested(100_000)},
        {"a": {"$eq": nested(100_000)}},
        {"$and": {"a": nested(100_000)}},
        {"a": {"$in": [nested(100_000)]}},
        {"a": 10**5000},
    ],
    ids=["filter", "value", "operand", "joined", "item", "digits"],
)
def test_filters_that_cannot_even_be_written_out_are_filter_errors(pipeline: Pipeline, filter: Any) -> None:
    with pytest.raises(FilterError, match="expected"):
        pipeline.search("text", filter=filter)


def test_shown_is_the_repr_or_a_shortened_one() -> None:
    assert shown([1, "a"]) == "[1, 'a']"
    assert "..." in shown(nested(100_000))
    assert shown(10**5000) == "<int>"


def test_repeated_ids_with_vectors_are_refused(pipeline: Pipeline) -> None:
    documents = [Document("one", "a"), Document("two", "a")]
    with pytest.raises(InvalidArgumentError, match=r"documents\[1\] repeats the id 'a'; expected each id once"):
        pipeline.add(documents, vectors=[unit("one"), unit("two")])  # type: ignore[arg-type]
    assert len(pipeline) == 0


def test_an_empty_pipeline_is_true(pipeline: Pipeline) -> None:
    assert len(pipeline) == 0
    assert pipeline


def test_a_home_folder_is_expanded_wherever_a_path_enters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    with Pipeline.create("~/store", WordEmbedder(), None) as pipeline:
        assert pipeline.store.folder == tmp_path / "store"
        assert pipeline.index("~/docs").documents == 1
        assert pipeline.sync([Path("~/docs")]).files_unchanged == 1
        assert next(iter(pipeline.watch("~/docs"))).files_unchanged == 1
    with Pipeline.open(Path("~/store"), WordEmbedder()) as pipeline:
        assert len(pipeline) == 1
    assert as_path("~nobody-of-this-name/x", "path") == Path("~nobody-of-this-name/x").absolute()


def test_what_is_no_path_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    for wrong in (3, None, "a\0b", b"bytes"):
        with pytest.raises(InvalidArgumentError, match=r"path is .*; expected a path"):
            Pipeline.open(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="path is 3; expected a path"):
        pipeline.index([3])  # type: ignore[list-item]
    with pytest.raises(StoreNotFoundError):
        Pipeline.open("~nobody-of-this-name/x")
    with pytest.raises(IngestError, match="no such file or folder"):
        pipeline.index("~nobody-of-this-name/x")
