"""The models that a server serves: their names, and their work with what a request may ask of it."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, StoppedError
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.checkpoints.formats import matryoshka, unit_rows
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.engine.work import Work
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.scores import Cancellation, EmbedResult, RerankResult
from qwen3_rag.server.failures import RequestError

__all__ = ["QUERY", "Cut", "Limits", "ServedEmbedder", "ServedReranker"]

Spans = Callable[[str], NDArray[np.int64]]
NORMALISED = 3  # times as many bytes as before a text may have when normalised
START_CHARACTERS = 8  # for each token, at first
Tokens = Sequence[Any]  # of places (start, end)
QUERY = ":query"  # ending of the embedder's name that embeds queries


@dataclass(frozen=True)
class Cut:
    """How texts that are too long are treated.

    Attributes:
        tokens: Most tokens of a document, or None.
        pair: Most tokens of query and document with the template, or None.
        refuses: Whether such a text is an error.
        from_start: Whether its beginning is cut rather than its end.
    """

    tokens: int | None = None
    pair: int | None = None
    refuses: bool = False
    from_start: bool = False


def _names(model: NamedModel, given: str | None) -> tuple[str, frozenset[str]]:  # type: ignore[type-arg]
    """A model's name in lists, and the names by which requests may call it."""
    preset = model.source.preset.model if model.source.preset else None
    hub_id = preset if isinstance(preset, str) else model.source.model
    name = given or (hub_id.rstrip("/").rpartition("/")[2] if model.source.is_folder else hub_id)
    known = {name, model.model, hub_id, hub_id.rpartition("/")[2]}
    return name, frozenset(known if given is None else {*known, given})


class Limits:
    """Checks and cuts the texts of a request, as long as its deadline and its client allow.

    Args:
        spans: Divides a text into tokens.
        deadline: Seconds from now after which the work stops.
        cancel: Once set, the work stops.
    """

    def __init__(self, spans: Spans, deadline: float | None, cancel: threading.Event) -> None:
        self.spans, self.cancellation = spans, Cancellation.after(deadline, cancel)

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        end = self.cancellation.deadline
        return None if end is None else max(0.0, end - time.monotonic())

    def shortened(self, texts: Sequence[str], limit: int, cut: Cut, name: str, lead: str = "") -> tuple[list[str], int]:
        """Texts of at most `limit` tokens, each counted behind `lead`; and how many were cut.

        Raises:
            InvalidArgumentError: A text is longer, and `cut` refuses that.
            StoppedError: The work must stop.
        """
        kept, shorter = [], 0
        for place, text in enumerate(texts):
            tokens = None if _surely_fits(text, limit - len(lead)) else self._more_than(lead + text, limit, False)
            if tokens is None:
                kept.append(text)
                continue
            if cut.refuses:
                raise InvalidArgumentError(
                    f"{name}[{place}] has more than {limit} tokens, and may not be truncated; expected fewer"
                )
            shorter += 1
            kept.append(self._cut(lead + text, limit, cut.from_start, tokens, lead))
        return kept, shorter

    def _cut(self, whole: str, limit: int, from_start: bool, tokens: Tokens, lead: str) -> str:
        """As much of a text's end or beginning as has at most `limit` tokens by itself, behind `lead`."""
        if from_start:
            tokens = self._more_than(whole, limit, True) or tokens
        # Divided anew, a part may have a token more: at its edge, and where a character consists of several tokens.
        for count in range(limit, 0, -1):
            piece = whole[int(tokens[-count][0]) :] if from_start else whole[: int(tokens[count - 1][1])]
            piece = piece.removeprefix(lead)
            if len(self.spans(lead + piece)) <= limit:
                return piece
        return ""

    def _more_than(self, text: str, limit: int, from_end: bool) -> Tokens | None:
        """Tokens of a part that has more than `limit`, as places in the text; None if the whole has fewer."""
        size = START_CHARACTERS * (limit + 1)
        while True:
            self._check()
            start = max(0, len(text) - size) if from_end else 0
            tokens = self.spans(text[start : start + size])
            if len(tokens) > limit:
                return [(int(first) + start, int(last) + start) for first, last in tokens]
            if size >= len(text):
                return None
            size *= 4

    def total(self, texts: Iterable[str], longest: int, most: int, each: int = 0) -> None:
        """Check that inputs have at most `most` tokens together.

        Args:
            texts: The texts.
            longest: Tokens up to which an input counts.
            most: The limit.
            each: Tokens that every input has besides its text.

        Raises:
            RequestError: They have more (413).
            StoppedError: The work must stop.
        """
        texts = list(texts)
        if sum(min(NORMALISED * len(text) * 4 + each, longest) for text in texts) <= most:
            return
        total = 0
        for text in texts:
            self._check()
            total += min(len(self.spans(text[: longest * 8])) + each, longest)
            if total > most:
                message = f"the request's texts have more than {most} tokens; expected fewer: send several"
                raise RequestError(413, message)

    def tokens_of(self, instruction: str | None, named: Mapping[str, str]) -> int:
        """Number of tokens of an instruction."""
        return len(self.spans(resolve_instruction(instruction, named))) if instruction else 0

    def _check(self) -> None:
        if reason := self.cancellation.stop_reason:
            raise StoppedError(f"{reason} before the texts were counted")


