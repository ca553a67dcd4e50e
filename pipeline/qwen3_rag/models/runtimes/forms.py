"""Ways of asking a server for the scores of a query's documents, and of reading what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import ModelError
from qwen3_rag.models.runtimes import NEVER, Float32, Until
from qwen3_rag.models.runtimes.client import RefusedError
from qwen3_rag.models.runtimes.native import RerankInput
from qwen3_rag.models.runtimes.sequences import pair_ids
from qwen3_rag.models.runtimes.served import Served
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, rerank_query

__all__ = ["TEXT_FORMS", "Answer", "Form", "IdForm", "TextForm", "indexed", "log_odds_of", "numbers"]


@dataclass(frozen=True)
class Answer:
    """A server's numbers (n,) in the documents' order, how many documents were cut, how many tokens it says it read."""

    values: Float32
    cut: int = 0
    tokens_read: int | None = None


class Form(Protocol):
    """One way of asking."""

    @property
    def name(self) -> str:
        """In words, for the user."""

    @property
    def endpoint(self) -> str:
        """The last part of the path."""

    @property
    def template(self) -> bool:
        """Whether the whole template is sent, so that the server must add nothing."""

    def ask(
        self, served: Served, instruction: str, query: str, documents: Sequence[str], until: Until = NEVER
    ) -> Answer:
        """The scores of documents; errors as in `Client.post`."""


@dataclass(frozen=True)
class IdForm:
    """Token ids to vLLM's `/classify`, whatever template it was started with; scores from before the sigmoid."""

    input: RerankInput
    name = "/classify: token ids"
    endpoint = "classify"
    template = True

    def ask(
        self, served: Served, instruction: str, query: str, documents: Sequence[str], until: Until = NEVER
    ) -> Answer:
        """See `Form`."""
        sequences, cut = pair_ids(self.input, instruction, [(query, document) for document in documents])
        return Answer(self.score_ids(served, sequences, until), cut)

    def score_ids(self, served: Served, sequences: Sequence[Sequence[int]], until: Until = NEVER) -> Float32:
        """Raw scores (n,) of whole inputs."""
        body = {"model": served.model, "input": list(map(list, sequences)), "use_activation": False}
        found = served.client.post("/classify", body, until)
        rows = [row.get("probs") for row in indexed(found, "data", len(sequences), served.client.url)]
        if not all(isinstance(row, list) and len(row) == 1 for row in rows):
            raise RefusedError(f"it gives {str(rows[:1])[:60]} for a pair; expected one number, of one label")
        return numbers([row[0] for row in rows if row], served.client.url)


@dataclass(frozen=True)
class TextForm:
    """Texts to `/v1/score` or `/v1/rerank`, control-token spellings broken.

    Attributes:
        endpoint: "score" or "rerank".
        template: Whether the texts hold the whole template.
        plain: Send only what every server knows: no `instruction`, no wish for scores from before the sigmoid.
    """

    endpoint: str
    template: bool
    plain: bool = False

    @property
    def name(self) -> str:
        """In words, for the user."""
        what = (
            "the whole template in the texts" if self.template else "query and documents, the template is the server's"
        )
        return f"/v1/{self.endpoint}: {what}"

    def ask(
        self, served: Served, instruction: str, query: str, documents: Sequence[str], until: Until = NEVER
    ) -> Answer:
        """See `Form`."""
        instruction, query = served.neutral(instruction), served.neutral(query)
        texts = [served.neutral(document) for document in documents]
        if served.rerank_input:
            room = served.rerank_input.room(served.rerank_input.query(instruction, query))
            whole, texts = texts, [served.cut(text, room) for text in texts]
            cut = sum(map(str.__ne__, whole, texts))
        else:
            cut = 0
        values, read = self._send(served, instruction, query, texts, until)
        return Answer(values, cut, read)

    def _send(
        self, served: Served, instruction: str, query: str, texts: list[str], until: Until
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
            found = served.client.post(
                "/v1/rerank", body | {"query": query, "documents": texts, "top_n": len(texts)}, until
            )
            rows = indexed(found, "results", len(texts), served.client.url)
        else:
            found = served.client.post("/v1/score", body | {"text_1": query, "text_2": texts}, until)
            rows = indexed(found, "data", len(texts), served.client.url)
        return numbers([row.get("relevance_score", row.get("score")) for row in rows], served.client.url), _read(found)


TEXT_FORMS = tuple(TextForm(endpoint, template) for endpoint in ("score", "rerank") for template in (True, False))


def _read(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return read if isinstance(read, int) else None


def indexed(answer: Any, name: str, count: int, url: str) -> list[dict[str, Any]]:
    """The rows of an answer in the order of what was asked, whatever order the server gave them in.

    Raises:
        ModelError: They are not one for each.
    """
    rows = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ModelError(f"the server {url} answered {str(answer)[:120]}…; expected a list of objects under {name!r}")
    by_index = {row["index"]: row for row in rows if type(row.get("index")) is int}
    if len(rows) != count or set(by_index) != set(range(count)):
        given = str([row.get("index") for row in rows])[:80]
        raise ModelError(
            f"the server {url} answered {len(rows)} rows of indexes {given}; expected {count}, each index from 0 once"
        )
    return [by_index[i] for i in range(count)]


def numbers(values: Sequence[Any], url: str) -> Float32:
    """Finite numbers (n,).

    Raises:
        ModelError: Some are none.
    """
    if not all(isinstance(value, int | float) and np.isfinite(value) for value in values):
        raise ModelError(f"the server {url} gave scores {str(list(values))[:120]}…; expected finite numbers")
    return np.array(values, dtype=np.float32)


def log_odds_of(probabilities: NDArray[np.floating]) -> Float32:
    """Log-odds of probabilities, clipped to what a float32 can tell from 0 and from 1: −87.3 to 16.6.

    Near 1 a float32 has steps of 6e-8, so log-odds above 12 come in coarse steps (0.01 at 12, 0.3 at 15.5), and all
    above 16.6 are one; a server that rounds its numbers loses far more. Near 0 nothing is lost before −87.3.

    Raises:
        ModelError: A number is below 0 or above 1.
    """
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ModelError(f"the server gave probabilities until now, and then {probabilities.tolist()[:4]}")
    clipped = np.clip(probabilities.astype(np.float64), np.finfo(np.float32).tiny, 1 - 2.0**-24)
    logit: Float32 = (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)
    return logit
