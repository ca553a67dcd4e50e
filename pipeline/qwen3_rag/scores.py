"""What models return: vectors, log-odds, probabilities and rankings; and when they stop early."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NEVER",
    "Cancellation",
    "EmbedResult",
    "Group",
    "Ranked",
    "RerankResult",
    "best_first",
    "probability",
    "ranked",
]

Float32 = NDArray[np.float32]
Group = tuple[str, Sequence[str]]  # a query and its documents


@dataclass(frozen=True)
class Cancellation:
    """When to stop scoring early; the scores so far are kept.

    Attributes:
        deadline: Value of `time.monotonic()` to stop at.
        cancel: Stop once it is set, from any thread.
    """

    deadline: float | None = None
    cancel: threading.Event | None = None

    @classmethod
    def after(cls, seconds: float | None, cancel: threading.Event | None = None) -> "Cancellation":
        """Stop so many seconds from now; None never."""
        return cls(None if seconds is None else time.monotonic() + seconds, cancel)

    @property
    def stop_reason(self) -> str | None:
        """Why to stop now, or None to continue."""
        if self.cancel is not None and self.cancel.is_set():
            return "cancelled"
        return "deadline passed" if self.deadline is not None and time.monotonic() >= self.deadline else None


NEVER = Cancellation()


@dataclass(frozen=True)
class RerankResult:
    """A reranker's scores of some candidates.

    Attributes:
        log_odds: float32 (n,), logit(yes) − logit(no); NaN where a candidate was not scored.
        stage: int (n,), the stage of a cascade that scored the candidate last; 0 for a single reranker.
        truncated: Number of distinct texts that were truncated.
        stopped: Why some candidates were not scored, or None.
        settled: Whether candidates were left out because reading on no longer changed the best results.
        tokens: Number of tokens of the inputs that were scored, the template included.
    """

    log_odds: Float32
    stage: NDArray[np.int64]
    truncated: int = 0
    stopped: str | None = None
    settled: bool = False
    tokens: int = 0

    @property
    def read(self) -> NDArray[np.bool_]:
        """Which candidates were scored: bool (n,)."""
        return ~np.isnan(self.log_odds)


@dataclass(frozen=True)
class EmbedResult:
    """An embedder's vectors of some texts.

    Attributes:
        vectors: float32 (n, dimensions), unit rows.
        tokens: Number of tokens of the inputs, instruction and end token included.
        truncated: Number of texts that were truncated.
    """

    vectors: Float32
    tokens: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class Ranked:
    """One document's place in a ranking.

    Attributes:
        corpus_id: Position of the document in the list that was ranked.
        score: Probability of yes. In sentence-transformers' `CrossEncoder.rank`, `score` is what `log_odds` is here.
        log_odds: logit(yes) − logit(no); distinguishes documents whose probabilities both round to 1.
        text: The document, if `rank` was called with `return_documents=True`.
    """

    corpus_id: int
    score: float
    log_odds: float
    text: str | None = None


def probability(log_odds: NDArray[np.floating]) -> Float32:
    """Softmax of yes against no: the sigmoid of the log-odds."""
    # exp of negative numbers only, so that nothing overflows.
    small = np.exp(-np.abs(log_odds))
    probabilities: Float32 = np.where(log_odds >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return probabilities


def best_first(result: RerankResult) -> list[int]:
    """Positions of the scored candidates, best first: by stage, then log-odds; ties keep their order."""
    return [int(i) for i in np.lexsort((-result.log_odds, -result.stage)) if result.read[i]]


def ranked(result: RerankResult, documents: Sequence[str] | None = None) -> list[Ranked]:
    """The scored candidates as a ranking, best first, with their texts if `documents` is passed."""
    scores = probability(result.log_odds)
    return [
        Ranked(i, float(scores[i]), float(result.log_odds[i]), None if documents is None else documents[i])
        for i in best_first(result)
    ]
