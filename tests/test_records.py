"""What a document may hold, and when two are stored alike."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwen3_rag import Document, Hit
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.records import heading_path, headings_of, same_as_stored


def nested(levels: int, inner: Any = "x") -> Any:
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


def test_metadata_may_be_nested_a_hundred_levels_deep() -> None:
    assert Document("a", metadata={"m": nested(100)}).metadata == {"m": nested(100)}


@pytest.mark.parametrize("levels", [101, 900, 100_000])
def test_metadata_nested_too_deeply_is_refused(levels: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"metadata\['m'\] of .*; expected at most 100 nested levels"):
        Document("a", metadata={"m": nested(levels)})


def test_metadata_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidArgumentError, match="expected at most 100 nested levels"):
        Document("a", metadata={"m": loop})


def test_numbers_too_long_to_be_written_are_refused() -> None:
    for metadata in ({"n": 10**5000}, {"n": {"deeper": 10**5000}}):
        with pytest.raises(InvalidArgumentError, match="metadata"):
            Document("a", metadata=metadata)


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), (0.0, False), ("1", 1), (None, False)])
def test_same_as_stored_tells_json_types_apart(one: object, other: object) -> None:
    for wrap in (lambda value: value, lambda value: [value], lambda value: {"deeper": value}):
        first, second = (Document("a", metadata={"m": wrap(value)}) for value in (one, other))
        assert same_as_stored(first, first)
        assert not same_as_stored(first, second)


def test_same_as_stored_does_not_mind_the_order_of_names() -> None:
    assert same_as_stored(Document("a", metadata={"x": 1, "y": 2}), Document("a", metadata={"y": 2, "x": 1}))
    assert not same_as_stored(Document("a", "i"), None)
    assert not same_as_stored(Document("a", "i"), Document("a", "i", title="t"))


def hit(**values: object) -> Hit:
    """A hit with these values."""
    return replace(Hit("a#0", "a", "text", None, None, None, (), 0, 4, None, None, 1, 0.5, 1, False, {}), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "citation"),
    [
        ({"document_id": "docs/manual.pdf", "source": "docs/manual.pdf", "page": 12, "headings": ("Installing",)},
         "manual.pdf, p. 12, § Installing"),
        ({"document_id": "/a/guide.md", "source": "/a/guide.md", "title": "Guide", "headings": ("Setup", "Linux")},
         "guide.md, § Setup > Linux"),
        ({"document_id": "q7", "source": "faq.csv", "title": "Opening hours"}, "Opening hours (faq.csv)"),
        ({"document_id": "x", "source": "https://example.org/a/b"}, "x (https://example.org/a/b)"),
        ({"document_id": "note"}, "note"),
        ({"document_id": "note", "title": "A note"}, "A note"),
    ],
)  # fmt: skip
def test_a_hit_cites_source_page_and_headings(values: dict[str, object], citation: str) -> None:
    assert hit(**values).cite() == citation


@given(st.lists(st.text(min_size=1, max_size=20), max_size=4))
def test_headings_come_back_as_they_were_but_for_white_space_and_the_separator(headings: list[str]) -> None:
    cleaned = [" ".join(heading.split()) for heading in headings if heading.strip()]
    assume(all(" > " not in f" {heading} " for heading in cleaned))
    assert headings_of(heading_path(cleaned, "name | price")) == tuple(cleaned)
    assert headings_of(heading_path(["Setup > Linux"])) == ("Setup › Linux",)
