"""Training batches: the very token ids of inference, as one row a list that shares its query, or as a row a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_rag.errors import TrainingError
from qwen3_rag.models.checkpoints.formats import Encoded, RerankFormat
from qwen3_rag.training.attention import Layout
from qwen3_rag.training.lists import TrainingList

__all__ = ["Rows", "encode", "packed_rows", "pair_rows"]


@dataclass(frozen=True)
class Rows:
    """Input of a decoder, and where the scores are.

    Attributes:
        input_ids: int64 (rows, tokens).
        position_ids: int64 (rows, tokens); every document starts right after its query.
        layouts: What stands in each row: tokens of the query, and of each of its documents.
        last: int64 (documents, 2), row and column of each document's last token, list by list.
    """

    input_ids: Tensor
    position_ids: Tensor
    layouts: tuple[Layout, ...]
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
    return _stacked(lists, pad)


def pair_rows(lists: Sequence[Encoded], pad: int) -> Rows:
    """A row for each pair, as inference without a shared prefix has them."""
    return _stacked([Encoded(each.head, [tail], [False]) for each in lists for tail in each.tails], pad)


def _stacked(lists: Sequence[Encoded], pad: int) -> Rows:
    layouts = tuple((len(each.head), tuple(map(len, each.tails))) for each in lists)
    tokens = max(head + sum(tails) for head, tails in layouts)
    input_ids = torch.full((len(lists), tokens), pad)
    position_ids = torch.zeros((len(lists), tokens), dtype=torch.int64)
    last = []
    for number, each in enumerate(lists):
        head = len(each.head)
        ids, positions = list(each.head), list(range(head))
        for tail in each.tails:
            ids += tail
            positions += range(head, head + len(tail))
            last.append((number, len(ids) - 1))
        input_ids[number, : len(ids)] = torch.tensor(ids)
        position_ids[number, : len(ids)] = torch.tensor(positions)
    return Rows(input_ids, position_ids, layouts, torch.tensor(last))