def _surely_fits(text: str, limit: int) -> bool:
    """Whether a text has at most `limit` tokens without counting: each has a byte of the normalised text."""
    return NORMALISED * len(text.encode(errors="replace")) <= limit


class ServedReranker:
    """A reranker under a name.

    Args:
        model: The reranker.
        name: Its name, or None for the model's own.
        most: Most tokens of the documents of a request.
    """

    def __init__(self, model: Reranker | Cascade, name: str | None, most: int) -> None:
        self.model, self.most = model, most
        if isinstance(model, Reranker):
            last: object = model
        else:
            last = model.stages[-1][0]
        if not isinstance(last, Reranker):
            raise InvalidArgumentError(f"reranker is {model!r}; expected a Reranker, or a Cascade that ends with one")
        self.measure = last
        self.name, self.known = _names(last, name)

    @property
    def longest(self) -> int:
        """Most tokens of a pair."""
        return self.measure.longest

    @property
    def works(self) -> list[Work]:
        """Batches of its stages."""
        works = [stage.loaded.work for stage in self.stages]
        return [work for work in works if work is not None]

    @property
    def stages(self) -> list[Reranker]:
        """Its stages; of a reranker, itself."""
        stages = [self.model] if isinstance(self.model, Reranker) else [stage for stage, _ in self.model.stages]
        return [stage for stage in stages if isinstance(stage, Reranker)]

    def load(self, compile: bool) -> None:
        """Use the model once."""
        self.model.read("loading", ["loading"])
        if compile:
            for stage in self.stages:
                stage.warm_up()

    def score(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None,
        cut: Cut,
        deadline: float | None,
        cancel: threading.Event,
    ) -> RerankResult:
        """Log-odds of the documents; `truncated` counts those that were cut for any reason."""
        if not isinstance(self.model, Reranker) and len(documents) > self.model.stages[0][1]:
            raise InvalidArgumentError(
                f"{len(documents)} documents; expected at most {self.model.stages[0][1]}, which this cascade reads"
            )
        limits = Limits(self.measure.spans, deadline, cancel)
        try:
            documents, shorter = self._cut(query, documents, instruction, cut, limits)
            limits.total([query, instruction or "", *documents], self.longest, self.most)
        except StoppedError as error:
            scores, reason = np.full(len(documents), np.nan, dtype=np.float32), str(error).partition(" before")[0]
            return RerankResult(scores, np.zeros(len(documents), dtype=np.int64), stopped=reason)
        result = self.model.read(query, documents, instruction, limits.left, cancel)
        return replace(result, truncated=result.truncated + shorter)

    def score_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        instruction: str | None,
        cut: Cut,
        deadline: float | None,
        cancel: threading.Event,
    ) -> RerankResult:
        """Log-odds of pairs of a query and a document.

        Raises:
            InvalidArgumentError: The model is a cascade.
        """
        if not isinstance(self.model, Reranker):
            raise InvalidArgumentError("a cascade scores documents of one query; expected a single query")
        limits = Limits(self.measure.spans, deadline, cancel)
        each = limits.tokens_of(instruction, self.model.instructions)
        limits.total((query + document for query, document in pairs), self.longest, self.most, each)
        shorter, kept = 0, []
        for query, document in pairs:
            (text,), count = self._cut(query, [document], instruction, cut, limits)
            shorter += count
            kept.append((query, text))
        result = self.model.read_pairs(kept, instruction, limits.left, cancel)
        return replace(result, truncated=result.truncated + shorter)

    def _cut(
        self, query: str, documents: Sequence[str], instruction: str | None, cut: Cut, limits: Limits
    ) -> tuple[Sequence[str], int]:
        if cut == Cut():
            return documents, 0
        budget = self.measure.document_budget(query, instruction)
        limit = min(budget, cut.tokens or budget)
        if cut.pair is not None:
            limit = min(limit, budget - self.longest + min(cut.pair, self.longest))
        if limit < 1:
            raise InvalidArgumentError(
                f"truncate_prompt_tokens is {cut.pair}; expected at least {self.longest - budget + 1}, which template, "
                "instruction and query take with a token of the document"
            )
        return limits.shortened(documents, limit, cut, "documents", lead=" ")


