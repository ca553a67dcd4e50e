"""A deadline or cancellation is reported only if candidates were not scored, and never hides NaN."""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_rag import Reranker
from qwen3_rag.errors import ModelError
from qwen3_rag.models.runtimes import Cancellation, rerank_result
from qwen3_rag.models.runtimes.native import RerankInput
from qwen3_rag.models.runtimes.vllm import VllmReranker
from qwen3_rag.models.tokens import Tokens

RUNTIMES = ["native", "transformers", "sentence-transformers", "vllm"]
PAIRS = [("tides", text) for text in ("the moon", "the sea", "bread", "yeast", "rain")]


class Engine:
    """Replaces vLLM's engine: yields one value for each sequence, in slices of two."""

    value = 1.0

    def rows(self, sequences: list[list[int]], cancellation: Cancellation) -> Any:
        for start in range(0, len(sequences), 2):
            if cancellation.stop_reason:
                return
            part = range(start, min(start + 2, len(sequences)))
            yield part, np.full((len(part), 1), self.value, dtype=np.float32)


def runtime_of(name: str, folder: Path) -> Any:
    if name == "vllm":
        runtime = VllmReranker.__new__(VllmReranker)
        runtime.input, runtime.engine = RerankInput(Tokens(folder), 8192), Engine()  # type: ignore[assignment]
        return runtime
    options = {"token_budget": 1} if name == "native" else {"batch_size": 2}
    return Reranker(str(folder), dtype="float32", runtime=name, runtime_options=options).loaded


def give_nan(name: str, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the runtime's model return NaN for every pair."""
    if name == "native":
        monkeypatch.setattr(runtime, "direction", runtime.direction * np.float32(math.nan))
    elif name == "transformers":
        monkeypatch.setattr(runtime, "_formula", lambda batch: torch.full((len(batch["input_ids"]),), math.nan))
    elif name == "sentence-transformers":
        monkeypatch.setattr(runtime, "_scores", lambda rows: np.full(len(rows), math.nan, dtype=np.float32))
    else:
        monkeypatch.setattr(runtime.engine, "value", math.nan)


class Passing:
    """A deadline that passes after `after` candidates were scored."""

    def __init__(self, after: int) -> None:
        self.cancellation, self.left = Cancellation(deadline=math.inf), after

    def count(self, read: int) -> None:
        self.left -= read
        if self.left <= 0:
            object.__setattr__(self.cancellation, "deadline", -1.0)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_deadline_that_passes_during_the_last_batch_stops_nothing(name: str, tiny_reranker: Path) -> None:
    deadline = Passing(len(PAIRS))
    result = runtime_of(name, tiny_reranker).read("find tides", PAIRS, deadline.cancellation, deadline.count)
    assert deadline.cancellation.stop_reason == "deadline passed"
    assert result.read.all()
    assert result.stopped is None


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_deadline_that_passes_before_the_last_batch_is_the_reason_for_stopping(
    name: str, tiny_reranker: Path
) -> None:
    deadline = Passing(2)
    result = runtime_of(name, tiny_reranker).read("find tides", PAIRS, deadline.cancellation, deadline.count)
    assert 0 < result.read.sum() < len(PAIRS)
    assert result.stopped == "deadline passed"


@pytest.mark.parametrize("after", [2, len(PAIRS)])
@pytest.mark.parametrize("name", RUNTIMES)
def test_nan_is_an_error_whether_or_not_a_deadline_passes(
    name: str, after: int, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, deadline = runtime_of(name, tiny_reranker), Passing(after)
    give_nan(name, runtime, monkeypatch)
    with pytest.raises(ModelError, match="log-odds are NaN or infinite"):
        runtime.read("find tides", PAIRS, deadline.cancellation, deadline.count)


def test_a_call_cancelled_during_its_last_batch_still_raises_on_nan(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker(str(tiny_reranker), runtime="transformers")
    cancel = threading.Event()

    def formula(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        cancel.set()
        return torch.full((len(batch["input_ids"]),), math.nan)

    monkeypatch.setattr(reranker.loaded, "_formula", formula)
    with pytest.raises(ModelError, match="2 of 2 log-odds are NaN or infinite"):
        reranker.read("tides", ["the moon", "the sea"], cancel=cancel)


def test_rerank_result_reports_a_cancellation_whose_event_was_cleared() -> None:
    log_odds = np.array([1.0, math.nan], dtype=np.float32)
    assert rerank_result(log_odds, 1, 0, Cancellation(cancel=threading.Event())).stopped == "cancelled"
    assert rerank_result(log_odds[:1], 1, 3, Cancellation()).truncated == 3
