"""`runtime="http://…"`: models on a server, through `/v1/embeddings` and `/v1/rerank` or `/v1/score`.

Requests contain token ids if the server takes them (vLLM: `/classify`, `/v1/embeddings`) and this machine has the
model's tokenizer: the server's template and tokenizer are then not used, scores are taken before the sigmoid, and text
cannot act as control tokens. Otherwise requests contain text, with spelled-out control tokens broken up by a space.
On first use, fixed pairs must rank right; `runs_on` shows the request format in use.

If a server returns only probabilities, log-odds are their logit, with float32's loss of precision near 0 and 1
(`forms.log_odds_of`). With the tokenizer on this machine, lengths are checked and documents truncated here; otherwise
the server's error for a text that is too long is raised.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, ModelError, StoppedError
from qwen3_rag.models.checkpoints.formats import END_OF_TEXT, EmbedFormat, matryoshka, sliced, unit_rows
from qwen3_rag.models.checkpoints.sources import Source
from qwen3_rag.models.runtimes.protocols import Progress, Scored
from qwen3_rag.models.runtimes.server.client import RefusedError
from qwen3_rag.models.runtimes.server.forms import indexed
from qwen3_rag.models.runtimes.server.probing import DEFAULT, PROBES, choose, wrong_queries
from qwen3_rag.models.runtimes.server.served import Served
from qwen3_rag.prompts import embed_query
from qwen3_rag.scores import NEVER, Cancellation, EmbedResult, Group

__all__ = ["ServerEmbedder", "ServerReranker"]

Float32 = NDArray[np.float32]

BATCH, SMALL_BATCH = 128, 16  # documents in a request; the small size if the call can be stopped in between
START_EMBEDDER = "Start it for embedding; with vLLM: vllm serve MODEL --runner pooling --convert embed"
logger = logging.getLogger("qwen3_rag")


class ServerReranker:
    """A reranker on a server. Safe to call from many threads; the server batches their requests."""

    takes_instructions = True
    work = tokens = None

    def __init__(
        self, url: str, source: Source, *, device: str, dtype: str, max_length: int, options: dict[str, Any]
    ) -> None:
        self.served = Served(url, source, device=device, dtype=dtype, max_length=max_length, options=options)
        self.batch_size, self.max_length = int(options.get("batch_size", BATCH)), self.served.max_length
        probe = bool(options.get("probe", True))
        self.chosen = choose(self.served, str(options.get("endpoint", "auto")), probe)
        self.runs_on = self.served.runs_on | {
            "input": self.chosen.form.name,
            "scores": "probabilities" if self.chosen.probabilities else "log-odds",
            "probe": "ranked right" if probe else "left out",
        }
        logger.info("reranker: %s", ", ".join(self.runs_on.values()))

    def score(self, instruction: str, groups: Sequence[Group], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`; each request has one query and up to `batch_size` documents."""
        if not self.chosen.instructed and instruction != DEFAULT:
            raise InvalidArgumentError(
                f"instruction is {instruction!r}, but the template of {self.served.client.url} takes none; expected "
                "the default instruction, or a server started without a template"
            )
        first, size = 0, self.batch_size if cancellation == NEVER else min(self.batch_size, SMALL_BATCH)
        for group in groups:
            for start, [(query, documents)] in sliced([group], size):
                try:
                    answer = self.chosen.form.ask(self.served, instruction, query, documents, cancellation)
                except StoppedError:
                    return
                indices = range(first + start, first + start + len(documents))
                yield Scored(indices, self.chosen.log_odds(answer.values), answer.truncated, answer.tokens_read or 0)
            first += len(group[1])

    def score_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """Not supported: not every server takes ids."""
        raise InvalidArgumentError(f"inputs are token ids; expected texts for the server {self.served.client.url}")

    def document_budget(self, instruction: str, query: str) -> int:
        """See `RerankRuntime`; without a tokenizer on this machine, the server's limit."""
        budget = self.served.rerank_format
        return budget.document_budget(budget.query(instruction, query)) if budget else self.max_length

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.served.spans(text)

    def warm_up(self) -> None:
        """Nothing to do."""


