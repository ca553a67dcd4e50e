"""Packs a query and its candidates into one row of tokens, so that the tokens they share are computed once.

Each candidate attends to the shared tokens and to itself, at positions that continue the shared ones, so its score
equals the score it gets alone. The body is the stock transformers model with its attention replaced, because an
explicit mask over the whole row would cost four times the arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface

__all__ = ["ATTENTION", "PackedList", "pack_list", "yes_no_scores"]

ATTENTION = "qwen3_rag_training_list"


@dataclass(frozen=True)
class PackedList:
    """One row: the shared tokens, then the tokens of each candidate.

    Attributes:
        ids: Token ids, shape (1, tokens).
        positions: Position of each token in its own sequence, shape (1, tokens).
        lengths: Number of shared tokens, then of each candidate's tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]

    @property
    def last(self) -> torch.Tensor:
        """Index of each candidate's last token, shape (candidates,)."""
        return torch.tensor(self.lengths).cumsum(0)[1:] - 1


def pack_list(shared: Sequence[int], candidates: Sequence[Sequence[int]]) -> PackedList:
    """Concatenate the shared tokens and all candidates into one row."""
    lengths = (len(shared), *map(len, candidates))
    ids = torch.tensor([token for part in (shared, *candidates) for token in part])
    own = [torch.arange(length) + len(shared) for length in lengths[1:]]
    return PackedList(ids[None], torch.cat([torch.arange(len(shared)), *own])[None], lengths)


class _PackedAttention:
    """Attention of one row, all candidates in one padded batch; `lengths` is set before each forward pass.

    Not fused, because PyTorch's fused attention on a CPU takes three times as long for such short sequences.
    """

    lengths: tuple[int, ...] = ()

    # Under torch.compile the lengths would be constants, and each new row would compile again.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        q, k, v = query[0], key[0].repeat_interleave(groups, 0), value[0].repeat_interleave(groups, 0)
        q = q * q.shape[-1] ** -0.5
        shared, *own = self.lengths
        first = _causal(q[:, :shared] @ k[:, :shared].mT).softmax(-1) @ v[:, :shared]
        qc, kc, vc = (_side_by_side(x[:, shared:], own) for x in (q, k, v))
        to_shared = (qc.flatten(1, 2) @ k[:, :shared].mT).view(*qc.shape[:3], shared)
        weights = torch.cat([to_shared, _causal(qc @ kc.mT)], -1).softmax(-1)
        rest = (weights[..., :shared].flatten(1, 2) @ v[:, :shared]).view(qc.shape)
        rest = rest + weights[..., shared:] @ vc
        parts = [first, *(part[:, :length] for part, length in zip(rest.unbind(1), own, strict=True))]
        return torch.cat(parts, 1).transpose(0, 1)[None], None


def _causal(scores: torch.Tensor) -> torch.Tensor:
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu_(1)
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _side_by_side(x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    # Padding follows each candidate's tokens, where the causal mask hides it. Indexing would be slower.
    longest = max(lengths)
    return torch.stack([pad(part, (0, 0, 0, longest - part.shape[1])) for part in torch.split(x, lengths, 1)], 1)


_attention = _PackedAttention()
AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


def yes_no_scores(body: nn.Module, direction: torch.Tensor, packed: PackedList) -> torch.Tensor:
    """Log-odds of yes against no for each candidate: float32 (candidates,).

    Args:
        body: A causal model without its vocabulary head, created with `attn_implementation=ATTENTION`.
        direction: The head's row for yes minus its row for no, shape (hidden,).
        packed: The row to score.
    """
    _attention.lengths = packed.lengths
    hidden: torch.Tensor = body(input_ids=packed.ids, position_ids=packed.positions, use_cache=False)[0]
    return hidden[0, packed.last].float() @ direction.float()
