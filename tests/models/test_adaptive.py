"""Adaptive depth: reading goes on while it changes the best results, and what is left unread is not in them."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_rag import Cascade, InvalidArgumentError
from qwen3_rag.models.adaptive import WINDOW, AdaptiveReranker
from qwen3_rag.models.cascade import adaptive
from qwen3_rag.scores import RerankResult


class TableReranker:
    """Scores texts from a table, counts them, and stops once `most` are scored."""

    def __init__(self, scores: Mapping[str, float], most: int = 10**9) -> None:
        self.scores, self.most, self.read_texts = scores, most, list[str]()

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        log_odds = np.full(len(documents), np.nan, np.float32)
        for place, text in enumerate(documents):
            if len(self.read_texts) < self.most:
                self.read_texts.append(text)
                log_odds[place] = self.scores[text]
        stopped = "deadline passed" if np.isnan(log_odds).any() else None
        return RerankResult(log_odds, np.zeros(len(documents), np.int64), 1, stopped)

    def describe(self) -> dict[str, Any]:
        return {"model": "table"}


def falling(count: int) -> dict[str, float]:
    return {f"text {i}": float(count - i) for i in range(count)}


def test_reading_stops_after_a_window_that_brings_none_into_the_best() -> None:
    table = TableReranker(falling(60))
    result = adaptive(table, 10).read("q", list(table.scores))
    assert len(table.read_texts) == 2 * WINDOW
    assert result.read.sum() == 2 * WINDOW
    assert result.settled
    assert result.stopped is None
    assert result.truncated == 2


def test_reading_goes_on_while_a_later_text_is_among_the_best() -> None:
    scores = falling(60) | {"text 15": 100.0, "text 29": 101.0}
    table = TableReranker(scores)
    result = adaptive(table, 10).read("q", list(scores))
    assert len(table.read_texts) == 4 * WINDOW
    assert int(np.nanargmax(result.log_odds)) == 29


@given(
    ranks=st.integers(1, 70).flatmap(lambda n: st.permutations(range(n))),
    top_k=st.integers(1, 30),
)
def test_the_depth_is_that_of_the_rule(ranks: list[int], top_k: int) -> None:
    scores = {f"text {place}": float(rank) for place, rank in enumerate(ranks)}
    table = TableReranker(scores)
    result = adaptive(table, top_k).read("q", list(scores))
    expected = len(ranks)
    for end in range(WINDOW, len(ranks), WINDOW):
        best = sorted(range(end), key=lambda place: -ranks[place])[:top_k]
        if max(best) < end - WINDOW:
            expected = end
            break
    assert len(table.read_texts) == expected
    assert result.settled == (expected < len(ranks))
    assert result.log_odds[:expected].tolist() == ranks[:expected]


def test_one_text_a_group_counts() -> None:
    # Ten passages of one document fill one place of the best two, so reading goes on to the other documents.
    scores = {f"text {i}": float(100 - i) for i in range(50)}
    groups = {text: "long" if place < 20 else text for place, text in enumerate(scores)}
    table = TableReranker(scores)
    AdaptiveReranker(table, 2, groups).read("q", list(scores))
    assert len(table.read_texts) == 4 * WINDOW
    alone = TableReranker(scores)
    AdaptiveReranker(alone, 2).read("q", list(scores))
    assert len(alone.read_texts) == 2 * WINDOW


def test_a_deadline_ends_the_reading_and_is_said() -> None:
    table = TableReranker(dict(reversed(falling(60).items())), most=25)
    result = adaptive(table, 10).read("q", list(table.scores))
    assert result.stopped == "deadline passed"
    assert not result.settled
    assert result.read.sum() == 25


def test_every_stage_of_a_cascade_is_adaptive() -> None:
    small, large = TableReranker(falling(100)), TableReranker(falling(100))
    result = adaptive(Cascade([(small, 100), (large, 30)]), 5).read("q", list(small.scores))
    assert len(small.read_texts) == 40  # thirty settle the candidates of the next stage
    assert len(large.read_texts) == 20
    assert result.settled
    assert result.read.sum() == 40
    assert (result.stage == 1).sum() == 20


def test_few_texts_are_all_read() -> None:
    table = TableReranker(falling(7))
    result = adaptive(table, 3).read("q", list(table.scores))
    assert not result.settled
    assert result.read.all()
    assert adaptive(table, 3).read("q", []).log_odds.shape == (0,)


def test_it_describes_itself_as_its_reranker_and_checks_top_k() -> None:
    assert adaptive(TableReranker({}), 3).describe() == {"model": "table"}
    with pytest.raises(InvalidArgumentError, match="top_k is 0"):
        adaptive(TableReranker({}), 0)
