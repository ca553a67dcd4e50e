"""The protocols of embedding and reranking runtimes, and the modules that implement them."""

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
    "Cancellation",
    "EmbeddingRuntime",
    "Loaded",
    "Progress",
    "RerankResult",
    "RerankRuntime",
    "planned",
    "rerank_result",
]

Float32 = NDArray[np.float32]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Cancellation:
    """When to stop scoring early; the scores so far are kept.

    Attributes:
        deadline: Value of `time.monotonic()` to stop at.
        cancel: Stop once it is set, from any thread.
    """

    deadline: float | None = None
    cancel: threading.Event | None = None

    @property
    def stop_reason(self) -> str | None:
        """Why to stop now, or None to continue."""
        if self.cancel is not None and self.cancel.is_set():
            return "cancelled"
        return "deadline passed" if self.deadline is not None and time.monotonic() > self.deadline else None


NEVER = Cancellation()


@dataclass(frozen=True)
class RerankResult:
    """A reranker's scores of some candidates.

    Attributes:
        log_odds: float32 (n,), logit(yes) − logit(no); NaN where a candidate was not scored.
        stage: int (n,), the stage of a cascade that scored the candidate last; 0 for a single reranker.
        truncated: Number of distinct texts that were truncated.
        stopped: Why some candidates were not scored, or None.
    """

    log_odds: Float32
    stage: NDArray[np.int64]
    truncated: int = 0
    stopped: str | None = None

    @property
    def read(self) -> NDArray[np.bool_]:
        """Which candidates were scored: bool (n,)."""
        return ~np.isnan(self.log_odds)


def rerank_result(log_odds: Float32, read: int, truncated: int, cancellation: Cancellation) -> RerankResult:
    """The result of a single model; `stopped` is set only if some candidates were not scored.

    Args:
        log_odds: float32 (n,), NaN where a candidate was not scored.
        read: Number of scored candidates.
        truncated: Number of distinct texts that were truncated.
        cancellation: Why the others were not scored.

    Raises:
        ModelError: A score is NaN or infinite.
    """
    finite = int(np.isfinite(log_odds).sum())
    if finite != read:
        raise ModelError(
            f"{read - finite} of {read} log-odds are NaN or infinite: the weights are damaged, or the dtype is too "
            "narrow"
        )
    # The owner may have cleared the cancel event since.
    stopped = None if read == len(log_odds) else cancellation.stop_reason or "cancelled"
    return RerankResult(log_odds, np.zeros(len(log_odds), dtype=np.int64), truncated, stopped)


# Deprecated names, kept because users' own rerankers may import them.
Reading = RerankResult
Until = Cancellation


class Planned(Protocol):
    """The arguments that decide what a model will run on."""

    device: str
    dtype: str
    runtime: str
    runtime_options: dict[str, Any]


def planned(model: Planned) -> dict[str, str]:
    """Device, dtype and attention that a model will use once loaded; a server decides these itself."""
    if "://" in model.runtime:
        return {"device": model.runtime, "dtype": "the server's", "attention": "the server's"}
    from qwen3_rag.models import attention, loading

    device = loading.choose_device(model.device)
    dtype = loading.choose_dtype(model.dtype, device, int8=model.runtime == "native")
    name = {"transformers": "sdpa"}.get(model.runtime, model.runtime)
    runs_on = {"device": str(device), "dtype": str(dtype).removeprefix("torch."), "attention": name}
    if model.runtime == "native":
        runs_on["attention"], _ = attention.choose(str(model.runtime_options.get("attention", "auto")), device, dtype)
        runs_on["compiled"] = "yes" if model.runtime_options.get("compile") is True else "no"
    return runs_on


class Loaded(Protocol):
    """A loaded model."""

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention and similar facts, as text."""


class RerankRuntime(Loaded, Protocol):
    """Scores pairs of query and document."""

    def read(
        self,
        instruction: str,
        pairs: Sequence[tuple[str, str]],
        cancellation: Cancellation = NEVER,
        progress: Progress | None = None,
    ) -> RerankResult:
        """Log-odds of each (query, document); NaN for pairs left once `cancellation` applies."""


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