class ServerEmbedder:
    """An embedder on a server, with Qwen3-Embedding's input format.

    Token ids are sent if possible, with the final `<|endoftext|>`. Texts are sent without it, because the server's
    tokenizer adds it, as that of `Qwen/Qwen3-Embedding-*` does.
    """

    takes_instructions = True
    work = tokens = None

    def __init__(
        self,
        url: str,
        source: Source,
        *,
        device: str,
        dtype: str,
        max_length: int,
        dimensions: int | None,
        options: dict[str, Any],
    ) -> None:
        self.served = Served(url, source, device=device, dtype=dtype, max_length=max_length, options=options)
        self.batch_size = int(options.get("batch_size", BATCH))
        self.max_length, self.dimensions = self.served.max_length, 0
        probe = bool(options.get("probe", True))
        tokens = self.served.tokens
        has_end = tokens is not None and tokens.control.token_to_id(END_OF_TEXT) is not None
        self.format = EmbedFormat(tokens, self.max_length) if tokens and has_end else None
        self.sends_ids = self._choose(probe)
        self.dimensions = matryoshka(self.dimensions, dimensions)
        self.runs_on = self.served.runs_on | {
            "input": f"/v1/embeddings: {'token ids' if self.sends_ids else 'texts'}",
            "probe": "ranked right" if probe else "left out",
        }
        logger.info("embedder: %s", ", ".join(self.runs_on.values()))

    def _choose(self, probe: bool) -> bool:
        """Whether to send token ids rather than texts: the first of the two that ranks the fixed pairs right."""
        failures = []
        for sends_ids in (True, False) if self.format else (False,):
            self.sends_ids = sends_ids
            try:
                wrong = wrong_queries(self._probe())
            except RefusedError as error:
                failures.append(str(error))
                continue
            if not wrong or not probe:
                return sends_ids
            failures.append(f"it ranks {len(wrong)} of {len(PROBES)} fixed queries wrong, such as {wrong[0]!r}")
        raise ModelError(
            f"the server {self.served.client.url} cannot be used as an embedder: {'; '.join(failures)}. "
            f"{START_EMBEDDER}"
        )

    def _probe(self) -> Float32:
        """Cosines (queries, 3) of the fixed pairs."""
        queries, _ = self._rows(self._queries([probe[0] for probe in PROBES], DEFAULT))
        documents, _ = self._rows(self._documents([text for probe in PROBES for text in probe[1:]])[0])
        self.dimensions = documents.shape[1]
        full = unit_rows(documents, self.dimensions).reshape(len(PROBES), -1, self.dimensions)
        cosines: Float32 = np.einsum("qd,qnd->qn", unit_rows(queries, self.dimensions), full)
        return cosines

    def _queries(self, texts: Sequence[str], instruction: str) -> Sequence[str | list[int]]:
        inputs = self.format.queries(texts, instruction).ids if self.format else []  # checks the lengths of texts, too
        if self.sends_ids:
            return inputs
        neutral = self.served.neutral
        return [embed_query(neutral(instruction), neutral(text)) for text in texts]

    def _documents(self, texts: Sequence[str]) -> tuple[Sequence[str | list[int]], int]:
        """What to send, and how many of the texts were truncated."""
        if self.format and self.sends_ids:
            inputs = self.format.documents(texts)
            return inputs.ids, inputs.truncated
        neutral = [self.served.neutral(text) for text in texts]
        sent = [self.served.cut(text, self.max_length - 1) for text in neutral]
        return sent, sum(map(str.__ne__, neutral, sent))

    def _rows(self, inputs: Sequence[str | list[int]], cancellation: Cancellation = NEVER) -> tuple[Float32, int]:
        """The server's vectors (n, width), not normalised, and the tokens that it read, 0 if it does not say."""
        body = {"model": self.served.model, "input": list(inputs), "encoding_format": "float"}
        response = self.served.client.post("/v1/embeddings", body, cancellation)
        rows = [row.get("embedding") for row in indexed(response, "data", len(inputs), self.served.client.url)]
        try:
            vectors = np.array(rows, dtype=np.float32)
        except (TypeError, ValueError):
            vectors = np.empty(0, dtype=np.float32)
        if vectors.ndim != 2 or not np.isfinite(vectors).all() or vectors.shape[1] < self.dimensions:
            raise ModelError(
                f"the server {self.served.client.url} returned vectors such as {str(rows[0])[:60]}…; expected "
                f"{len(inputs)} lists of finite numbers, all of one length"
            )
        usage = response.get("usage")
        read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return vectors, read if isinstance(read, int) else 0

    def _embed(
        self,
        inputs: Sequence[str | list[int]],
        truncated: int,
        progress: Progress | None,
        cancellation: Cancellation,
    ) -> EmbedResult:
        rows, tokens = np.empty((len(inputs), self.dimensions), dtype=np.float32), 0
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            vectors, read = self._rows(part, cancellation)
            rows[start : start + len(part)] = unit_rows(vectors, self.dimensions)
            tokens += read
            if progress:
                progress(len(part))
        return EmbedResult(rows, tokens, truncated)

    def embed_queries(self, texts: Sequence[str], instruction: str, cancellation: Cancellation = NEVER) -> EmbedResult:
        """Unit rows of queries; a query longer than `max_length` is an error."""
        return self._embed(self._queries(texts, instruction), 0, None, cancellation)

    def embed_documents(
        self, texts: Sequence[str], progress: Progress | None = None, cancellation: Cancellation = NEVER
    ) -> EmbedResult:
        """Unit rows of documents, truncated to `max_length` tokens if the tokenizer is on this machine."""
        return self._embed(*self._documents(texts), progress, cancellation)

    def embed_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> EmbedResult:
        """Not supported: not every server takes ids."""
        raise InvalidArgumentError(f"inputs are token ids; expected texts for the server {self.served.client.url}")

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.served.spans(text)

    def warm_up(self) -> None:
        """Nothing to do."""
