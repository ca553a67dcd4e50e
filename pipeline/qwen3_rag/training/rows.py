"""Training batches: the very token ids of inference, as one row a list that shares its query, or as a row a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_rag.errors import TrainingError
from qwen3_rag.models.checkpoints.formats import Encoded, RerankFormat
from qwen3_rag.training.lists import TrainingList

__all__ = ["Rows", "encode", "packed_rows", "pair_rows"]


@dataclass(frozen=True)
class Rows:
    """Input of a decoder, and where the scores are.

    Attributes:
        input_ids: int64 (rows, tokens).
        position_ids: int64 (rows, tokens); every document starts right after its query.
        attention_mask: bool (rows, 1, tokens, tokens), True where a token sees another.
        last: int64 (documents, 2), row and column of each document's last token, list by list.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    last: Tensor


def encode(one: TrainingList, form: RerankFormat, instruction: str) -> Encoded:
    """Token ids of a list, by the function that inference uses.

    Raises:
        TrainingError: A document does not fit: training on half a document teaches the wrong thing.
    """
    (encoded,) = form.encode(instruction, [(one.query, one.documents)])
    if any(encoded.truncated):
        longest = one.documents[encoded.truncated.index(True)]
        raise TrainingError(
            f"{one.place}: {longest[:60]!r}… has more tokens than max_length={form.max_length} leaves for a document; "
            "expected a larger max_length or shorter documents"
        )
    return encoded


def packed_rows(lists: Sequence[Encoded], pad: int) -> Rows:
    """A row for each list: the query once, then its documents, each of which sees the query and itself."""
    rows = [_packed(encoded) for encoded in lists]
    return _stacked(rows, pad)


def pair_rows(lists: Sequence[Encoded], pad: int) -> Rows:
    """A row for each pair, as inference without a shared prefix has them."""
    rows = [_packed(Encoded(each.head, [tail], [False])) for each in lists for tail in each.tails]
    return _stacked(rows, pad)


Row = tuple[list[int], list[int], list[int], list[int]]  # ids, positions, part of each token (0 the query), last tokens


def _packed(encoded: Encoded) -> Row:
    ids, parts = list(encoded.head), [0] * len(encoded.head)
    positions, last = list(range(len(ids))), []
    for number, tail in enumerate(encoded.tails, start=1):
        positions += range(len(encoded.head), len(encoded.head) + len(tail))
        ids += tail
        parts += [number] * len(tail)
        last.append(len(ids) - 1)
    return ids, positions, parts, last


def _stacked(rows: Sequence[Row], pad: int) -> Rows:
    tokens = max(len(ids) for ids, *_ in rows)
    input_ids = torch.full((len(rows), tokens), pad)
    position_ids = torch.zeros((len(rows), tokens), dtype=torch.int64)
    parts = torch.full((len(rows), tokens), -1)
    for number, (ids, positions, part, _) in enumerate(rows):
        input_ids[number, : len(ids)] = torch.tensor(ids)
        position_ids[number, : len(ids)] = torch.tensor(positions)
        parts[number, : len(ids)] = torch.tensor(part)
    same = (parts[:, :, None] == parts[:, None, :]) | (parts[:, None, :] == 0)
    earlier = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    # Padding sees itself: a row of the softmax without any True would be NaN.
    mask = (same & earlier) | torch.eye(tokens, dtype=torch.bool)
    last = torch.tensor([[number, column] for number, (*_, columns) in enumerate(rows) for column in columns])
    return Rows(input_ids, position_ids, mask[:, None], last)
