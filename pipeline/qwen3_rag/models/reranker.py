"""The reranker: how surely a document meets a query, read by the model with both in view."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING, at_least, check_cancel, check_query, text_list
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.asynchrony import in_thread
from qwen3_rag.models.named import NamedModel
from qwen3_rag.models.runtimes import NEVER, Reading, RerankRuntime, Until
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
        log_odds: logit(yes) − logit(no); keeps apart what the probability rounds to 1.
    """

    corpus_id: int
    score: float
    log_odds: float


class RerankerProtocol(Protocol):
    """What the pipeline and the adapters need of a reranker."""

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Reading:
        """Log-odds of the documents, those first in line read first."""

    def describe(self) -> dict[str, Any]:
        """Arguments that make this reranker again; for the store."""


def probability(log_odds: NDArray[np.floating]) -> Float32:
    """Softmax of yes against no: the sigmoid of the log-odds."""
    # exp of a negative number only: no overflow at either end.
    small = np.exp(-np.abs(log_odds))
    likely: Float32 = np.where(log_odds >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return likely


def best_first(reading: Reading) -> list[int]:
    """Positions of the read candidates, best first: by stage, then log-odds; ties stay in the order given."""
    return [int(i) for i in np.lexsort((-reading.log_odds, -reading.stage)) if reading.read[i]]


class Reranker(NamedModel[RerankRuntime]):
    """Qwen3-Reranker, or another causal decoder or one-label classifier, by name; weights are loaded at first use.

    The format is that of the `Qwen/Qwen3-Reranker-*` model cards; the score is the softmax of the logits of "yes" and
    "no" at the last token.

    Args:
        model: A Hugging Face id, a local folder, or a preset: "0.6b", "4b", "8b", "demo".
        device: "auto", "cpu", "cuda", "cuda:1", ….
        dtype: "auto", "float32", "bfloat16", "float16", or, natively on a CPU, "int8".
        instruction: Default instruction: a preset's name, one of `instructions`, or a sentence.
        instructions: Your own named instructions.
        max_length: Tokens of template, instruction, query and document; only the document is ever cut.
        revision: Commit or tag on the hub.
        runtime: "native"; "transformers" (the official script's computation); "sentence-transformers" (its
            `CrossEncoder`); "vllm" (in this process); or the URL of a server that speaks `/v1/rerank` or `/v1/score`.
        runtime_options: What the runtime understands; another name is an error. Native: `attention` ("auto", "flash",
            "sdpa", "math"), `compile` ("auto" once the model has worked for 20 seconds, True when it is loaded, False
            never) and `token_budget` (tokens of a batch). transformers, sentence-transformers: `batch_size`; the
            latter also `backend` and `model_kwargs`. vllm: its engine's arguments. A server: `endpoint`, `batch_size`,
            `timeout`, `retries`, `served_name`, `api_key_env`, `probe`. All: `hub` ("huggingface", "modelscope").

    Raises:
        InvalidArgumentError: Any argument is wrong; names are checked here, weights at first use.
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
    ) -> Reading:
        """Log-odds of the documents for one query, with what was cut or left unread. Equal texts are read once.

        Args:
            query: The query.
            documents: Candidates, the most promising first.
            instruction: In place of the object's; a name or a sentence.
            deadline: Value of `time.monotonic()` after which the rest stays unread (NaN).
            cancel: Once set, from any thread, the rest stays unread.
            show_progress: A bar on a terminal, log lines elsewhere.

        Raises:
            InvalidArgumentError: Empty query, a string for `documents`, or a query that leaves no room for a document.
            ModelError: The model gave NaN.
        """
        check_query(query)
        check_cancel(cancel)
        texts = text_list(documents, "documents")
        places: dict[str, int] = {}
        back = [places.setdefault(text, len(places)) for text in texts]
        found = self._read([(query, text) for text in places], instruction, Until(deadline, cancel), show_progress)
        return Reading(found.log_odds[back], found.stage[back], found.truncated, found.stopped)

    async def aread(self, query: str, documents: Sequence[str], **options: Any) -> Reading:
        """`read` in a thread of its own; a task that is cancelled leaves the queue."""
        return await in_thread(self.read, query, documents, **options)

    def _read(self, pairs: Sequence[tuple[str, str]], instruction: str | None, until: Until, show: bool) -> Reading:
        sentence = resolve_instruction(instruction, self.instructions, self.instruction)
        if not pairs:
            return Reading(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))
        with progress("reranking", len(pairs), show) as count:
            found = self.loaded.read(sentence, pairs, until, count)
        if not found.stopped and not np.isfinite(found.log_odds).all():
            raise ModelError(f"{self.model!r} gave log-odds that are not numbers (NaN or infinite)")
        return found

    def log_odds(
        self, query: str, documents: Sequence[str], instruction: str | None = None, show_progress: bool = False
    ) -> Float32:
        """logit(yes) − logit(no) of each document: float32 (n,), in the order given. Errors as in `read`."""
        return self.read(query, documents, instruction, show_progress=show_progress).log_odds

    def score(
        self, query: str, documents: Sequence[str], instruction: str | None = None, show_progress: bool = False
    ) -> Float32:
        """Probability of yes for each document: float32 (n,), the sigmoid of `log_odds`. Errors as in `read`."""
        return probability(self.log_odds(query, documents, instruction, show_progress))

    def predict(
        self, pairs: Sequence[tuple[str, str]], instruction: str | None = None, show_progress: bool = False
    ) -> Float32:
        """Log-odds of (query, document) pairs: float32 (n,), as `CrossEncoder.predict` gives them.

        Raises:
            InvalidArgumentError: Not a list of pairs of texts, or an empty query among them.
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
        """The documents best first, at most `top_k`; equal scores stay in the order given. Errors as in `read`."""
        if top_k is not None:
            at_least(top_k, 1, "top_k")
        return ranked(self.read(query, documents, instruction))[:top_k]


def ranked(reading: Reading) -> list[Ranked]:
    """A reading as a ranking."""
    scores = probability(reading.log_odds)
    return [Ranked(i, float(scores[i]), float(reading.log_odds[i])) for i in best_first(reading)]
