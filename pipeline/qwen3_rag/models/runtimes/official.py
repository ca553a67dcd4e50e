"""`runtime="transformers"`: the official formula, slow and simple; the reference for every other runtime.

It follows the model card of `Qwen/Qwen3-Reranker-0.6B`: left padding, a full forward pass with logits for the whole
vocabulary, and the softmax of no and yes at the last position. Only tokenizing differs: text from outside goes through
`models.tokens`, so that it cannot act as control tokens.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen3_rag.models.checkpoints.formats import (
    END_OF_TEXT,
    EmbedFormat,
    Encoded,
    Inputs,
    RerankFormat,
    matryoshka,
    sliced,
)
from qwen3_rag.models.checkpoints.hardware import choose_device, choose_dtype
from qwen3_rag.models.checkpoints.loading import (
    check_length,
    load_model,
    load_weights,
    reranker_head,
)
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.runtimes.from_ids import IdEmbedder
from qwen3_rag.models.runtimes.protocols import Scored
from qwen3_rag.scores import NEVER, Cancellation, Group

__all__ = ["OfficialEmbedder", "OfficialReranker"]

Float32 = NDArray[np.float32]


def _left_padded(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(map(len, sequences))
    ids = [[pad] * (longest - len(s)) + list(s) for s in sequences]
    mask = [[0] * (longest - len(s)) + [1] * len(s) for s in sequences]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


class OfficialReranker:
    """The official reranking script's computation. Threads take turns."""

    takes_instructions = True
    work = None

    def __init__(self, folder: Path, *, device: str, dtype: str, max_length: int, options: dict[str, Any]) -> None:
        tokens = Tokens(folder)
        head, ids = reranker_head(folder, tokens)
        self.format, self.batch_size = RerankFormat(tokens, max_length), int(options.get("batch_size", 8))
        self.tokens, self.max_length = tokens, max_length
        self.device = choose_device(device)
        chosen = choose_dtype(dtype, self.device, folder)
        self.runs_on = {"device": str(self.device), "dtype": str(chosen).removeprefix("torch."), "attention": "sdpa"}
        self.model = load_model(folder, head, chosen, "sdpa").to(self.device)
        check_length(max_length, self.model.config)
        self.head, self.no_yes = head, ids
        # A one-label classifier finds each row's last token by the padding id.
        self.pad = tokens.control.token_to_id(END_OF_TEXT) or 0
        self.model.config.pad_token_id = self.pad
        self._lock = threading.Lock()

    def score(self, instruction: str, groups: Sequence[Group], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`; `batch_size` pairs at a time."""
        for first, part in sliced(groups, self.batch_size):
            if cancellation.stop_reason:
                return
            yield self._score(self.format.encode(instruction, part), first)

    def score_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`."""
        whole = self.format.encoded(inputs)
        for first in range(0, len(inputs), self.batch_size):
            if cancellation.stop_reason:
                return
            part = slice(first, first + self.batch_size)
            yield self._score([Encoded(whole.head, whole.tails[part], whole.truncated[part])], first)

    def _score(self, encoded: Sequence[Encoded], first: int) -> Scored:
        inputs = [ids for group in encoded for ids in group.inputs]
        with self._lock:
            log_odds = self._formula(_left_padded(inputs, self.pad, self.device)).cpu().numpy()
        truncated = sum(sum(group.truncated) for group in encoded)
        return Scored(range(first, first + len(inputs)), log_odds, truncated, sum(map(len, inputs)))

    def document_budget(self, instruction: str, query: str) -> int:
        """See `RerankRuntime`."""
        return self.format.document_budget(self.format.query(instruction, query))

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.tokens.spans(text)

    def warm_up(self) -> None:
        """Nothing to do."""

    @torch.inference_mode()
    def _formula(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.model(**batch).logits
        if self.head == "classifier":
            return logits[:, 0].float()  # type: ignore[no-any-return]
        no_yes = torch.log_softmax(logits[:, -1, self.no_yes].float(), dim=1)
        return no_yes[:, 1] - no_yes[:, 0]


class OfficialEmbedder(IdEmbedder):
    """The official embedding script's computation: left padding, last position, normalised. Threads take turns."""

    work = None

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        self.tokens, self.max_length = Tokens(folder), max_length
        self.format = EmbedFormat(self.tokens, max_length)
        self.batch_size = int(options.get("batch_size", 8))
        self.device = choose_device(device)
        chosen = choose_dtype(dtype, self.device, folder)
        self.runs_on = {"device": str(self.device), "dtype": str(chosen).removeprefix("torch."), "attention": "sdpa"}
        weights = load_weights(folder, "none", (), self.device, chosen, "sdpa")
        self.model = weights.body
        check_length(max_length, weights.config)
        self.dimensions = matryoshka(int(weights.config.hidden_size), dimensions)
        self._lock = threading.Lock()

    def _last_states(self, inputs: Inputs, cancellation: Cancellation) -> Iterator[tuple[Sequence[int], Float32]]:
        for start in range(0, len(inputs.ids), self.batch_size):
            if cancellation.stop_reason:
                return
            part = inputs.ids[start : start + self.batch_size]
            with self._lock, torch.inference_mode():
                states = self.model(**_left_padded(part, self.format.end, self.device)).last_hidden_state
            yield range(start, start + len(part)), states[:, -1].float().cpu().numpy()

    def warm_up(self) -> None:
        """Nothing to do."""
