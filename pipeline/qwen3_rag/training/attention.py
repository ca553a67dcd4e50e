"""Attention of rows that share their query: what a document does not see is not computed either."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

__all__ = ["IMPLEMENTATION", "Layout", "register"]

IMPLEMENTATION = "qwen3_rag_lists"  # its name in transformers
Layout = tuple[int, tuple[int, ...]]  # tokens of the query, and of each document that follows it in the row


def register() -> None:
    """Make the implementation known to transformers; models call it with `layouts` of the rows."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, lambda *arguments, **options: None)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    layouts: Sequence[Layout],
    **options: Any,
) -> tuple[Tensor, None]:
    """Output (rows, tokens, heads, head_dim) of queries (rows, heads, tokens, head_dim); keys may have fewer heads."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    if all(len(tails) == 1 for _, tails in layouts):  # padding stands last, so no token sees it
        output = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    else:
        output = torch.stack([_row(*each, scaling) for each in zip(query, key, value, layouts, strict=True)])
    return output.transpose(1, 2).contiguous(), None


def _row(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    """One row (heads, tokens, head_dim): the query sees itself, each document the query and itself."""
    head, tails = layout
    lengths = torch.tensor(tails, device=query.device)
    ends = head + lengths.cumsum(0)
    inside = torch.arange(max(tails), device=query.device)
    places = ((ends - lengths)[:, None] + inside).clamp(max=query.shape[1] - 1)  # (documents, longest)
    own_query, own_key, own_value = (each[:, places].transpose(0, 1) for each in (query, key, value))
    shared = (each[:, :head].expand(len(tails), -1, -1, -1) for each in (key, value))
    keys, values = (torch.cat(both, dim=2) for both in zip(shared, (own_key, own_value), strict=True))
    mask = torch.cat(
        [
            torch.ones(len(inside), head, dtype=torch.bool),
            torch.ones(len(inside), len(inside), dtype=torch.bool).tril(),
        ],
        dim=1,
    ).to(query.device)
    of_head = scaled_dot_product_attention(
        query[None, :, :head], key[None, :, :head], value[None, :, :head], is_causal=True, scale=scaling
    )[0]
    of_tails = scaled_dot_product_attention(own_query, keys, values, attn_mask=mask, scale=scaling)
    used = of_tails.transpose(0, 1)[:, inside < lengths[:, None]]  # (heads, tokens of all documents, head_dim)
    row = torch.cat([of_head, used], dim=1)
    return pad(row, (0, 0, 0, query.shape[1] - row.shape[1]))
