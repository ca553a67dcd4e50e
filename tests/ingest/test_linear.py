"""Time that grows with a file's size and not with its square: at these sizes a square would take minutes or hours."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen3_rag import Document
from qwen3_rag.ingest.chunking import chunk
from qwen3_rag.ingest.parsed import Parsed, Section
from qwen3_rag.ingest.readers import read

SIZE = 400_000  # characters
LIMIT = 30  # seconds; each takes one to four
RUNS = {
    "dots": ".", "spaces": " ", "lines-tabs": "\n\t", "quotes": '"', "sentences": ".a ", "brackets": "(",
    "full-stops": "。", "combining": "\u0301", "dots-quotes": ".'", "opening": "“", "numbers": "1. ", "dandas": "। ",
    "items": "- a\n", "empty-items": "1.\n", "rules": "- - -\n\n", "indented": " \t",
}  # fmt: skip


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Ends a test that does not come to an end, even within a regular expression."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write(path: Path, text: str) -> Parsed:
    path.write_text(text, "utf-8")
    (parsed,) = read(path)
    return parsed


@pytest.mark.parametrize("name", RUNS)
def test_chunk_takes_linear_time_for_runs(name: str) -> None:
    run = RUNS[name]
    text = f"Introduction. {run * (SIZE // len(run))}x end"
    starts = np.arange(0, len(text), 4)
    cuts = chunk(Parsed(Document(text)), starts, 400, 50)
    covered = sum(len(text[cut.start : cut.stop].strip()) > 0 for cut in cuts)
    assert covered == len(cuts) <= 2 * len(text) // (4 * 200) + 2
    assert text[cuts[-1].start : cuts[-1].stop].endswith("x end")


def test_chunk_takes_linear_time_for_headings_without_text() -> None:
    line, count = "# heading\n\n", 100_000
    text = line * count + "text"
    at = range(0, len(line) * count, len(line))
    sections = [Section(start, start + len(line), (f"h{start}",), "prose", len(line)) for start in at]
    last = Section(len(line) * count, len(text), (), "prose")
    cuts = chunk(Parsed(Document(text), (*sections, last)), np.arange(0, len(text), 4), 400, 50)
    assert len(cuts) < len(text) // (4 * 200) + 2
    assert text[cuts[-1].start : cuts[-1].stop].endswith("text")


def test_chunk_looks_for_the_first_row_of_a_long_table_once() -> None:
    lines = 600_000
    text = "name | size of it in millimetres\n" + "spanner | 12\n" * lines
    table = Section(0, len(text), (), "table")
    cuts = chunk(Parsed(Document(text), (table,)), np.arange(0, len(text), 4), 12, 0)
    assert len(cuts) > lines // 4
    assert {cut.row for cut in cuts[2:]} == {"name | size of it in millimetres"}


@pytest.mark.parametrize(
    "text",
    [" " * SIZE + "x" * SIZE + "\nabc", "=" * SIZE + "x\nabc", "===\n" + " " * SIZE + "x\n" + "=" * SIZE + "y"],
    ids=["blanks", "rule", "after-rule"],
)
def test_plain_text_titles_take_linear_time(tmp_path: Path, text: str) -> None:
    parsed = write(tmp_path / "a.txt", text)
    assert (parsed.document.text, parsed.document.title) == (text, "a")


def test_front_matter_takes_linear_time(tmp_path: Path) -> None:
    parsed = write(tmp_path / "a.md", f"---\ntitle: x{' ' * SIZE}y\n---\ntext")
    assert parsed.document.title is not None
    assert parsed.document.title.startswith("x  ")


def test_html_asides_within_one_another_take_linear_time(tmp_path: Path) -> None:
    depth = 20_000
    parsed = write(tmp_path / "a.html", f"<html><body><section>{'<aside>' * depth}within</section>")
    assert parsed.document.text == "within"


def test_comments_above_a_definition_take_linear_time(tmp_path: Path) -> None:
    pytest.importorskip("tree_sitter_python")
    # At the top of the file: after a statement the time that tree-sitter's own parser takes grows with their square.
    text = "# c\n" * (SIZE // 2) + "def f():\n    pass\n\n\n# d\ndef g():\n    pass\n"
    parsed = write(tmp_path / "a.py", text)
    assert [(s.headings, text[s.start : s.stop].splitlines()[:1]) for s in parsed.parts] == [
        (("f",), ["# c"]),
        (("g",), ["# d"]),
    ]
