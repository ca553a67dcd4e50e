"""`runtime="sentence-transformers"` for rerankers: any cross-encoder that the library loads.

The library gets token ids, not text. Its tokenizer and a checkpoint's chat template are not used, so the input is the
official format to the token and no text can act as a control token.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.checkpoints.formats import END_OF_TEXT, RerankFormat, sliced
from qwen3_rag.models.checkpoints.loading import check_length, head_of, quiet_loading, reranker_head
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.runtimes.protocols import Scored
from qwen3_rag.models.runtimes.sentence import NeutralText, open_library_model
from qwen3_rag.prompts import DEFAULT_INSTRUCTION, INSTRUCTIONS
from qwen3_rag.scores import NEVER, Cancellation, Group

__all__ = ["SentenceReranker"]

# Batches that are sorted by length together; few, so that stopping early leaves the first candidates scored.
WINDOW = 4
Row = dict[str, list[int]]


class ChatInput:
    """The official reranker format as rows of token ids."""

    def __init__(self, folder: Path, max_length: int) -> None:
        tokens = Tokens(folder)
        self.format, self.max_length = RerankFormat(tokens, max_length), max_length
        self.pad = tokens.control.token_to_id(END_OF_TEXT) or 0

    def check(self, instruction: str, query: str) -> None:
        """Raise if the query leaves no tokens for a document."""
        self.format.query(instruction, query)

    def rows(self, instruction: str, groups: Sequence[Group]) -> tuple[list[Row], list[bool]]:
        """Rows of the pairs, and which documents were truncated."""
        encoded = self.format.encode(instruction, groups)
        rows: list[Row] = [{"input_ids": ids} for group in encoded for ids in group.inputs]
        return rows, [cut for group in encoded for cut in group.truncated]

    def document_budget(self, instruction: str, query: str) -> int:
        """Number of tokens left for a document."""
        return self.format.document_budget(self.format.query(instruction, query))

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.format.tokens.spans(text)


class PairInput:
    """Plain (query, document) pairs, as BERT-like cross-encoders read them, as rows of token ids."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.neutral, self.max_length = NeutralText(tokenizer), max_length
        self.pad = tokenizer.pad_token_id or 0
        self.special_tokens = tokenizer.num_special_tokens_to_add(pair=True)
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.truncating = NeutralText(tokenizer).copy
        self.truncating.enable_truncation(max_length, strategy="only_second")

    def check(self, instruction: str, query: str) -> None:
        """Raise if the query leaves no tokens for a document, or for any instruction but the default."""
        if instruction != INSTRUCTIONS[DEFAULT_INSTRUCTION]:
            raise InvalidArgumentError(
                f"instruction is {instruction!r}, but this model reads plain pairs of query and document; expected "
                "no instruction"
            )
        if (left := self.document_budget(instruction, query)) <= 0:
            raise InvalidArgumentError(
                f"query and special tokens take {self.max_length - left} tokens; expected fewer than "
                f"max_length={self.max_length}, so that a document fits: {query[:60]!r}…"
            )

    def document_budget(self, instruction: str, query: str) -> int:
        """Number of tokens left for a document."""
        return self.max_length - len(self.neutral.spans(self.neutral(query))) - int(self.special_tokens)

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.neutral.spans(text)

    def rows(self, instruction: str, groups: Sequence[Group]) -> tuple[list[Row], list[bool]]:
        """Rows of the pairs, and which documents were truncated."""
        pairs = [
            (query, self.neutral(document))
            for query, documents in ((self.neutral(query), documents) for query, documents in groups)
            for document in documents
        ]
        encoded = self.truncating.encode_batch(pairs)
        types = [{"token_type_ids": e.type_ids} if self.has_types else {} for e in encoded]
        rows = [{"input_ids": e.ids, **t} for e, t in zip(encoded, types, strict=True)]
        return rows, [bool(e.overflowing) for e in encoded]


class TwoRows(nn.Module):
    """Replaces the output layer: computes only the logits of no and yes, always in float32.

    The library computes all logits in the model's type and subtracts two of them; bfloat16 rounds these to steps of
    1/16.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().float(), persistent=False)
        self.weight: torch.Tensor

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (…, 2) of hidden states (…, hidden)."""
        return nn.functional.linear(states.float(), self.weight)


