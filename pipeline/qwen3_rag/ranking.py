"""The options of a search, and the final order of its candidates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import at_least, shown
from qwen3_rag.calibration import Calibration
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.index.retriever import MODES, Mode
from qwen3_rag.index.store import Passage
from qwen3_rag.records import Hit, headings_of
from qwen3_rag.scores import RerankResult, probability

__all__ = ["Candidates", "Retrieved", "SearchOptions", "arrange", "passage_id", "same_text", "standardised"]

Candidates = int | Literal["auto"] | None

CANDIDATES = 100


@dataclass(frozen=True)
class SearchOptions:
    """The options of `Pipeline.search`, under the same names and with the same defaults; checked at once."""

    top_k: int = 10
    candidates: Candidates = None
    filter: Mapping[str, Any] | None = None
    instruction: str | None = None
    min_score: float | None = None
    min_log_odds: float | None = None
    min_probability: float | None = None
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
        if isinstance(self.candidates, str) and self.candidates != "auto":
            raise InvalidArgumentError(f"candidates is {self.candidates!r}; expected a whole number, 'auto' or None")
        if self.candidates not in (None, "auto") and self.top_k > at_least(self.candidates, 1, "candidates"):
            raise InvalidArgumentError(
                f"top_k is {self.top_k}, more than candidates={self.candidates}; expected at most as many"
            )
        if self.mode not in MODES:
            raise UnknownNameError("mode", self.mode, list(MODES))
        limit = self.deadline
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            raise InvalidArgumentError(f"deadline is {shown(limit)}; expected seconds, more than 0")
        for name in ("min_score", "min_probability"):
            if getattr(self, name) is not None:
                _within(getattr(self, name), 0, 1, name)
        if self.min_log_odds is not None:
            _within(self.min_log_odds, -math.inf, math.inf, "min_log_odds")

    @property
    def depth(self) -> int:
        """Passages that the first stage hands to the reranker."""
        return self.candidates if isinstance(self.candidates, int) else max(CANDIDATES, self.top_k)

    @property
    def open_ended(self) -> bool:
        """Whether the first stage goes on until it has `top_k` documents."""
        return self.group_by_document and not isinstance(self.candidates, int)

    def group(self, candidate: "Retrieved") -> str:
        """What a candidate shares with those that it competes with for one place in the results."""
        passage = candidate.passage
        if self.group_by_document:
            return passage.document_id
        return same_text(passage.text) if self.distinct else passage_id(passage.document_id, passage.ordinal)

    def wants(self, hit: Hit) -> bool:
        """Whether a hit passes the thresholds; hits without the value always pass."""
        limits = (
            (hit.score, self.min_score),
            (hit.log_odds, self.min_log_odds),
            (hit.probability, self.min_probability),
        )
        return all(value is None or least is None or value >= least for value, least in limits)


def _within(value: object, low: float, high: float, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {shown(value)}; expected a number from {low} to {high}")


@dataclass(frozen=True)
class Retrieved:
    """A candidate: its passage with its first-stage score and rank; rank 1 is best."""

    passage: Passage
    score: float
    rank: int


def same_text(text: str) -> str:
    """What two texts share that `distinct` takes for the same."""
    return " ".join(text.split())


def passage_id(document_id: str, ordinal: int) -> str:
    """A passage's name: its document's id and its place in it."""
    return f"{document_id}#{ordinal}"


def arrange(
    candidates: Sequence[Retrieved],
    result: RerankResult | None,
    options: SearchOptions,
    calibration: Calibration | None = None,
) -> tuple[list[Hit], str | None]:
    """The final hits, best first, and the reason if some candidates were not reranked.

    Args:
        candidates: In first-stage order.
        result: The reranker's scores; None keeps first-stage order.
        options: Limit, thresholds, grouping and blend.
        calibration: Gives the hits' probabilities.
    """
    probabilities = np.full(len(candidates), np.nan)
    if result is not None and calibration is not None:
        probabilities = calibration.probabilities(result.log_odds, result.stage)
    hits = [_hit(candidate, index, result, probabilities) for index, candidate in enumerate(candidates)]
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
            texts.setdefault(same_text(hit.text), hit)
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
    # What an adaptive depth left unread is not among the best, and without a score it would pass every threshold.
    unread = [] if result.settled else np.flatnonzero(~result.read).tolist()
    return [*best.tolist(), *unread]


def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean 0 and standard deviation 1; zeros where all values are equal."""
    centred = values.astype(np.float64) - (values.mean() if len(values) else 0)
    spread = centred.std() if len(values) else 0
    return centred / spread if spread > 0 else np.zeros_like(centred)


def _hit(candidate: Retrieved, index: int, result: RerankResult | None, probabilities: NDArray[np.float64]) -> Hit:
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
        probability=None if np.isnan(probabilities[index]) else float(probabilities[index]),
        metadata=passage.metadata,
    )


def _incomplete_reason(result: RerankResult | None) -> str | None:
    if result is None or result.read.all() or result.settled:
        return None
    why = f"{result.stopped}: " if result.stopped else ""
    count = f"{int(result.read.sum())} of {len(result.read)}"
    return f"{why}{count} candidates were reranked; the rest are in first-stage order"
