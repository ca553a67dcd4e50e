"""Adaptive depth: a reranker that reads on only while reading changes the best results."""

import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qwen3_rag.arguments import at_least, check_seconds
from qwen3_rag.models.protocols import RerankerProtocol
from qwen3_rag.scores import RerankResult

__all__ = ["WINDOW", "AdaptiveReranker"]

WINDOW = 10  # candidates read at once


class AdaptiveReranker:
    """Reads candidates in windows of ten, and stops after the first window that brings none into the best `top_k`.

    Args:
        reranker: Scores the candidates, which come best first.
        top_k: Number of results wanted.
        groups: Text to the group of which only the best text counts, such as its document; texts that are missing are
            groups of their own.
    """

    def __init__(self, reranker: RerankerProtocol, top_k: int, groups: Mapping[str, Hashable] | None = None) -> None:
        self.reranker, self.top_k, self.groups = reranker, at_least(top_k, 1, "top_k"), groups or {}

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        """See `RerankerProtocol`; `settled` is set if candidates were left unread, whose log-odds are NaN."""
        started, limit = time.monotonic(), check_seconds(deadline, "deadline")
        log_odds = np.full(len(documents), np.nan, np.float32)
        result = RerankResult(log_odds, np.zeros(len(documents), np.int64))
        best: dict[Hashable, float] = {}
        for start in range(0, len(documents), WINDOW):
            window = documents[start : start + WINDOW]
            left = None if limit is None else max(0.0, started + limit - time.monotonic())
            part = self.reranker.read(query, window, instruction, left, cancel)
            log_odds[start : start + len(window)] = part.log_odds
            result = replace(result, truncated=result.truncated + part.truncated, stopped=part.stopped)
            if part.stopped:
                break
            if not self._enters(best, window, part) and start + WINDOW < len(documents):
                return replace(result, settled=True)
        return result

    def _enters(self, best: dict[Hashable, float], window: Sequence[str], part: RerankResult) -> bool:
        """Whether a text of the window is among the best `top_k`; adds the window to the best score of each group."""
        leading = sorted(best.values(), reverse=True)[: self.top_k]
        last = leading[-1] if len(leading) == self.top_k else -np.inf
        for text, value in zip(window, part.log_odds.tolist(), strict=True):
            group = self.groups.get(text, text)
            best[group] = max(value, best.get(group, -np.inf))
        return bool((part.log_odds > last).any())

    def describe(self) -> dict[str, Any]:
        """The reranker's description."""
        return self.reranker.describe()
