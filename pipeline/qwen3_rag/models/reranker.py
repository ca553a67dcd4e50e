"""The reranker: scores how well a document answers a query, reading both together."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING, at_least, check_cancel, check_query, text_list
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.concurrency import in_thread
from qwen3_rag.models.runtimes import NEVER, Cancellation, RerankResult, RerankRuntime
from qwen3_rag.progress import progress
from qwen3_rag.prompts import resolve_instruction

__all__ = ["Ranked", "Reranker", "RerankerProtocol", "best_first", "probability"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Ranked:
    """One document's place in a ranking.

    Attributes:
        corpus_id: Position of the document in the list that was ranked.
        score: Probability of yes.
        log_odds: logit(yes) − logit(no); distinguishes documents whose probabilities both round to 1.
    """

    corpus_id: int
    score: float
    log_odds: float


class RerankerProtocol(Protocol):
    """What the pipeline and the adapters need from a reranker."""

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        """Log-odds of the documents, which are read in the given order."""

    def describe(self) -> dict[str, Any]:
        """Arguments that recreate this reranker; saved in the store."""


def probability(log_odds: NDArray[np.floating]) -> Float32:
    """Softmax of yes against no: the sigmoid of the log-odds."""
    # exp of negative numbers only, so that nothing overflows.
    small = np.exp(-np.abs(log_odds))
    probabilities: Float32 = np.where(log_odds >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return probabilities


def best_first(result: RerankResult) -> list[int]:
    """Positions of the scored candidates, best first: by stage, then log-odds; ties keep their order."""
    return [int(i) for i in np.lexsort((-result.log_odds, -result.stage)) if result.read[i]]


class Reranker(NamedModel[RerankRuntime]):
    """Qwen3-Reranker, or another causal decoder or one-label classifier; weights load at first use.

    Input format and score follow the `Qwen/Qwen3-Reranker-*` model cards: the softmax of the logits of "yes" and "no"
    at the last token.

    Args:
        model: A Hugging Face id, a local folder, or a preset: "0.6b", "4b", "8b", "demo".
        device: "auto", "cpu", "cuda", "cuda:1", ….
        dtype: "auto", "float32", "bfloat16", "float16", or, with the native runtime on a CPU, "int8".
        instruction: Default instruction: a preset's name, a name from `instructions`, or a sentence.
        instructions: Your own named instructions.
        max_length: Most tokens of template, instruction, query and document together; only the document is truncated.
        revision: Commit, branch or tag on the hub.
        runtime: "native"; "transformers" (the official script's computation); "sentence-transformers" (its
            `CrossEncoder`); "vllm" (in this process); or the URL of a server with `/v1/rerank` or `/v1/score`.
        runtime_options: Options of the runtime; an unknown name is an error. native: `attention` ("auto", "flash",
            "sdpa", "math"), `compile` ("auto" after the model has worked for 20 seconds, True at loading, False never)
            and `token_budget` (tokens in a batch). transformers, sentence-transformers: `batch_size`; the latter also
            `backend` and `model_kwargs`. vllm: its engine's arguments. Servers: `endpoint`, `batch_size`, `timeout`,
            `retries`, `served_name`, `api_key_env`, `probe`. All: `hub` ("huggingface", "modelscope").

    Raises:
        InvalidArgumentError: An argument is wrong. Names are checked at once, weights at first use.
    """

    kind = "reranker"

    def __init__(
        self,
        model: str = "Qwen/Qwen3-Reranker-0.6B",
        *,
        device: str = "auto",
        dtype: str = "auto",
        instruction: str | None = None,
        instructions: Mapping[str, str] = NOTHING,
        max_length: int = 8192,
        revision: str | None = None,
        runtime: str = "native",
        runtime_options: Mapping[str, Any] = NOTHING,
    ) -> None:
        super().__init__(
            model,
            device=device,
            dtype=dtype,
            instruction=instruction,
            instructions=instructions,
            max_length=max_length,
            revision=revision,
            runtime=runtime,
            runtime_options=runtime_options,
        )

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
        show_progress: bool = False,
    ) -> RerankResult:
        """Log-odds of the documents for one query, and which were truncated or not scored. Equal texts are scored once.

        Args:
            query: The query.
            documents: Candidates, the most promising first.
            instruction: Replaces the reranker's instruction; a name or a sentence.
            deadline: Value of `time.monotonic()` after which the remaining documents are not scored (NaN).
            cancel: Once set, from any thread, the remaining documents are not scored.
            show_progress: Show a bar on a terminal, log lines elsewhere.

        Raises:
            InvalidArgumentError: The query is empty, `documents` is a string, or query and instruction fill
                `max_length`.
            ModelError: The model returned NaN or infinity.
        """
        check_query(query)
        check_cancel(cancel)
        texts = text_list(documents, "documents")
        unique: dict[str, int] = {}
        index = [unique.setdefault(text, len(unique)) for text in texts]
        result = self._read(
            [(query, text) for text in unique], instruction, Cancellation(deadline, cancel), show_progress
        )
        return RerankResult(result.log_odds[index], result.stage[index], result.truncated, result.stopped)

    async def aread(self, query: str, documents: Sequence[str], **options: Any) -> RerankResult:
        """`read` in a thread; cancelling the task removes the call from the queue."""
        return await in_thread(self.read, query, documents, **options)

    def _read(
        self, pairs: Sequence[tuple[str, str]], instruction: str | None, cancellation: Cancellation, show: bool
    ) -> RerankResult:
        sentence = resolve_instruction(instruction, self.instructions, self.instruction)
        if not pairs:
            return RerankResult(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))
        with progress("reranking", len(pairs), show) as count:
            result = self.loaded.read(sentence, pairs, cancellation, count)
        if not result.stopped and not np.isfinite(result.log_odds).all():
            raise ModelError(f"{self.model!r} returned log-odds that are NaN or infinite")
        return result

    def log_odds(
        self, query: str, documents: Sequence[str], instruction: str | None = None, show_progress: bool = False
    ) -> Float32:
        """logit(yes) − logit(no) of each document: float32 (n,), in the given order. Errors as in `read`."""
        return self.read(query, documents, instruction, show_progress=show_progress).log_odds

    def score(
        self, query: str, documents: Sequence[str], instruction: str | None = None, show_progress: bool = False
    ) -> Float32:
        """Probability of yes for each document: float32 (n,), the sigmoid of `log_odds`. Errors as in `read`."""
        return probability(self.log_odds(query, documents, instruction, show_progress))

    def predict(
        self, pairs: Sequence[tuple[str, str]], instruction: str | None = None, show_progress: bool = False
    ) -> Float32:
        """Log-odds of (query, document) pairs: float32 (n,), like `CrossEncoder.predict`.

        Raises:
            InvalidArgumentError: `pairs` is not a list of pairs of texts, or a query is empty.
        """
        checked = []
        for position, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise InvalidArgumentError(f"pairs[{position}] is {pair!r}; expected a (query, document) pair of texts")
            checked.append((check_query(pair[0]), pair[1]))
        return self._read(checked, instruction, NEVER, show_progress).log_odds

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, instruction: str | None = None
    ) -> list[Ranked]:
        """The documents, best first, at most `top_k`; equal scores keep their order. Errors as in `read`."""
        if top_k is not None:
            at_least(top_k, 1, "top_k")
        return ranked(self.read(query, documents, instruction))[:top_k]


def ranked(result: RerankResult) -> list[Ranked]:
    """The scored candidates as a ranking, best first."""
    scores = probability(result.log_odds)
    return [Ranked(i, float(scores[i]), float(result.log_odds[i])) for i in best_first(result)]