class ServedEmbedder:
    """An embedder under a name; the name with `:query` embeds queries.

    Args:
        model: The embedder.
        name: Its name, or None for the model's own.
        most: Most tokens of the texts of a request.
    """

    def __init__(self, model: Embedder, name: str | None, most: int) -> None:
        self.model, self.most = model, most
        self.name, self.known = _names(model, name)

    @property
    def works(self) -> list[Work]:
        """Batches run."""
        work = self.model.loaded.work
        return [] if work is None else [work]

    def load(self, compile: bool) -> None:
        """Use the model once."""
        self.model.encode_query("loading")
        if compile:
            self.model.warm_up()

    def embed(
        self,
        inputs: Sequence[str] | Sequence[list[int]],
        query: bool,
        instruction: str | None,
        dimensions: int | None,
        cut: Cut,
        deadline: float | None,
        cancel: threading.Event,
    ) -> EmbedResult:
        """Unit rows of texts or of token ids; `truncated` counts the texts that were cut for any reason."""
        dimensions = matryoshka(self.model.dimensions, dimensions)
        texts, shorter = [each for each in inputs if isinstance(each, str)], 0
        if len(texts) < len(inputs):
            result = self._of_ids([each for each in inputs if not isinstance(each, str)], query, deadline, cancel)
        else:
            limits = Limits(self.model.spans, deadline, cancel)
            if not query and cut != Cut():
                limit = min(self.model.longest - 1, cut.tokens or self.model.longest)
                texts, shorter = limits.shortened(texts, limit, cut, "input")
            each = limits.tokens_of(instruction, self.model.instructions)
            limits.total(texts, self.model.longest, self.most, each)
            result = self.model.embed(texts, query=query, instruction=instruction, deadline=limits.left, cancel=cancel)
        vectors = result.vectors
        if dimensions < vectors.shape[1]:
            vectors = unit_rows(vectors, dimensions)
        return replace(result, vectors=vectors, truncated=result.truncated + shorter)

    def _of_ids(
        self, inputs: Sequence[list[int]], query: bool, deadline: float | None, cancel: threading.Event
    ) -> EmbedResult:
        if query:
            raise InvalidArgumentError(
                "the input is token ids, which are whole inputs already; expected texts for queries, or ids that "
                "contain the instruction and no query side"
            )
        if sum(map(len, inputs)) > self.most:
            raise RequestError(413, f"the request has more than {self.most} tokens; expected fewer: send several")
        return self.model.embed_ids(inputs, deadline, cancel)
