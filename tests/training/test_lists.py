"""Training data: what is read, that every complaint names file and line, and that nothing leaks between the parts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from qwen3_rag import TrainingError
from qwen3_rag.training.lists import TrainingList, normalised, read_lists
from qwen3_rag.training.splitting import Split, split


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_lists_are_read_with_texts_or_lists_of_texts(tmp_path: Path) -> None:
    path = written(
        tmp_path / "lists.jsonl",
        {"query": "tides", "positive": "The moon.", "negative": ["Bread.", "Yeast."], "scores": [3, -2.5, -4]},
        {"query": "bread", "positive": ["Yeast."], "negative": "The moon."},
    )
    first, second = read_lists(path)
    assert first == TrainingList(f"{path}:1", "tides", ("The moon.", "Bread.", "Yeast."), (1, 0, 0), (3.0, -2.5, -4.0))
    assert (second.positives, second.grades, second.scores) == (("Yeast.",), (1, 0), None)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"query": "q", "positive": "a"}], "lists.jsonl:1: no negative; expected a text or a list of texts"),
        ([{"query": "q", "negative": ["a"]}], "lists.jsonl:1: no positive"),
        ([{"query": "q", "positive": [], "negative": "b"}], "lists.jsonl:1: no positive"),
        ([{"query": " ", "positive": "a", "negative": "b"}], "lists.jsonl:1: query is ' '; expected a text"),
        ([{"query": "q", "positive": "a", "negative": ["b", ""]}], "lists.jsonl:1: negative is ''; expected texts"),
        ([{"query": "q", "positive": "a", "negative": ["b", "a"]}], "lists.jsonl:1: a document is there twice"),
        ([{"query": "q", "positive": "a", "negative": "b", "scores": [1]}], r"scores is \[1\]; expected 2 numbers"),
        ([["q", "a", "b"]], "lists.jsonl:1: expected an object with query, positive and negative"),
        (
            [{"query": "q", "positive": "a", "negative": "b"}, {"query": "Q ", "positive": "B", "negative": "c"}],
            "lists.jsonl:2: 'B' is a positive for 'Q '; at .*lists.jsonl:1 it is a negative",
        ),
        ([], "is empty"),
    ],
)
def test_wrong_lists_are_errors_that_name_the_line(tmp_path: Path, records: list[Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        read_lists(written(tmp_path / "lists.jsonl", *records))


def test_what_is_not_json_or_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lists.jsonl").write_text('{"query": \n')
    with pytest.raises(TrainingError, match=r"lists.jsonl:1: expected a line of JSON"):
        read_lists(tmp_path / "lists.jsonl")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_lists(tmp_path / "none.jsonl")


def one(number: int, query: str, positive: str) -> TrainingList:
    return TrainingList(str(number), query, (positive, f"other {number}"), (1, 0))


def leaks(parts: Split) -> list[str]:
    """Queries and relevant documents that are in two parts, whatever their spelling."""
    found = []
    groups = [parts.training, parts.validation, parts.test]
    for number, group in enumerate(groups):
        for other in groups[number + 1 :]:
            for name, of in (
                ("query", lambda lists: {normalised(x.query) for x in lists}),
                ("document", lambda lists: {normalised(text) for x in lists for text in x.positives}),
            ):
                found += [f"{name} {text}" for text in of(group) & of(other)]
    return found


def test_queries_of_one_document_and_of_one_spelling_stay_together() -> None:
    rng = random.Random(3)
    lists = [one(i, f"question {i}", f"paragraph {i // 5}") for i in range(200)]
    lists += [one(200 + i, f"QUESTION  {i}", f"another {i}") for i in range(0, 60, 7)]
    lists += [one(300 + i, f"third {i}", f"Paragraph {i}") for i in range(10)]
    rng.shuffle(lists)
    parts = split(lists, 0.1, seed=1)
    assert leaks(parts) == []
    assert len(parts.training) + len(parts.validation) + len(parts.test) == len(lists)
    assert parts.notes == ()
    assert min(len(parts.validation), len(parts.test)) >= 22
    assert parts == split(lists, 0.1, seed=1)
    assert parts.test != split(lists, 0.1, seed=2).test


def test_where_documents_tie_all_queries_together_the_shared_ones_are_left_out() -> None:
    lists = [
        TrainingList(str(i), f"question {i}", (f"text {i}", f"text {i + 1}", f"other {i}"), (1, 1, 0))
        for i in range(100)
    ]
    parts = split(lists, 0.1, seed=1)
    assert leaks(parts) == []
    assert len(parts.test) == 10
    assert all(len(each.documents) == 3 for each in parts.test)
    assert len(parts.training) > 50
    assert all(each.positives for each in parts.training)


def test_too_few_queries_and_one_query_many_times_are_errors() -> None:
    with pytest.raises(TrainingError, match="there are 9 queries; expected at least 15"):
        split([one(i, f"q{i}", f"d{i}") for i in range(9)], 0.1, 0)
    with pytest.raises(TrainingError, match="most of the 40 queries are the same"):
        split([one(i, "q", f"d{i}") for i in range(40)], 0.1, 0)
