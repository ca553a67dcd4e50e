"""A deadline or cancellation is reported only if candidates were not scored, and never hides NaN."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_rag import Reranker
from qwen3_rag.errors import ModelError
from qwen3_rag.models.checkpoints.formats import RerankFormat
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.runtimes.protocols import Scored
from qwen3_rag.models.runtimes.vllm import VllmReranker
from qwen3_rag.scores import Cancellation, RerankResult

RUNTIMES = ["native", "transformers", "sentence-transformers", "vllm"]
DOCUMENTS = ["the moon", "the sea", "bread", "yeast", "rain"]


class Engine:
    """Replaces vLLM's engine: yields one value for each sequence, in slices of two."""

    value = 1.0

    def rows(self, sequences: list[list[int]], cancellation: Cancellation) -> Any:
        for start in range(0, len(sequences), 2):
            if cancellation.stop_reason:
                return
            part = range(start, min(start + 2, len(sequences)))
            yield part, np.full((len(part), 1), self.value, dtype=np.float32)


def reranker_on(name: str, folder: Path) -> Reranker:
    if name == "vllm":
        runtime = VllmReranker.__new__(VllmReranker)
        runtime.format, runtime.engine = RerankFormat(Tokens(folder), 8192), Engine()  # type: ignore[assignment]
        reranker = Reranker(str(folder))
        reranker._loaded = runtime
        return reranker
    options = {"token_budget": 1} if name == "native" else {"batch_size": 2}
    return Reranker(str(folder), dtype="float32", runtime=name, runtime_options=options)


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


def read_with_a_deadline_that_passes(
    after: int, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> tuple[RerankResult, Cancellation]:
    """Score the documents with a deadline that passes once `after` of them are scored."""
    cancellation, counted = Cancellation(deadline=math.inf), []
    score = reranker.loaded.score

    def counting(*arguments: Any) -> Iterator[Scored]:
        for scored in score(*arguments):
            counted.extend(scored.indices)
            if len(counted) >= after:
                object.__setattr__(cancellation, "deadline", -1.0)
            yield scored

    monkeypatch.setattr(reranker.loaded, "score", counting)
    return reranker._score([("tides", DOCUMENTS)], None, cancellation, False), cancellation


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_deadline_that_passes_during_the_last_batch_stops_nothing(
    name: str, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = reranker_on(name, tiny_reranker)
    result, cancellation = read_with_a_deadline_that_passes(len(DOCUMENTS), reranker, monkeypatch)
    assert cancellation.stop_reason == "deadline passed"
    assert result.read.all()
    assert result.stopped is None


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_deadline_that_passes_before_the_last_batch_is_the_reason_for_stopping(
    name: str, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = read_with_a_deadline_that_passes(2, reranker_on(name, tiny_reranker), monkeypatch)
    assert 0 < result.read.sum() < len(DOCUMENTS)
    assert result.stopped == "deadline passed"


@pytest.mark.parametrize("after", [2, len(DOCUMENTS)])
@pytest.mark.parametrize("name", RUNTIMES)
def test_nan_is_an_error_whether_or_not_a_deadline_passes(
    name: str, after: int, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = reranker_on(name, tiny_reranker)
    give_nan(name, reranker.loaded, monkeypatch)
    with pytest.raises(ModelError, match="log-odds are NaN or infinite"):
        read_with_a_deadline_that_passes(after, reranker, monkeypatch)


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


def test_a_cancellation_whose_event_was_cleared_is_still_reported(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = reranker_on("transformers", tiny_reranker)
    monkeypatch.setattr(reranker.loaded, "score", lambda *_: iter([Scored([0], np.zeros(1, dtype=np.float32))]))
    result = reranker.read("tides", DOCUMENTS, cancel=threading.Event())
    assert result.stopped == "cancelled"
    assert result.read.tolist() == [True, False, False, False, False]
