"""Request formats for scoring a query's documents on a server, and the parsing of its responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import ModelError
from qwen3_rag.models.checkpoints.formats import RerankFormat
from qwen3_rag.models.runtimes.server.client import RefusedError
from qwen3_rag.models.runtimes.server.served import Served
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, rerank_query
from qwen3_rag.scores import NEVER, Cancellation

__all__ = ["TEXT_FORMS", "Answer", "Form", "IdForm", "TextForm", "indexed", "log_odds_of", "numbers"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """A server's scores (n,) in the documents' order, the number of truncated documents, and the tokens it reports."""

    values: Float32
    truncated: int = 0
    tokens_read: int | None = None


class Form(Protocol):
    """A request format."""

    @property
    def name(self) -> str:
        """Description for the user."""

    @property
    def endpoint(self) -> str:
        """Last part of the URL path."""

    @property
    def template(self) -> bool:
        """Whether requests contain the whole template, so that the server must not add one."""

    def ask(
        self, served: Served, instruction: str, query: str, documents: Sequence[str], cancellation: Cancellation = NEVER
    ) -> Answer:
        """Scores of documents. Errors as in `Client.post`."""


@dataclass(frozen=True)
class IdForm:
    """Token ids for vLLM's `/classify`, which ignores the server's template; scores before the sigmoid."""

    format: RerankFormat
    name = "/classify: token ids"
    endpoint = "classify"
    template = True

    def ask(
        self, served: Served, instruction: str, query: str, documents: Sequence[str], cancellation: Cancellation = NEVER
    ) -> Answer:
        """See `Form`."""
        (group,) = self.format.encode(instruction, [(query, documents)])
        return Answer(self.score_ids(served, group.inputs, cancellation), sum(group.truncated))

    def score_ids(
        self, served: Served, sequences: Sequence[Sequence[int]], cancellation: Cancellation = NEVER
    ) -> Float32:
        """Raw scores (n,) of complete inputs."""
        body = {"model": served.model, "input": list(map(list, sequences)), "use_activation": False}
        response = served.client.post("/classify", body, cancellation)
        rows = [row.get("probs") for row in indexed(response, "data", len(sequences), served.client.url)]
        if not all(isinstance(row, list) and len(row) == 1 for row in rows):
            raise RefusedError(
                f"it returns {str(rows[:1])[:60]} for a pair; expected one number, from a one-label classifier"
            )
        return numbers([row[0] for row in rows if row], served.client.url)


@dataclass(frozen=True)
class TextForm:
    """Texts for `/v1/score` or `/v1/rerank`, with spelled-out control tokens broken up.

    Attributes:
        endpoint: "score" or "rerank".
        template: Whether the texts contain the whole template.
        plain: Send only standard fields: no `instruction`, no request for scores before the sigmoid.
    """

    endpoint: str
    template: bool
    plain: bool = False

    @property
    def name(self) -> str:
        """Description for the user."""
        what = (
            "the whole template in the texts" if self.template else "query and documents, the template is the server's"
        )
        return f"/v1/{self.endpoint}: {what}"

    def ask(
        self, served: Served, instruction: str, query: str, documents: Sequence[str], cancellation: Cancellation = NEVER
    ) -> Answer:
        """See `Form`."""
        instruction, query = served.neutral(instruction), served.neutral(query)
        texts = [served.neutral(document) for document in documents]
        if served.rerank_format:
            budget = served.rerank_format.document_budget(served.rerank_format.query(instruction, query))
            full, texts = texts, [served.cut(text, budget) for text in texts]
            truncated = sum(map(str.__ne__, full, texts))
        else:
            truncated = 0
        values, read = self._send(served, instruction, query, texts, cancellation)
        return Answer(values, truncated, read)

    def _send(
        self, served: Served, instruction: str, query: str, texts: list[str], cancellation: Cancellation
    ) -> tuple[Float32, int | None]:
        body: dict[str, Any] = (
            {"model": served.model} if self.plain else {"model": served.model, "use_activation": False}
        )
        if self.template:
            query = RERANK_PREFIX + rerank_query(instruction, query)
            texts = [f" {text}{RERANK_SUFFIX}" for text in texts]
        elif not self.plain:
            body["instruction"] = instruction
        if self.endpoint == "rerank":
            response = served.client.post(
                "/v1/rerank", body | {"query": query, "documents": texts, "top_n": len(texts)}, cancellation
            )
            rows = indexed(response, "results", len(texts), served.client.url)
        else:
            response = served.client.post("/v1/score", body | {"text_1": query, "text_2": texts}, cancellation)
            rows = indexed(response, "data", len(texts), served.client.url)
        return numbers([row.get("relevance_score", row.get("score")) for row in rows], served.client.url), _read(
            response
        )


TEXT_FORMS = tuple(TextForm(endpoint, template) for endpoint in ("score", "rerank") for template in (True, False))


def _read(response: dict[str, Any]) -> int | None:
    usage = response.get("usage")
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return read if isinstance(read, int) else None


def indexed(response: Any, name: str, count: int, url: str) -> list[dict[str, Any]]:
    """The rows of a response sorted by index, which is the order of the request.

    Raises:
        ModelError: There is not exactly one row for each index.
    """
    rows = response.get(name) if isinstance(response, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ModelError(f"the server {url} answered {str(response)[:120]}…; expected a list of objects under {name!r}")
    by_index = {row["index"]: row for row in rows if type(row.get("index")) is int}
    if len(rows) != count or set(by_index) != set(range(count)):
        indexes = str([row.get("index") for row in rows])[:80]
        raise ModelError(
            f"the server {url} answered {len(rows)} rows with indexes {indexes}; expected {count}, each index from 0 "
            "once"
        )
    return [by_index[i] for i in range(count)]


def numbers(values: Sequence[Any], url: str) -> Float32:
    """The values as float32 (n,).

    Raises:
        ModelError: A value is not a finite number.
    """
    if not all(isinstance(value, int | float) and np.isfinite(value) for value in values):
        raise ModelError(f"the server {url} returned scores {str(list(values))[:120]}…; expected finite numbers")
    return np.array(values, dtype=np.float32)


def log_odds_of(probabilities: NDArray[np.floating]) -> Float32:
    """Log-odds of probabilities, clipped to the range that float32 probabilities can express: −87.3 to 16.6.

    Near 1, float32 has steps of 6e-8, so log-odds above 12 become coarse (steps of 0.01 at 12, 0.3 at 15.5) and all
    above 16.6 are equal; a server that rounds its scores loses far more. Near 0 nothing is lost above −87.3.

    Raises:
        ModelError: A value is below 0 or above 1.
    """
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ModelError(
            f"the server returned {probabilities.tolist()[:4]}; expected probabilities, as in its earlier responses"
        )
    clipped = np.clip(probabilities.astype(np.float64), np.finfo(np.float32).tiny, 1 - 2.0**-24)
    logit: Float32 = (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)
    return logit
