"""From candidates and what the reranker made of them to the final order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.index.retriever import Candidate
from qwen3_rag.models.reranker import probability
from qwen3_rag.models.runtimes import Reading
from qwen3_rag.records import Hit

__all__ = ["Asked", "arrange", "passage_id"]


@dataclass(frozen=True)
class Asked:
    """What of the candidates is wanted, and in which order; checked when made. Fields as in `Pipeline.search`."""

    top_k: int = 10
    min_score: float | None = None
    min_log_odds: float | None = None
    blend: float = 0.0
    group_by_document: bool = False
    distinct: bool = False

    def __post_init__(self) -> None:
        at_least(self.top_k, 1, "top_k")
        _within(self.blend, 0, 1, "blend")
        if self.min_score is not None:
            _within(self.min_score, 0, 1, "min_score")
        if self.min_log_odds is not None:
            _within(self.min_log_odds, -math.inf, math.inf, "min_log_odds")

    def wants(self, hit: Hit) -> bool:
        """Whether a hit passes the thresholds, by which only reranked ones are measured."""
        if hit.score is None or hit.log_odds is None:
            return True
        above_score = self.min_score is None or hit.score >= self.min_score
        return above_score and (self.min_log_odds is None or hit.log_odds >= self.min_log_odds)


def _within(value: object, low: float, high: float, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value!r}; expected a number from {low} to {high}")


def passage_id(document_id: str, ordinal: int) -> str:
    """A passage's name: its document's id and its place in it."""
    return f"{document_id}#{ordinal}"


def arrange(found: Sequence[Candidate], reading: Reading | None, asked: Asked) -> tuple[list[Hit], str | None]:
    """The hits wanted, best first, and why fewer than all candidates were reranked, if so.

    Args:
        found: The candidates in first-stage order.
        reading: What the reranker made of them; None leaves the first stage's order.
        asked: How many, above which thresholds, blended how.
    """
    hits = [_hit(passage_and_score, place, reading) for place, passage_and_score in enumerate(found)]
    order = list(range(len(hits))) if reading is None else _order(found, reading, asked.blend)
    wanted = [hits[place] for place in order if asked.wants(hits[place])]
    if asked.group_by_document:
        best: dict[str, Hit] = {}
        for hit in wanted:
            best.setdefault(hit.document_id, hit)
        wanted = list(best.values())
    if asked.distinct:
        texts: dict[str, Hit] = {}
        for hit in wanted:
            texts.setdefault(" ".join(hit.text.split()), hit)
        wanted = list(texts.values())
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(wanted[: asked.top_k], start=1)]
    return ranked, _shortfall(reading)


def _order(found: Sequence[Candidate], reading: Reading, blend: float) -> list[int]:
    """Read candidates by stage and blended score, then the unread ones in first-stage order."""
    read = np.flatnonzero(reading.read)
    first_stage = np.array([score for _, score in found])[read]
    second_stage = np.empty(len(read))
    for stage in np.unique(reading.stage[read]):
        # Log-odds of different rerankers of a cascade do not compare.
        same = reading.stage[read] == stage
        second_stage[same] = _standardised(reading.log_odds[read][same])
    blended = (1 - blend) * second_stage + blend * _standardised(first_stage)
    # Without a blend the log-odds themselves decide, so that standardising cannot merge two of them.
    keys = blended if blend else reading.log_odds[read]
    best = read[np.lexsort((-keys, -reading.stage[read]))]
    return [*best.tolist(), *np.flatnonzero(~reading.read).tolist()]


def _standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean 0 and standard deviation 1; zeros where all values are equal."""
    centred = values.astype(np.float64) - (values.mean() if len(values) else 0)
    spread = centred.std() if len(values) else 0
    return centred / spread if spread > 0 else np.zeros_like(centred)


def _hit(candidate: Candidate, place: int, reading: Reading | None) -> Hit:
    passage, retrieval_score = candidate
    log_odds = float(reading.log_odds[place]) if reading is not None and reading.read[place] else None
    return Hit(
        id=passage_id(passage.document_id, passage.ordinal),
        document_id=passage.document_id,
        text=passage.text,
        title=passage.title,
        source=passage.source,
        page=passage.page,
        heading=passage.heading,
        start=passage.start,
        end=passage.stop,
        score=None if log_odds is None else float(probability(np.array(log_odds))),
        log_odds=log_odds,
        rank=0,
        retrieval_score=retrieval_score,
        retrieval_rank=place + 1,
        reranked=log_odds is not None,
        metadata=passage.metadata,
    )


def _shortfall(reading: Reading | None) -> str | None:
    if reading is None or reading.read.all():
        return None
    why = f"{reading.stopped}: " if reading.stopped else ""
    count = f"{int(reading.read.sum())} of {len(reading.read)}"
    return f"{why}{count} candidates were reranked; the rest is in first-stage order"
