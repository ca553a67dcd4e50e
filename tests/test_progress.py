"""What long work says: regular log lines, or a bar on a terminal."""

import logging
import re
from itertools import chain, repeat
from types import SimpleNamespace

import pytest
from rich.console import Console

from qwen3_rag import progress as module
from qwen3_rag.progress import progress


@pytest.fixture
def every_call(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(module, "LOG_EVERY", 0.0)
    caplog.set_level(logging.INFO, "qwen3_rag")
    return caplog


def test_progress_logs_items_parts_and_rate(every_call: pytest.LogCaptureFixture) -> None:
    with progress("indexing", 4, unit="files", part="passages") as count:
        count(1, 7)
        count(1, 5)
    assert re.fullmatch(r"indexing: 2 of 4 files, 12 passages, [\d.]+ a second, \d+ s left", every_call.messages[-1])


def test_progress_of_an_unknown_total_has_no_time_left(every_call: pytest.LogCaptureFixture) -> None:
    with progress("reading", None) as count:
        count(3)
    assert re.fullmatch(r"reading: 3 of \?, [\d.]+ a second", every_call.messages[-1])


def test_time_left_follows_the_size_where_items_differ(
    monkeypatch: pytest.MonkeyPatch, every_call: pytest.LogCaptureFixture
) -> None:
    ticks = chain([0.0], repeat(10.0))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with progress("indexing", 100, True, "files", "passages", 1000) as count:
        count(99, 5, 100)  # nearly all files, but a tenth of their bytes
    assert every_call.messages[-1] == "indexing: 99 of 100 files, 5 passages, 0.5 a second, 90 s left"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import rich.console

    monkeypatch.setattr(rich.console, "Console", lambda **options: Console(**options, force_terminal=True, width=120))
    with progress("indexing", 2, True, "files", "passages", 100) as count:
        count(1, 7, 60)
    shown = capsys.readouterr().err
    assert "indexing" in shown
    assert "1 of 2 files, 7 passages" in shown


def test_progress_says_nothing_where_it_is_not_wanted(every_call: pytest.LogCaptureFixture) -> None:
    with progress("indexing", 2, show=False) as count:
        count(1, 2, 3)
    assert every_call.messages == []
