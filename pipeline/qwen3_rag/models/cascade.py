"""Rerankers in a row: a small one orders many candidates, a large one the best of them."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.reranker import Ranked, Reranker, RerankerProtocol, best_first, ranked
from qwen3_rag.models.runtimes import Reading

__all__ = ["Cascade", "reranker_of"]


class Cascade:
    """A reranker made of rerankers.

    Each stage reads the best candidates of the stage before it, so many as its number says; the first reads that many
    of the list as given. A candidate that a later stage read stands above all that it did not, since log-odds of
    different models do not compare.

    Args:
        stages: (reranker, candidates it reads), numbers falling: `[(small, 100), (large, 20)]`.

    Raises:
        InvalidArgumentError: No stage, or numbers that do not fall.
    """

    def __init__(self, stages: Sequence[tuple[RerankerProtocol, int]]) -> None:
        self.stages = list(stages)
        depths = [at_least(depth, 1, "candidates of a stage") for _, depth in self.stages]
        if not depths or any(later >= earlier for earlier, later in pairwise(depths)):
            raise InvalidArgumentError(f"stages read {depths} candidates; expected falling numbers, as in [100, 20]")

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Reading:
        """Each candidate's log-odds from the last stage that read it; NaN for those beyond the first stage's number."""
        whole = Reading(np.full(len(documents), np.nan, np.float32), np.zeros(len(documents), np.int64))
        order = list(range(len(documents)))
        for stage, (reranker, depth) in enumerate(self.stages):
            chosen = order[:depth]
            part = reranker.read(query, [documents[i] for i in chosen], instruction, deadline, cancel)
            for place, index in enumerate(chosen):
                if part.read[place]:
                    whole.log_odds[index], whole.stage[index] = part.log_odds[place], stage
            whole = replace(
                whole, truncated=max(whole.truncated, part.truncated), stopped=whole.stopped or part.stopped
            )
            order = best_first(whole)
        return whole

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, instruction: str | None = None
    ) -> list[Ranked]:
        """The documents best first, at most `top_k`; those that no stage read are left out."""
        if top_k is not None:
            at_least(top_k, 1, "top_k")
        return ranked(self.read(query, documents, instruction))[:top_k]

    def describe(self) -> dict[str, Any]:
        """Arguments that make this cascade again, as JSON."""
        return {"stages": [[reranker.describe(), depth] for reranker, depth in self.stages]}

    @property
    def instructions(self) -> dict[str, str]:
        """Named instructions that every stage may be given; an earlier stage's win."""
        own: dict[str, str] = {}
        for reranker, _ in reversed(self.stages):
            own |= getattr(reranker, "instructions", {})
        return own


def reranker_of(described: dict[str, Any]) -> Reranker | Cascade:
    """The reranker or cascade that `describe` described."""
    if "stages" in described:
        stages: list[tuple[RerankerProtocol, int]] = [(reranker_of(one), depth) for one, depth in described["stages"]]
        return Cascade(stages)
    return Reranker(**described)
