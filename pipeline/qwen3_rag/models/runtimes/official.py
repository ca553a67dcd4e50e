"""`runtime="transformers"`: the official formula, slow and simple; the reference for every other runtime.

It follows the model card of `Qwen/Qwen3-Reranker-0.6B`: left padding, a full forward pass with logits for the whole
vocabulary, and the softmax of no and yes at the last position. Only tokenizing differs: text from outside goes through
`models.tokens`, so that it cannot act as control tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen3_rag.models.loading import check_length, choose_device, choose_dtype, load_model, load_weights
from qwen3_rag.models.runtimes import NEVER, Cancellation, Float32, Progress, RerankResult, rerank_result
from qwen3_rag.models.runtimes.native import END_OF_TEXT, RerankInput, direction_of, matryoshka, query_ids, unit_rows
from qwen3_rag.models.tokens import Tokens

__all__ = ["OfficialEmbedder", "OfficialReranker"]


def _left_padded(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(map(len, sequences))
    ids = [[pad] * (longest - len(s)) + list(s) for s in sequences]
    mask = [[0] * (longest - len(s)) + [1] * len(s) for s in sequences]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def _chunks(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


class OfficialReranker:
    """The official reranking script's computation."""

    def __init__(self, folder: Path, *, device: str, dtype: str, max_length: int, options: dict[str, Any]) -> None:
        tokens = Tokens(folder)
        head, ids = direction_of(folder, tokens)
        self.input, self.batch_size = RerankInput(tokens, max_length), int(options.get("batch_size", 8))
        self.device = choose_device(device)
        chosen = choose_dtype(dtype, self.device)
        self.runs_on = {"device": str(self.device), "dtype": str(chosen).removeprefix("torch."), "attention": "sdpa"}
        self.model = load_model(folder, head, chosen, "sdpa").to(self.device)
        check_length(max_length, self.model.config)
        self.head, self.no_yes = head, ids
        # A one-label classifier finds each row's last token by the padding id.
        self.pad = tokens.control.token_to_id(END_OF_TEXT) or 0
        self.model.config.pad_token_id = self.pad

    def read(
        self,
        instruction: str,
        pairs: Sequence[tuple[str, str]],
        cancellation: Cancellation = NEVER,
        progress: Progress | None = None,
    ) -> RerankResult:
        """Log-odds of pairs, `batch_size` at a time."""
        sequences, truncated = [], 0
        for query, document in pairs:
            head = self.input.query(instruction, query)
            rest, count = self.input.documents([document], self.input.document_budget(head))
            sequences.append(head + rest[0])
            truncated += count
        log_odds, read = np.full(len(pairs), np.nan, dtype=np.float32), 0
        for chunk in _chunks(len(pairs), self.batch_size):
            if cancellation.stop_reason:
                break
            batch = _left_padded([sequences[i] for i in chunk], self.pad, self.device)
            log_odds[list(chunk)] = self._formula(batch).cpu().numpy()
            read += len(chunk)
            if progress:
                progress(len(chunk))
        return rerank_result(log_odds, read, truncated, cancellation)

    @torch.inference_mode()
    def _formula(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.model(**batch).logits
        if self.head == "classifier":
            return logits[:, 0].float()  # type: ignore[no-any-return]
        no_yes = torch.log_softmax(logits[:, -1, self.no_yes].float(), dim=1)
        return no_yes[:, 1] - no_yes[:, 0]


class OfficialEmbedder:
    """The official embedding script's computation: left padding, last position, normalised."""

    takes_instructions = True

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        self.tokens, self.max_length, self.batch_size = Tokens(folder), max_length, int(options.get("batch_size", 8))
        self.end = self.tokens.token_id(END_OF_TEXT)
        self.device = choose_device(device)
        chosen = choose_dtype(dtype, self.device)
        self.runs_on = {"device": str(self.device), "dtype": str(chosen).removeprefix("torch."), "attention": "sdpa"}
        weights = load_weights(folder, "none", (), self.device, chosen, "sdpa")
        self.model = weights.body
        check_length(max_length, weights.config)
        self.dimensions = matryoshka(int(weights.config.hidden_size), dimensions)

    def embed_queries(self, texts: Sequence[str], instruction: str) -> Float32:
        """Unit rows of queries; a query longer than `max_length` is an error."""
        return self._embed(query_ids(self.tokens, texts, instruction, self.max_length), None)

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Float32:
        """Unit rows of documents, each truncated to `max_length` tokens."""
        return self._embed([ids[: self.max_length - 1] for ids in self.tokens.encode(texts)], progress)

    def _embed(self, encoded: list[list[int]], progress: Progress | None) -> Float32:
        ids = [[*i, self.end] for i in encoded]
        rows = np.empty((len(ids), self.dimensions), dtype=np.float32)
        for chunk in _chunks(len(ids), self.batch_size):
            with torch.inference_mode():
                states = self.model(**_left_padded([ids[i] for i in chunk], self.end, self.device)).last_hidden_state
            rows[list(chunk)] = unit_rows(states[:, -1].float().cpu().numpy(), self.dimensions)
            if progress:
                progress(len(chunk))
        return rows

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.tokens.spans(text)
