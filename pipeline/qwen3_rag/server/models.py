"""The models that a server serves: their names, and their work with what a request may ask of it."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qwen3_rag.errors import InvalidArgumentError, StoppedError
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.checkpoints.formats import matryoshka, unit_rows
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.engine.work import Work
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.scores import EmbedResult, RerankResult
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.limits import Cut, Limits

__all__ = ["QUERY", "ServedEmbedder", "ServedReranker"]

QUERY = ":query"  # ending of the embedder's name that embeds queries


def _names(model: NamedModel, given: str | None) -> tuple[str, frozenset[str]]:  # type: ignore[type-arg]
    """A model's name in lists, and the names by which requests may call it."""
    preset = model.source.preset.model if model.source.preset else None
    hub_id = preset if isinstance(preset, str) else model.source.model
    name = given or (hub_id.rstrip("/").rpartition("/")[2] if model.source.is_folder else hub_id)
    known = {name, model.model, hub_id, hub_id.rpartition("/")[2]}
    return name, frozenset(known if given is None else {*known, given})


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

    def rename(self, name: str) -> None:
        """Give it another name in lists; requests may go on using the names it has."""
        self.name, self.known = name, self.known | {name}

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
            self._check_queries([query], instruction, limits)
            documents, shorter = self._cut(query, documents, instruction, cut, limits)
            limits.total([query, instruction or "", *documents], self.longest, self.most)
        except StoppedError as error:
            return _nothing(len(documents), error)
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
        shorter, kept = 0, []
        try:
            self._check_queries([query for query, _ in pairs], instruction, limits)
            for query, document in pairs:
                limits.check_time()
                (text,), count = self._cut(query, [document], instruction, cut, limits)
                shorter += count
                kept.append((query, text))
            each = limits.tokens_of(instruction, self.model.instructions)
            limits.total((query + document for query, document in kept), self.longest, self.most, each)
        except StoppedError as error:
            return _nothing(len(pairs), error)
        result = self.model.read_pairs(kept, instruction, limits.left, cancel)
        return replace(result, truncated=result.truncated + shorter)

    def _check_queries(self, queries: Sequence[str], instruction: str | None, limits: Limits) -> None:
        # The models would refuse them too, after dividing all of their text into tokens. Those elsewhere count.
        if "://" in self.measure.runtime:
            return
        limits.check(instruction or "", self.longest, "instruction")
        for query in queries:
            limits.check(query, self.longest, "query")

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


def _nothing(count: int, error: StoppedError) -> RerankResult:
    """The result of work that was stopped before it began."""
    scores, reason = np.full(count, np.nan, dtype=np.float32), str(error).partition(" before")[0]
    return RerankResult(scores, np.zeros(count, dtype=np.int64), stopped=reason)


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

    def rename(self, name: str) -> None:
        """Give it another name in lists; requests may go on using the names it has."""
        self.name, self.known = name, self.known | {name}

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
            result = self._of_ids([each for each in inputs if not isinstance(each, str)], query, cut, deadline, cancel)
        else:
            limits = Limits(self.model.spans, deadline, cancel)
            limits.check(instruction or "", self.model.longest, "instruction")
            if query and cut.tokens is not None:
                for text in texts:
                    limits.check(text, cut.tokens, "query, which is never cut,")
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
        self, inputs: Sequence[list[int]], query: bool, cut: Cut, deadline: float | None, cancel: threading.Event
    ) -> EmbedResult:
        if query:
            raise InvalidArgumentError(
                "the input is token ids, which are whole inputs already; expected texts for queries, or ids that "
                "contain the instruction and no query side"
            )
        if cut.tokens is not None and max(map(len, inputs)) > cut.tokens + 1:
            raise InvalidArgumentError(f"token ids are never cut; expected at most {cut.tokens + 1} with the end token")
        if sum(map(len, inputs)) > self.most:
            raise RequestError(413, f"the request has more than {self.most} tokens; expected fewer: send several")
        return self.model.embed_ids(inputs, deadline, cancel)
