"""The models that a server serves: their names, and their work with what a request may ask of it."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.checkpoints.formats import matryoshka, unit_rows
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.engine.work import Work
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.scores import EmbedResult, RerankResult
from qwen3_rag.server.failures import RequestError

__all__ = ["QUERY", "Cut", "ServedEmbedder", "ServedReranker"]

Spans = Callable[[str], NDArray[np.int64]]
LONGEST_TOKEN = 256  # characters; more than a token of any vocabulary here has
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


def _shortened(
    texts: Sequence[str], limit: int, cut: Cut, name: str, spans: Spans, lead: str = ""
) -> tuple[list[str], int]:
    """Texts of at most `limit` tokens, each counted behind `lead`; and how many were cut.

    Raises:
        InvalidArgumentError: A text is longer, and `cut` refuses that.
    """
    kept, shorter = [], 0
    for place, text in enumerate(texts):
        # A token has at least one byte, so short texts need not be divided into tokens.
        if (
            len(text.encode(errors="replace")) + len(lead) <= limit
            or len(spans(lead + _part(text, limit + 1))) <= limit
        ):
            kept.append(text)
            continue
        if cut.refuses:
            raise InvalidArgumentError(
                f"{name}[{place}] has more than {limit} tokens, and may not be truncated; expected fewer"
            )
        shorter += 1
        kept.append(_cut(text, limit, cut.from_start, spans, lead))
    return kept, shorter


def _cut(text: str, limit: int, from_start: bool, spans: Spans, lead: str) -> str:
    """As much of a text's end or beginning as has at most `limit` tokens by itself, behind `lead`."""
    whole = lead + _part(text, limit + 1, from_start)
    tokens = spans(whole)
    # Divided anew, a part may have a token more: at its edge, and where a character consists of several tokens.
    for count in range(min(limit, len(tokens)), 0, -1):
        piece = whole[int(tokens[-count][0]) :] if from_start else whole[: int(tokens[count - 1][1])]
        piece = piece.removeprefix(lead)
        if len(spans(lead + piece)) <= limit:
            return piece
    return ""


def _part(text: str, tokens: int, from_start: bool = False) -> str:
    """So much of a text that it has at least this many tokens, unless it has fewer: the rest need not be looked at."""
    size = tokens * LONGEST_TOKEN
    return text[-size:] if from_start else text[:size]


def check_total(texts: Iterable[str], longest: int, most: int, spans: Spans, each: int = 0) -> None:
    """Check that inputs have at most `most` tokens together.

    Args:
        texts: The texts.
        longest: Tokens up to which an input counts.
        most: The limit.
        spans: Divides a text into tokens.
        each: Tokens that every input has besides its text.

    Raises:
        RequestError: They have more (413).
    """
    texts = list(texts)
    if sum(min(len(text.encode(errors="replace")) + each, longest) for text in texts) <= most:
        return
    total = 0
    for text in texts:
        total += min(len(spans(_part(text, longest))) + each, longest)
        if total > most:
            raise RequestError(413, f"the request's texts have more than {most} tokens; expected fewer: send several")


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
        documents, shorter = self._cut(query, documents, instruction, cut)
        check_total([query, instruction or "", *documents], self.longest, self.most, self.measure.spans)
        result = self.model.read(query, documents, instruction, deadline, cancel)
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
        spans = self.measure.spans
        check_total(
            (query + document for query, document in pairs), self.longest, self.most, spans, len(instruction or "")
        )
        shorter, kept = 0, []
        for query, document in pairs:
            (text,), count = self._cut(query, [document], instruction, cut)
            shorter += count
            kept.append((query, text))
        result = self.model.read_pairs(kept, instruction, deadline, cancel)
        return replace(result, truncated=result.truncated + shorter)

    def _cut(
        self, query: str, documents: Sequence[str], instruction: str | None, cut: Cut
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
        return _shortened(documents, limit, cut, "documents", self.measure.spans, lead=" ")


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
            if not query and cut != Cut():
                limit = min(self.model.longest - 1, cut.tokens or self.model.longest)
                texts, shorter = _shortened(texts, limit, cut, "input", self.model.spans)
            check_total(texts, self.model.longest, self.most, self.model.spans, len(instruction or ""))
            result = self.model.embed(texts, query=query, instruction=instruction, deadline=deadline, cancel=cancel)
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
