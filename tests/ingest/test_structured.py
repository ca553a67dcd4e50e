"""JSON files and notebooks as they are read: documents, headings, code."""

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.test_readers import shown
from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.readers import read


def read_json(tmp_path: Path, value: Any, name: str = "a.json") -> list[Parsed]:
    (tmp_path / name).write_text(json.dumps(value), "utf-8")
    return list(read(tmp_path / name))


def test_json_list_of_objects_with_text_is_read_as_json_lines_are(tmp_path: Path) -> None:
    records = [{"_id": "x", "title": "A", "text": "one é", "year": 2020}, {"text": "two " * 100_000}]
    first, second = (parsed.document for parsed in read_json(tmp_path, records))
    assert (first.id, first.title, first.text, dict(first.metadata)) == ("x", "A", "one é", {"year": 2020})
    assert (second.id, second.text, second.source) == (
        f"{tmp_path / 'a.json'}#1",
        records[1]["text"],
        str(tmp_path / "a.json"),
    )
    with pytest.raises(IngestError, match=r"a\.json: record 2: title is 3"):
        read_json(tmp_path, [{"text": "a"}, {"text": "b", "title": 3}])


def test_json_lines_named_json_are_read_as_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [parsed.document.text for parsed in read(tmp_path / "a.json")] == ["one", "two"]


def test_json_of_another_form_is_text_under_its_keys(tmp_path: Path) -> None:
    value = {
        "version": 2,
        "keywords": ["pump", "valve"],
        "install": {"command": "make", "options": {"fast": True}},
        "parts": [{"name": "spanner", "size": None}, {"size": 3.5}, "loose"],
    }
    (parsed,) = read_json(tmp_path, value)
    assert parsed.document.title == "a"
    assert [(headings, text) for headings, _, text in shown(parsed)] == [
        ("", "version: 2\nkeywords: pump, valve"),
        ("install", "install\n\ncommand: make"),
        ("install > options", "options\n\nfast: true"),
        ("parts", "parts\n\nloose"),
        ("parts > spanner", "spanner\n\nname: spanner\nsize: null"),
        ("parts > 2", "2\n\nsize: 3.5"),
    ]


def test_json_title_is_its_own_title_or_name(tmp_path: Path) -> None:
    titles = [read_json(tmp_path, value)[0].document.title for value in ({"name": "pump"}, {"name": 3}, {"title": "T"})]
    assert titles == ["pump", "a", "T"]


def test_json_that_is_deep_ends_as_code(tmp_path: Path) -> None:
    value: Any = {"last": {"x": 1}}
    for level in range(8):
        value = {f"key {level}": value}
    (parsed,) = read_json(tmp_path, value)
    assert parsed.parts[-1].kind == "code"
    assert '"last": {' in parsed.document.text


@pytest.mark.parametrize(("content", "texts"), [("{}", []), ("3", ["3"]), ('"word"', ["word"]), ("[1, 2]", ["1\n2"])])
def test_json_of_one_value_is_read(tmp_path: Path, content: str, texts: list[str]) -> None:
    (tmp_path / "a.json").write_text(content)
    assert [parsed.document.text for parsed in read(tmp_path / "a.json")] == texts


NOTEBOOK = {
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
    "cells": [
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": ["# Pumps\n", "\n", "All of *them*.\n\n", "- one\n", "- two"],
        },
        {
            "cell_type": "code",
            "execution_count": 1,
            "metadata": {},
            "source": ["import pump\n", "pump.bleed()"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["bleeding\n", "done\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["3"], "text/html": ["<b>3</b>"]}},
                {"output_type": "display_data", "data": {"image/png": "iVBOR", "text/plain": "<Figure>"}},
                {"output_type": "error", "ename": "ValueError", "evalue": "\x1b[31mno air\x1b[0m", "traceback": []},
            ],
        },
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": "## Tools\n\n| tool | size |\n|---|---|\n| spanner | 12 |\n\n```\n# no\n```\n",
        },
        {"cell_type": "code", "metadata": {}, "source": [], "outputs": [{"output_type": "stream", "text": "x" * 9000}]},
        {"cell_type": "raw", "metadata": {}, "source": "as it is"},
    ],
}


def test_notebook_has_markdown_with_headings_code_and_what_it_printed(tmp_path: Path) -> None:
    (parsed,) = read_json(tmp_path, NOTEBOOK, "a.ipynb")
    assert (parsed.document.title, parsed.pages) == ("Pumps", ())
    *sections, long, raw = shown(parsed)
    assert sections == [
        ("", "prose", "Pumps\n\nAll of *them*."),
        ("", "list", "- one\n- two"),
        ("", "code", "import pump\npump.bleed()"),
        ("", "code", "bleeding\ndone\n3\nValueError: no air"),
        ("Tools", "prose", "Tools"),
        ("Tools", "table", "| tool | size |\n|---|---|\n| spanner | 12 |"),
        ("Tools", "code", "```\n# no\n```"),
    ]
    assert long[1:] == ("code", "x" * 2000 + " …")
    assert raw == ("Tools", "prose", "as it is")


def test_notebook_of_version_three_is_read(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "heading", "level": 1, "source": ["Pumps"]},
        {"cell_type": "code", "input": "bleed()", "outputs": [{"output_type": "pyout", "text": ["3"]}]},
    ]
    (parsed,) = read_json(tmp_path, {"nbformat": 3, "worksheets": [{"cells": cells}]}, "a.ipynb")
    assert parsed.document.text == "Pumps\n\nbleed()\n\n3"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"a": ', r"a\.json: damaged JSON: not JSON: Expecting value"),
        ("a.json", b"[" * 100_000, r"a\.json: damaged JSON: nested too deeply"),
        ("a.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, r"a\.json: damaged JSON: nested too deeply"),
        ("a.json", b"1" * 10_000, r"a\.json: damaged JSON: not JSON: Exceeds the limit"),
        ("a.ipynb", b"import pump", r"a\.ipynb: damaged notebook: not JSON"),
        ("a.ipynb", b"[]", r"a\.ipynb: damaged notebook: it has no list of cells"),
        ("a.ipynb", b'{"cells": 3}', r"a\.ipynb: damaged notebook: it has no list of cells"),
    ],
)
def test_structured_files_that_are_broken_are_named_with_a_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IngestError, match=message):
        list(read(tmp_path / name))


def test_notebook_with_wrong_values_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    cells = [3, {}, {"cell_type": "code", "source": {"a": 1}, "outputs": [3, {"data": 3}, {"output_type": "stream"}]}]
    cells += [{"cell_type": "heading", "level": True, "source": "A"}, {"cell_type": "markdown", "source": [3, "text"]}]
    (parsed,) = read_json(tmp_path, {"metadata": 3, "cells": cells}, "a.ipynb")
    assert parsed.document.text == "A\n\ntext"
