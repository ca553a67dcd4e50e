"""Judgements and runs: what is read, and that every complaint names file and line."""

from pathlib import Path

import pytest

from qwen3_rag import JudgementError
from qwen3_rag.evaluation.judged import Judged, read_judged, read_run, write_run

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"_id": "a", "text": "first"}\n{"_id": "b", "text": "second"}\n', "utf-8")
    return path


def judged(queries: Path, judgements: str) -> Judged:
    path = queries.with_name("test.tsv")
    path.write_text(judgements, "utf-8")
    return read_judged(queries, path, "small")


def test_judgements_in_beir_layout_and_trecs_are_the_same(queries: Path) -> None:
    beir = judged(queries, HEADER + "a\td1\t2\na\td2\t0\nb\td2\t1\n")
    trec = judged(queries, "a 0 d1 2\na 0 d2 0\nb 0 d2 1\n")
    assert beir == trec
    blanks = judged(queries, "a\t0\td 1\t2\n"), judged(queries, HEADER + "a\td 1\t2\n")
    assert [each.grades for each in blanks] == [{"a": {"d 1": 2}}] * 2
    assert beir.queries == {"a": "first", "b": "second"}
    assert beir.grades == {"a": {"d1": 2, "d2": 0}, "b": {"d2": 1}}
    assert beir.documents == {"d1", "d2"}
    assert beir.notes == ()
    assert beir.first(1).queries == {"a": "first"}


def test_queries_may_be_lines_of_id_and_text(tmp_path: Path) -> None:
    path = tmp_path / "queries.tsv"
    path.write_text("a\tfirst\nb\tsecond query\n", "utf-8")
    assert judged(path, "b 0 d 1\n").queries == {"b": "second query"}


def test_judgements_that_are_left_out_are_counted_with_their_first_line(queries: Path) -> None:
    found = judged(queries, HEADER + "a\td1\t1\nx\td1\t1\ny\td1\t1\na\td1\t1\na\td3\t-1\nb\td1\t0\n")
    assert found.queries == {"a": "first"}
    assert found.grades == {"a": {"d1": 1, "d3": 0}}
    file = queries.with_name("test.tsv")
    assert found.notes == (
        f"2 judgements of queries that queries.jsonl does not have, the first at {file}:3",
        f"1 judgements given twice, the first at {file}:5",
        f"1 negative grades, read as 0, the first at {file}:6",
        f"1 queries without a relevant document, left out, the first at {file}: 'b'",
    )


@pytest.mark.parametrize(
    ("judgements", "said"),
    [
        (HEADER + "a\td1\t1\na\td1\t2\n", "test.tsv:3: 'a' and 'd1' have two grades, 1 and 2"),
        (HEADER + "a\td1\n", "test.tsv:2: expected query, document and grade"),
        (HEADER + "a\t1\td1\n", "test.tsv:2: grade is 'd1'; expected a whole number in the last column"),
        (HEADER + "d1\ta\t1\n", "columns of query and document seem to be swapped"),
        (HEADER + "a\td1\t0\n", "no query of .* with a relevant document"),
        ("", "no query of .* with a relevant document"),
    ],
)
def test_wrong_judgements_are_errors_that_name_the_line(queries: Path, judgements: str, said: str) -> None:
    with pytest.raises(JudgementError, match=said):
        judged(queries, judgements)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"_id": "a"}\n', r'q:1: expected \{"_id": …, "text": …\}'),
        ('{"_id": 1, "text": "x"}\n', "q:1: expected an id and a text that is not empty"),
        ("no tab\n", "q:1: expected an id, a tab and a query"),
        ("a\tx\na\ty\n", "q:2: a second query 'a'"),
    ],
)
def test_wrong_queries_are_errors_that_name_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "q"
    path.write_text(text, "utf-8")
    with pytest.raises(JudgementError, match=said):
        judged(path, "a 0 d 1\n")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JudgementError, match="cannot be read"):
        read_judged(tmp_path / "none.jsonl", tmp_path / "none.tsv", "none")


def test_a_run_is_written_and_read_in_trecs_format(tmp_path: Path) -> None:
    run = {"a": {"d2": 0.5, "d1": 0.25}, "b": {"a name with blanks": 1.0}}
    write_run(run, tmp_path / "run", "mine")
    assert (tmp_path / "run").read_text().splitlines()[0] == "a\tQ0\td2\t1\t0.500000\tmine"
    again = read_run(tmp_path / "run")
    assert again == run
    assert list(again["a"]) == ["d2", "d1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a Q0 d 1\n", "run:1: expected the six columns"),
        ("a Q0 d 1 x me\n", "run:1: score is 'x'"),
        ("a Q0 d 1 2 me\na Q0 d 2 1 me\n", "run:2: 'd' is there twice for 'a'"),
        ("", "is empty"),
    ],
)
def test_wrong_runs_are_errors_that_name_the_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run").write_text(text)
    with pytest.raises(JudgementError, match=said):
        read_run(tmp_path / "run")
