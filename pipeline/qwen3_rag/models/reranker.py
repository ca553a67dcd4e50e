"""The reranker: scores how well a document answers a query, reading both together."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import NOTHING, at_least, check_cancel, check_query, check_seconds, text_list
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.concurrency import in_thread
from qwen3_rag.models.runtimes.protocols import RerankRuntime, Scored
from qwen3_rag.progress import progress
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.scores import Cancellation, Group, Ranked, RerankResult, probability, ranked

__all__ = ["Reranker"]

Float32 = NDArray[np.float32]


class Reranker(NamedModel[RerankRuntime]):
    """Qwen3-Reranker, or another causal decoder or one-label classifier; weights load at first use.

    Input format and score follow the `Qwen/Qwen3-Reranker-*` model cards: the softmax of the logits of "yes" and "no"
    at the last token.

    Args:
        model: A Hugging Face id, a local folder, or a preset: "0.6b", "4b", "8b", "demo", "demo-minilm".
        device: "auto", "cpu", "cuda", "cuda:1", ….
        dtype: "auto", "float32", "bfloat16", "float16", or, with the native runtime on a CPU, "int8".
        instruction: Default instruction: a preset's name, a name from `instructions`, or a sentence.
        instructions: Your own named instructions.
        max_length: Most tokens of template, instruction, query and document together; only the document is truncated.
        revision: Commit, branch or tag on the hub.
        hub: "huggingface" or "modelscope".
        runtime: "native"; "transformers" (the official script's computation); "sentence-transformers" (its
            `CrossEncoder`); "vllm" (in this process); or the URL of a server with `/v1/rerank` or `/v1/score`.
        runtime_options: Options of the runtime; an unknown name is an error. native: `attention` ("auto", "flash",
            "sdpa", "math"), `compile` ("auto" after the model has worked for 20 seconds, True at loading, False never)
            and `token_budget` (tokens in a batch). transformers, sentence-transformers: `batch_size`; the latter also
            `backend` and `model_kwargs`. vllm: its engine's arguments. Servers: `endpoint`, `batch_size`, `timeout`,
            `retries`, `served_name`, `api_key_env`, `probe`.

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
        hub: str = "huggingface",
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
            hub=hub,
            runtime=runtime,
            runtime_options=runtime_options,
        )

    @property
    def takes_instructions(self) -> bool:
        """Whether the model reads an instruction; loads it. A plain cross-encoder does not."""
        return self.loaded.takes_instructions

    @property
    def longest(self) -> int:
        """Most tokens of template, instruction, query and document together; loads the model."""
        return self.loaded.max_length

    def document_budget(self, query: str, instruction: str | None = None) -> int:
        """Number of tokens of a document that are read beside this query; loads the model.

        Raises:
            InvalidArgumentError: The query is empty, or leaves none.
        """
        sentence = resolve_instruction(instruction, self.instructions, self.instruction)
        return self.loaded.document_budget(sentence, check_query(query))

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""
        return self.loaded.spans(text)

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
            deadline: Seconds from now after which no further documents are scored (NaN).
            cancel: Once set, from any thread, the remaining documents are not scored.
            show_progress: Show a bar on a terminal, log lines elsewhere.

        Raises:
            InvalidArgumentError: The query is empty, `documents` is a string, or query and instruction fill
                `max_length`.
            ModelError: The model returned NaN or infinity.
        """
        check_query(query)
        cancellation = Cancellation.after(check_seconds(deadline, "deadline"), check_cancel(cancel))
        texts = text_list(documents, "documents")
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        places = [distinct[text] for text in texts]
        result = self._score([(query, list(distinct))], instruction, cancellation, show_progress)
        return replace(result, log_odds=result.log_odds[places], stage=result.stage[places])

    def read_ids(
        self, inputs: Sequence[list[int]], deadline: float | None = None, cancel: threading.Event | None = None
    ) -> RerankResult:
        """Log-odds of complete inputs as token ids, the template included; arguments as in `read`.

        Raises:
            InvalidArgumentError: Ids that are no complete input of this model, or a runtime that takes no ids.
        """
        cancellation = Cancellation.after(check_seconds(deadline, "deadline"), check_cancel(cancel))
        return _collected(self.loaded.score_ids(inputs, cancellation), len(inputs), cancellation, lambda _: None)

    async def aread(self, query: str, documents: Sequence[str], **options: Any) -> RerankResult:
        """`read` in a thread; cancelling the task removes the call from the queue."""
        return await in_thread(self.read, query, documents, **options)

    def _score(
        self, groups: Sequence[Group], instruction: str | None, cancellation: Cancellation, show_progress: bool
    ) -> RerankResult:
        """The scores of the groups' documents, one group after the other.

        Raises:
            ModelError: The model returned NaN or infinity.
        """
        sentence = resolve_instruction(instruction, self.instructions, self.instruction)
        total = sum(len(documents) for _, documents in groups)
        if not total:
            return RerankResult(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64))
        with progress("reranking", total, show_progress) as count:
            return _collected(self.loaded.score(sentence, groups, cancellation), total, cancellation, count)

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
        """Log-odds of (query, document) pairs: float32 (n,), like `CrossEncoder.predict`. Errors as in `read_pairs`."""
        return self.read_pairs(pairs, instruction, show_progress=show_progress).log_odds

    def read_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
        show_progress: bool = False,
    ) -> RerankResult:
        """Log-odds of (query, document) pairs; other arguments as in `read`. Equal pairs are scored once.

        Raises:
            InvalidArgumentError: `pairs` is not a list of pairs of texts, or a query is empty.
        """
        cancellation = Cancellation.after(check_seconds(deadline, "deadline"), check_cancel(cancel))
        groups: dict[str, dict[str, int]] = {}  # query to its distinct documents and their places
        for position, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise InvalidArgumentError(f"pairs[{position}] is {pair!r}; expected a (query, document) pair of texts")
            documents = groups.setdefault(check_query(pair[0]), {})
            documents.setdefault(pair[1], len(documents))
        result = self._score(
            [(q, list(texts)) for q, texts in groups.items()], instruction, cancellation, show_progress
        )
        firsts = dict(zip(groups, np.cumsum([0, *map(len, groups.values())]).tolist(), strict=False))
        places = [firsts[query] + groups[query][document] for query, document in pairs]
        return replace(result, log_odds=result.log_odds[places], stage=result.stage[places])

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        instruction: str | None = None,
        return_documents: bool = False,
    ) -> list[Ranked]:
        """The documents, best first; equal scores keep their order.

        Args:
            query: The query.
            documents: The documents.
            top_k: Maximum number of documents returned; None is all.
            instruction: Replaces the reranker's instruction; a name or a sentence.
            return_documents: Whether each place also carries the document's `text`.

        Raises:
            InvalidArgumentError: As in `read`.
        """
        if top_k is not None:
            at_least(top_k, 1, "top_k")
        texts = text_list(documents, "documents")
        return ranked(self.read(query, texts, instruction), texts if return_documents else None)[:top_k]


def _collected(
    parts: Iterable[Scored], total: int, cancellation: Cancellation, count: Callable[[int], None]
) -> RerankResult:
    """The result of `total` inputs from the parts that a runtime yields."""
    log_odds, truncated, tokens = np.full(total, np.nan, dtype=np.float32), 0, 0
    for scored in parts:
        _check_finite(scored.log_odds)
        log_odds[list(scored.indices)] = scored.log_odds
        truncated, tokens = truncated + scored.truncated, tokens + scored.tokens
        count(len(scored.indices))
    stages = np.zeros(total, dtype=np.int64)
    return RerankResult(log_odds, stages, truncated, _reason_to_stop(log_odds, cancellation), tokens=tokens)


def _check_finite(log_odds: Float32) -> None:
    if not_finite := int((~np.isfinite(log_odds)).sum()):
        raise ModelError(
            f"{not_finite} of {len(log_odds)} log-odds are NaN or infinite: the weights are damaged, or the dtype is "
            "too narrow"
        )


def _reason_to_stop(log_odds: Float32, cancellation: Cancellation) -> str | None:
    """Why some documents were not scored; None if all were, even if the deadline has passed since."""
    if not np.isnan(log_odds).any():
        return None
    # The owner may have cleared the cancel event, and a server's time-out may come just before the deadline.
    return cancellation.stop_reason or ("cancelled" if cancellation.deadline is None else "deadline passed")
