"""Two protocols, one for embedders and one for rerankers, and what fulfils them."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import ModelError

__all__ = [
    "NEVER",
    "EmbeddingRuntime",
    "Loaded",
    "Progress",
    "Reading",
    "RerankRuntime",
    "Until",
    "planned",
    "reading_of",
]

Float32 = NDArray[np.float32]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Until:
    """When reading stops, though candidates are left: what was read by then is kept.

    Attributes:
        deadline: Value of `time.monotonic()`.
        cancel: Set by the caller, from any thread.
    """

    deadline: float | None = None
    cancel: threading.Event | None = None

    @property
    def reached(self) -> str | None:
        """Why to stop now, or None."""
        if self.cancel is not None and self.cancel.is_set():
            return "cancelled"
        return "deadline passed" if self.deadline is not None and time.monotonic() > self.deadline else None


NEVER = Until()


@dataclass(frozen=True)
class Reading:
    """What a reranker made of some candidates.

    Attributes:
        log_odds: float32 (n,), logit(yes) − logit(no); NaN where a candidate was not read.
        stage: int (n,), which reranker of a cascade spoke last; 0 where there is only one.
        truncated: How many different texts were cut to fit.
        stopped: Why candidates were left unread, where some were.
    """

    log_odds: Float32
    stage: NDArray[np.int64]
    truncated: int = 0
    stopped: str | None = None

    @property
    def read(self) -> NDArray[np.bool_]:
        """Which candidates have a score."""
        return ~np.isnan(self.log_odds)


def reading_of(log_odds: Float32, read: int, truncated: int, until: Until) -> Reading:
    """What a single model made of its candidates; `stopped` only where some were left unread.

    Args:
        log_odds: float32 (n,), NaN where a candidate was not read.
        read: How many were read.
        truncated: How many different texts were cut to fit.
        until: Why the others were not.

    Raises:
        ModelError: The model gave a score that is not a finite number.
    """
    finite = int(np.isfinite(log_odds).sum())
    if finite != read:
        raise ModelError(
            f"{read - finite} of {read} log-odds are not numbers (NaN or infinite): damaged weights, or a dtype too "
            "narrow"
        )
    # A cancel event that its owner has cleared again still was the reason.
    stopped = None if read == len(log_odds) else until.reached or "cancelled"
    return Reading(log_odds, np.zeros(len(log_odds), dtype=np.int64), truncated, stopped)


class Planned(Protocol):
    """What decides where a model that is not loaded yet will run."""

    device: str
    dtype: str
    runtime: str
    runtime_options: dict[str, Any]


def planned(model: Planned) -> dict[str, str]:
    """Device, dtype and attention that a model will have when it is loaded.

    A server decides on all of it itself; which text form it takes is known once it was asked.
    """
    if "://" in model.runtime:
        return {"device": model.runtime, "dtype": "the server's", "attention": "the server's"}
    from qwen3_rag.models import attention, loading

    device = loading.choose_device(model.device)
    dtype = loading.choose_dtype(model.dtype, device, int8=model.runtime == "native")
    name = {"transformers": "sdpa"}.get(model.runtime, model.runtime)
    known = {"device": str(device), "dtype": str(dtype).removeprefix("torch."), "attention": name}
    if model.runtime == "native":
        known["attention"], _ = attention.choose(str(model.runtime_options.get("attention", "auto")), device, dtype)
        known["compiled"] = "yes" if model.runtime_options.get("compile") is True else "no"
    return known


class Loaded(Protocol):
    """A model that is loaded."""

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention and the like, in words."""


class RerankRuntime(Loaded, Protocol):
    """Reads pairs of query and document."""

    def read(
        self,
        instruction: str,
        pairs: Sequence[tuple[str, str]],
        until: Until = NEVER,
        progress: Progress | None = None,
    ) -> Reading:
        """Log-odds of each (query, document); once `until` is reached the rest stays unread (NaN)."""


class EmbeddingRuntime(Loaded, Protocol):
    """Turns texts into unit vectors."""

    dimensions: int
    max_length: int
    takes_instructions: bool

    def embed_queries(self, texts: Sequence[str], instruction: str) -> Float32:
        """Unit rows (n, dimensions)."""

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Float32:
        """Unit rows (n, dimensions)."""

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""
