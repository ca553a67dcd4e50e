"""The options of a search, and the final order of its candidates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import at_least, shown
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.index.retriever import MODES, Mode
from qwen3_rag.index.store import Passage
from qwen3_rag.records import Hit, headings_of
from qwen3_rag.scores import RerankResult, probability

__all__ = ["Retrieved", "SearchOptions", "arrange", "passage_id", "standardised"]

CANDIDATES = 100


@dataclass(frozen=True)
class SearchOptions:
    """The options of `Pipeline.search`, under the same names and with the same defaults; checked at once."""

    top_k: int = 10
    candidates: int | None = None
    filter: Mapping[str, Any] | None = None
    instruction: str | None = None
    min_score: float | None = None
    min_log_odds: float | None = None
    mode: Mode = "dense"
    rerank: bool = True
    blend: float = 0.0
    deadline: float | None = None
    group_by_document: bool = False
    distinct: bool = False
    neighbours: int = 0

    def __post_init__(self) -> None:
        at_least(self.top_k, 1, "top_k")
        _within(self.blend, 0, 1, "blend")
        at_least(self.neighbours, 0, "neighbours")
        if self.candidates is not None and self.top_k > at_least(self.candidates, 1, "candidates"):
            raise InvalidArgumentError(
                f"top_k is {self.top_k}, more than candidates={self.candidates}; expected at most as many"
            )
        if self.mode not in MODES:
            raise UnknownNameError("mode", self.mode, list(MODES))
        limit = self.deadline
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            raise InvalidArgumentError(f"deadline is {shown(limit)}; expected seconds, more than 0")
        if self.min_score is not None:
            _within(self.min_score, 0, 1, "min_score")
        if self.min_log_odds is not None:
            _within(self.min_log_odds, -math.inf, math.inf, "min_log_odds")

    @property
    def depth(self) -> int:
        """Passages that the first stage hands to the reranker."""
        return max(CANDIDATES, self.top_k) if self.candidates is None else self.candidates

    def wants(self, hit: Hit) -> bool:
        """Whether a hit passes the thresholds; hits that were not reranked always pass."""
        if hit.score is None or hit.log_odds is None:
            return True
        above_score = self.min_score is None or hit.score >= self.min_score
        return above_score and (self.min_log_odds is None or hit.log_odds >= self.min_log_odds)


def _within(value: object, low: float, high: float, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {shown(value)}; expected a number from {low} to {high}")


@dataclass(frozen=True)
class Retrieved:
    """A candidate: its passage with its first-stage score and rank; rank 1 is best."""

    passage: Passage
    score: float
    rank: int


def passage_id(document_id: str, ordinal: int) -> str:
    """A passage's name: its document's id and its place in it."""
    return f"{document_id}#{ordinal}"


def arrange(
    candidates: Sequence[Retrieved], result: RerankResult | None, options: SearchOptions
) -> tuple[list[Hit], str | None]:
    """The final hits, best first, and the reason if some candidates were not reranked.

    Args:
        candidates: In first-stage order.
        result: The reranker's scores; None keeps first-stage order.
        options: Limit, thresholds, grouping and blend.
    """
    hits = [_hit(candidate, index, result) for index, candidate in enumerate(candidates)]
    order = list(range(len(hits))) if result is None else _order(candidates, result, options.blend)
    selected = [hits[index] for index in order if options.wants(hits[index])]
    if options.group_by_document:
        best: dict[str, Hit] = {}
        for hit in selected:
            best.setdefault(hit.document_id, hit)
        selected = list(best.values())
    if options.distinct:
        texts: dict[str, Hit] = {}
        for hit in selected:
            texts.setdefault(" ".join(hit.text.split()), hit)
        selected = list(texts.values())
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(selected[: options.top_k], start=1)]
    return ranked, _incomplete_reason(result)


def _order(candidates: Sequence[Retrieved], result: RerankResult, blend: float) -> list[int]:
    """Indices of scored candidates by stage and score, then of the others in first-stage order."""
    read = np.flatnonzero(result.read)
    first_stage = np.array([candidate.score for candidate in candidates])[read]
    second_stage = np.empty(len(read))
    for stage in np.unique(result.stage[read]):
        # Log-odds from different rerankers of a cascade are not comparable.
        in_stage = result.stage[read] == stage
        second_stage[in_stage] = standardised(result.log_odds[read][in_stage])
    blended = (1 - blend) * second_stage + blend * standardised(first_stage)
    # Without a blend the log-odds decide: standardising could round two close values to a tie.
    keys = blended if blend else result.log_odds[read]
    best = read[np.lexsort((-keys, -result.stage[read]))]
    return [*best.tolist(), *np.flatnonzero(~result.read).tolist()]


def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean 0 and standard deviation 1; zeros where all values are equal."""
    centred = values.astype(np.float64) - (values.mean() if len(values) else 0)
    spread = centred.std() if len(values) else 0
    return centred / spread if spread > 0 else np.zeros_like(centred)


def _hit(candidate: Retrieved, index: int, result: RerankResult | None) -> Hit:
    passage = candidate.passage
    log_odds = float(result.log_odds[index]) if result is not None and result.read[index] else None
    return Hit(
        id=passage_id(passage.document_id, passage.ordinal),
        document_id=passage.document_id,
        text=passage.text,
        title=passage.title,
        source=passage.source,
        page=passage.page,
        headings=headings_of(passage.heading),
        start=passage.start,
        end=passage.stop,
        score=None if log_odds is None else float(probability(np.array(log_odds))),
        log_odds=log_odds,
        rank=0,
        retrieval_score=candidate.score,
        retrieval_rank=candidate.rank,
        reranked=log_odds is not None,
        metadata=passage.metadata,
    )


def _incomplete_reason(result: RerankResult | None) -> str | None:
    if result is None or result.read.all():
        return None
    why = f"{result.stopped}: " if result.stopped else ""
    count = f"{int(result.read.sum())} of {len(result.read)}"
    return f"{why}{count} candidates were reranked; the rest are in first-stage order"