class SentenceReranker:
    """A `CrossEncoder`; log-odds are its raw scores, before any sigmoid. Threads take turns.

    A causal checkpoint, or a one-label classifier whose tokenizer has ChatML's control tokens, gets the official
    format; any other one-label classifier gets plain pairs and takes no instruction.
    """

    work = tokens = None

    def __init__(self, folder: Path, *, device: str, dtype: str, max_length: int, options: dict[str, Any]) -> None:
        head = head_of(folder)
        self.model, self.runs_on = open_library_model("CrossEncoder", folder, device, dtype, options)
        if self.model.backend == "torch":
            _check_complete(folder, head, self.model)
        if self.model.num_labels != 1:
            raise ModelError(f"the classifier has {self.model.num_labels} labels; expected a reranker's single one")
        self.batch_size = int(options.get("batch_size", 32))
        self.causal = head == "causal"
        self.input = self._input(folder, max_length)
        self.takes_instructions, self.max_length = isinstance(self.input, ChatInput), self.input.max_length
        # A one-label decoder finds each row's last token by this id.
        self.model.config.pad_token_id = self.input.pad
        if self.causal:
            self._check_scored_tokens(reranker_head(folder, Tokens(folder))[1])
        self._lock = threading.Lock()

    def _input(self, folder: Path, max_length: int) -> ChatInput | PairInput:
        tokenizer = self.model.tokenizer
        if self.causal or {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.get_added_vocab()):
            check_length(max_length, self.model.config)
            return ChatInput(folder, max_length)
        return PairInput(tokenizer, min(max_length, self.model.max_seq_length or max_length))

    def _check_scored_tokens(self, no_yes: list[int]) -> None:
        scorer = self.model[-1]
        token_ids = [getattr(scorer, "false_token_id", None), getattr(scorer, "true_token_id", None)]
        if token_ids != no_yes:
            raise ModelError(f"the checkpoint scores the tokens {token_ids}; expected those of no and yes, {no_yes}")
        inner = self.model[0].model
        if self.model.backend == "torch" and type(layer := inner.get_output_embeddings()) is nn.Linear:
            inner.set_output_embeddings(TwoRows(layer.weight[no_yes]))
            scorer.false_token_id, scorer.true_token_id = 0, 1

    def score(self, instruction: str, groups: Sequence[Group], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`; `batch_size` pairs at a time, sorted by length within a window of a few batches."""
        for query, _ in groups:
            self.input.check(instruction, query)
        for first, part in sliced(groups, self.batch_size * WINDOW):
            if cancellation.stop_reason:
                return
            rows, truncated = self.input.rows(instruction, part)
            for batch in _by_length(rows, self.batch_size):
                if cancellation.stop_reason:
                    return
                log_odds = self._scores([rows[i] for i in batch])
                cut, tokens = sum(truncated[i] for i in batch), sum(len(rows[i]["input_ids"]) for i in batch)
                yield Scored([first + i for i in batch], log_odds, cut, tokens)

    def score_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """Not supported: some of the library's models read pairs."""
        raise InvalidArgumentError("inputs are token ids; expected texts with runtime 'sentence-transformers'")

    def document_budget(self, instruction: str, query: str) -> int:
        """See `RerankRuntime`."""
        self.input.check(instruction, query)
        return self.input.document_budget(instruction, query)

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.input.spans(text)

    def warm_up(self) -> None:
        """Nothing to do."""

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.float32]]:
        features: dict[str, Any] = _padded(rows, self.input.pad, self.causal, self.model.device)
        features["modality"] = "text" if "text" in self.model[0].modality_config else "message"
        if self.causal:
            features["logits_to_keep"] = 1
        with self._lock:
            scores = self.model(features)["scores"]
        return scores[:, 0].float().cpu().numpy()  # type: ignore[no-any-return]


def _by_length(rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    return (order[start : start + size] for start in range(0, len(rows), size))


def _padded(rows: Sequence[Row], pad: int, left: bool, device: torch.device) -> dict[str, Any]:
    longest = max(len(row["input_ids"]) for row in rows)
    columns: dict[str, list[list[int]]] = {"attention_mask": []}
    for row in rows:
        for name, values in {**row, "attention_mask": [1] * len(row["input_ids"])}.items():
            padding = [pad if name == "input_ids" else 0] * (longest - len(values))
            columns.setdefault(name, []).append(padding + values if left else values + padding)
    return {name: torch.tensor(values, device=device) for name, values in columns.items()}


def _check_complete(folder: Path, head: str, model: Any) -> None:
    """Check that the checkpoint has all weights, because the library silently initialises missing ones at random.

    Raises:
        ModelError: The checkpoint has no reranker's head, or weights are missing.
    """
    if (folder / "modules.json").is_file():
        return  # saved by the library, possibly in several modules with other heads
    if head == "none":
        raise ModelError(f"{folder} is neither a causal decoder nor a one-label classifier; expected a reranker")
    with quiet_loading():
        _, report = type(model[0].model).from_pretrained(
            folder, device_map="meta", use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ModelError(f"{folder} lacks the weights {', '.join(missing[:3])}; expected a complete {head} checkpoint")
