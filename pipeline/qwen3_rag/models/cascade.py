"""A cascade of rerankers: a small one scores many candidates, a larger one only the best of them."""

import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from qwen3_rag.arguments import at_least, check_seconds, text_list
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.adaptive import AdaptiveReranker
from qwen3_rag.models.protocols import RerankerProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.scores import Ranked, RerankResult, best_first, ranked

__all__ = ["CASCADES", "Cascade", "adaptive", "named_reranker", "reranker_of", "takes_instructions"]

# Preset to its stages: model, options of its own, and candidates.
CASCADES: Mapping[str, Sequence[tuple[str, Mapping[str, Any], int]]] = {
    "laptop": (
        ("cross-encoder/mmarco-mMiniLMv2-L12-H384-v1", {"runtime": "sentence-transformers", "instruction": None}, 100),
        ("0.6b", {}, 16),
    )
}
COMMON = {"device", "instruction", "instructions", "hub"}


class Cascade:
    """Several rerankers that act as one.

    The first stage scores the first candidates of the list; each later stage scores the best candidates of the stage
    before it. A candidate that a later stage scored ranks above all it did not score, because log-odds of different
    models are not comparable. An instruction reaches the stages whose model reads one.

    Args:
        stages: (reranker, number of candidates it scores), with decreasing numbers: `[(small, 100), (large, 20)]`.

    Raises:
        InvalidArgumentError: There is no stage, or the numbers do not decrease.
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
    ) -> RerankResult:
        """Log-odds of each candidate from the last stage that scored it; NaN for candidates that no stage scored.

        Arguments as in `RerankerProtocol.read`; the deadline is one for all stages.
        """
        started, limit = time.monotonic(), check_seconds(deadline, "deadline")
        result = RerankResult(np.full(len(documents), np.nan, np.float32), np.zeros(len(documents), np.int64))
        order = list(range(len(documents)))
        for stage, (reranker, depth) in enumerate(self.stages):
            chosen = order[:depth]
            left = None if limit is None else max(0.0, started + limit - time.monotonic())
            sentence = instruction if instruction and takes_instructions(reranker) else None
            part = reranker.read(query, [documents[i] for i in chosen], sentence, left, cancel)
            for place, index in enumerate(chosen):
                if part.read[place]:
                    result.log_odds[index], result.stage[index] = part.log_odds[place], stage
            result = replace(
                result,
                truncated=max(result.truncated, part.truncated),
                tokens=result.tokens + part.tokens,
                stopped=result.stopped or part.stopped,
                settled=result.settled or part.settled,
            )
            order = best_first(result)
        return replace(result, settled=result.settled and not result.stopped)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        instruction: str | None = None,
        return_documents: bool = False,
    ) -> list[Ranked]:
        """As `Reranker.rank`; documents that no stage scored are left out."""
        if top_k is not None:
            at_least(top_k, 1, "top_k")
        texts = text_list(documents, "documents")
        return ranked(self.read(query, texts, instruction), texts if return_documents else None)[:top_k]

    def describe(self) -> dict[str, Any]:
        """Arguments that recreate this cascade, as JSON."""
        return {"stages": [[reranker.describe(), depth] for reranker, depth in self.stages]}


def takes_instructions(reranker: RerankerProtocol) -> bool:
    """Whether a reranker reads an instruction; True of classes other than ours."""
    if isinstance(reranker, AdaptiveReranker):
        return takes_instructions(reranker.reranker)
    return reranker.takes_instructions if isinstance(reranker, Reranker) else True


def adaptive(reranker: RerankerProtocol, top_k: int, groups: Mapping[str, Hashable] | None = None) -> RerankerProtocol:
    """A reranker that reads no deeper than it pays for `top_k` results; arguments as of `AdaptiveReranker`.

    Of a cascade every stage does, and an earlier stage settles which candidates the next one reads.
    """
    if not isinstance(reranker, Cascade):
        return AdaptiveReranker(reranker, top_k, groups)
    depths = [depth for _, depth in reranker.stages]
    wanted = [*depths[1:], top_k]
    return Cascade(
        [(adaptive(stage, k, groups), depth) for (stage, depth), k in zip(reranker.stages, wanted, strict=True)]
    )


def named_reranker(model: str, **options: Any) -> Reranker | Cascade:
    """A reranker by its model's name, or a preset cascade by its own.

    Args:
        model: As for `Reranker`; or "laptop", which has a small multilingual cross-encoder score the candidates and
            Qwen3-Reranker-0.6B the best sixteen.
        **options: Of `Reranker`; a cascade takes those that hold for all its stages.

    Raises:
        InvalidArgumentError: An argument is wrong, or holds for one model only.
    """
    stages = CASCADES.get(model.lower()) if isinstance(model, str) else None
    if stages is None:
        return Reranker(model, **options)
    chosen = {name: value for name, value in options.items() if value not in (None, {})}
    if foreign := sorted(chosen.keys() - COMMON):
        raise InvalidArgumentError(
            f"{', '.join(foreign)} passed, but {model!r} is a cascade of several models; expected only "
            f"{', '.join(sorted(COMMON))}, or a Cascade of your own"
        )
    return Cascade([(Reranker(name, **chosen | dict(own)), depth) for name, own, depth in stages])


def reranker_of(described: dict[str, Any]) -> Reranker | Cascade:
    """Recreate a reranker or cascade from the output of its `describe`."""
    if "stages" in described:
        stages: list[tuple[RerankerProtocol, int]] = [
            (reranker_of(stage), depth) for stage, depth in described["stages"]
        ]
        return Cascade(stages)
    return Reranker(**described)
