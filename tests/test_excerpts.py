"""Parts of a document by lines, pages and characters."""

from pathlib import Path

import pytest

from fakes import WordEmbedder
from qwen3_rag import Document, InvalidArgumentError, Pipeline
from qwen3_rag.excerpts import excerpt

TEXT = "one\ntwo\r\nthree\n\nfour"


def test_excerpt_gives_lines_pages_and_characters() -> None:
    assert excerpt(TEXT, (), lines=(2, 2)) == "two\r\nthree\n"
    assert excerpt(TEXT, (), lines=(5, 9)) == "four"
    assert excerpt(TEXT, (), lines=(9, 1)) == ""
    assert excerpt(TEXT, (0, 9), page=1) == "one\ntwo"
    assert excerpt(TEXT, (0, 9), page=2) == "three\n\nfour"
    assert excerpt(TEXT, (), characters=(4, 7)) == "two"
    assert excerpt(TEXT, ()) == TEXT


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"page": 3}, "page is 3; expected 1 to 2"),
        ({"page": 0}, "page is 0"),
        ({"lines": (0, 1)}, "the first line is 0"),
        ({"lines": "12"}, "lines is '12'; expected two numbers"),
        ({"characters": (-1, 2)}, "characters is -1"),
        ({"lines": (1, 1), "page": 1}, "expected one of them"),
    ],
)
def test_excerpt_refuses_parts_that_do_not_exist(part: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        excerpt(TEXT, (0, 9), **part)  # type: ignore[arg-type]


@pytest.fixture
def paged(tmp_path: Path) -> Path:
    """A store whose document `a` has two pages."""
    from qwen3_rag.ingest.indexer import prepare, vectors_of
    from qwen3_rag.ingest.parsed import Parsed

    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        parsed = Parsed(Document("First page.\n\nSecond page.", "a"), pages=(0, 13))
        prepared = prepare(parsed, pipeline.embedder, pipeline.settings)
        vectors, _ = vectors_of([prepared], pipeline.store, pipeline.embedder, pipeline.embedder.encode_document)
        pipeline.store.write([(prepared.document, prepared.rows(vectors))], pages={"a": prepared.pages})
        pipeline.add([Document("No pages.", "b")])
    return tmp_path / "store"


def test_read_part_knows_the_pages_of_a_store(paged: Path) -> None:
    with Pipeline.open(paged, WordEmbedder()) as pipeline:
        assert pipeline.read_part("a", page=2) == "Second page."
        assert pipeline.read_part("nobody", page=2) is None
        with pytest.raises(InvalidArgumentError, match="has no pages"):
            pipeline.read_part("b", page=1)
        pipeline.add([Document("Replaced.", "a")])
        with pytest.raises(InvalidArgumentError, match="has no pages"):
            pipeline.read_part("a", page=1)
        assert pipeline.verify() == []


def test_pages_left_behind_by_a_version_that_does_not_know_them_are_not_believed(paged: Path) -> None:
    with Pipeline.open(paged, WordEmbedder()) as pipeline:
        with pipeline.store.transaction():
            left = pipeline.store.database.run("SELECT * FROM pages").fetchall()
        pipeline.add([Document("Another text of that id.", "a")])
        with pipeline.store.transaction():
            pipeline.store.database.many("INSERT INTO pages VALUES (?, ?, ?)", left)
        with pytest.raises(InvalidArgumentError, match="has no pages"):
            pipeline.read_part("a", page=1)


def test_a_store_without_the_table_of_pages_is_read_and_gets_it_when_needed(paged: Path) -> None:
    with Pipeline.open(paged, WordEmbedder()) as pipeline:
        with pipeline.store.transaction():
            pipeline.store.database.run("DROP TABLE pages")
        with pytest.raises(InvalidArgumentError, match="has no pages"):
            pipeline.read_part("a", page=1)
        (document,) = pipeline.get(["a"])
        assert document is not None
        pipeline.delete(["b"])
        pipeline.store.write([(document, pipeline.store.rows_of("a"))], pages={"a": (0, 13)})
        assert pipeline.read_part("a", page=1) == "First page."
        assert pipeline.verify() == []


def test_documents_are_listed_by_prefix_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.pipeline.LISTED", 2)
    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        pipeline.add([Document(f"text {name}", name, title=name.upper()) for name in ("b/2", "a", "b/1", "b/3", "c")])
        assert [entry.id for entry in pipeline.documents()] == ["a", "b/1", "b/2", "b/3", "c"]
        assert [(entry.id, entry.title, entry.passages) for entry in pipeline.documents("b/")] == [
            ("b/1", "B/1", 1), ("b/2", "B/2", 1), ("b/3", "B/3", 1),
        ]  # fmt: skip


def test_explain_shows_both_stages_of_every_hit_and_the_time_of_each(tmp_path: Path) -> None:
    from fakes import LengthReranker

    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as pipeline:
        pipeline.add([Document("apple pear", "x"), Document("apple", "y")])
        lines = pipeline.search("apple", mode="hybrid").explain().splitlines()
    assert lines[0] == "1. y, characters 0 to 5"
    assert lines[1].startswith("   first stage: rank 1, fused 1.0000; second: score 0.4875, log-odds -0.050")
    assert lines[4].startswith("embed ")
    assert "rerank" in lines[4]
