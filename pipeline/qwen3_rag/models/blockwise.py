"""Attention of a packed batch in blocks of segments of like length: plain batched products, memory bounded.

Only keys, values and queries of one block lie side by side, filled up to its longest segment; the rows that the rest
of the model sees stay packed. On a CPU this is two to three times as fast as the fused attention for short sequences,
and it skips what causality hides in long ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwen3_rag.models.packing import Layout, Prefix, Segment

__all__ = ["Inner", "blockwise", "fused", "softmax", "written_out"]

# Products of queries and keys alive at once. On a CPU larger ones come fresh from the operating system at every call,
# which costs more than the arithmetic.
SCORES = {"cpu": 1 << 21}
MANY_SCORES = 1 << 26
# Rows that see one common set of keys: what causality hides beyond them is computed for nothing.
ROWS, ROWS_OF_LONG, LONG = 128, 256, 512
FEWEST_ROWS = 32
# Share of a block that may be filling.
FILLING = 0.1

# Queries (B, rows, D), keys and values (B, keys, D), last key each query row sees (B or 1, rows), scale -> (B, rows, D)
Inner = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
Softmax = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class _Block:
    """Segments that follow one prefix and have like lengths.

    Attributes:
        after: Their prefix.
        rows: First and last row + 1 of each segment in the batch.
        longest: Rows of the longest segment.
    """

    after: Prefix | None
    rows: list[tuple[int, int]]
    longest: int

    @property
    def before(self) -> int:
        """Tokens of the prefix."""
        return len(self.after) if self.after else 0


def _limit(device: torch.device) -> int:
    return SCORES.get(device.type, MANY_SCORES)


def _blocks(layout: Layout, heads: int, device: torch.device, chosen: list[int]) -> list[_Block]:
    blocks = []
    for members in _alike(layout, _limit(device) // heads, chosen):
        rows = [(layout.starts[i], layout.starts[i + 1]) for i in members]
        blocks.append(_Block(layout.segments[members[0]].after, rows, max(stop - start for start, stop in rows)))
    return blocks


def _alike(layout: Layout, limit: int, chosen: list[int]) -> Iterator[list[int]]:
    """Runs of segments that follow one prefix and whose lengths differ by little, bounded in size."""
    run: list[int] = []
    tokens = 0
    for i in chosen:
        segment = layout.segments[i]
        if run and not _fits(layout.segments[run[0]], segment, tokens, len(run) + 1, limit):
            yield run
            run, tokens = [], 0
        run.append(i)
        tokens += len(segment.ids)
    if run:
        yield run


def _fits(first: Segment, segment: Segment, tokens: int, count: int, limit: int) -> bool:
    longest = max(len(first.ids), len(segment.ids))
    keys = longest + (len(first.after) if first.after else 0)
    filling = count * longest - tokens - len(segment.ids)
    return (
        first.after is segment.after
        and len(segment.ids) <= len(first.ids)
        and filling <= FILLING * count * longest
        and count * min(longest, ROWS_OF_LONG) * keys <= limit
    )


def blockwise(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, layer: int, scale: float, last: bool, *, inner: Inner
) -> Tensor:
    """Attend block by block.

    Args:
        q: Queries (T, H, D) of a packed batch of T tokens; with `last` only those of the last tokens, (n, H, D).
        k: Keys (T, H_kv, D).
        v: Values (T, H_kv, D).
        layout: How the T rows divide.
        layer: Whose prefix keys and values to use.
        scale: Factor on the products of queries and keys.
        last: Whether only the last token of each segment with a result attends.
        inner: Attention of one block.

    Returns:
        (T, H, D), with `last` (n, H, D).
    """
    heads, size = q.shape[1], q.shape[2]
    chosen = layout.results if last else list(range(len(layout.segments)))
    blocks = layout.scratch.get(("blocks", last))
    if blocks is None:
        blocks = layout.scratch["blocks", last] = _blocks(layout, heads, q.device, chosen)
    out = torch.empty(len(q), heads, size, dtype=q.dtype, device=q.device)
    done = 0
    for block in blocks:
        keys, values = (_side_by_side(x, block, layer, i) for i, x in enumerate((k, v)))
        if last:
            rows = slice(done, done + len(block.rows))
            out[rows] = _attend_last(q[rows], keys, values, block, scale, inner)
            done = rows.stop
        else:
            _attend_all(q, keys, values, block, scale, inner, out)
    return out


def _side_by_side(x: Tensor, block: _Block, layer: int, which: int) -> Tensor:
    """Keys or values (n * H_kv, before + longest, D) of a block's segments, their prefix's before each one's own."""
    heads, size = x.shape[1:]
    before = block.before
    # Zeros, as what is hidden is multiplied by zero and must be a number.
    whole = x.new_zeros(len(block.rows), heads, before + block.longest, size)
    if block.after is not None:
        whole[:, :, :before] = block.after.keys_values[layer][which].transpose(0, 1)
    for place, (start, stop) in zip(whole, block.rows, strict=True):
        place[:, before : before + stop - start] = x[start:stop].transpose(0, 1)
    return whole.flatten(0, 1)


def _attend_all(q: Tensor, k: Tensor, v: Tensor, block: _Block, scale: float, inner: Inner, out: Tensor) -> None:
    """Write what every row of a block attends to into `out`. Heads that share keys are rows of one product."""
    n, longest, before, size = len(block.rows), block.longest, block.before, q.shape[2]
    shared = len(k) // n
    group = q.shape[1] // shared
    rows = q.new_zeros(n, shared, longest, group, size)
    for place, (start, stop) in zip(rows, block.rows, strict=True):
        place[:, : stop - start] = q[start:stop].view(-1, shared, group, size).transpose(0, 1)
    flat = rows.view(n * shared, longest * group, size)
    seen = torch.arange(before, before + longest, device=q.device).repeat_interleave(group)[None]
    limit = _limit(q.device)
    most = ROWS if longest <= LONG else ROWS_OF_LONG
    step = max(FEWEST_ROWS, min(most, limit // (group * (before + longest))))
    for first in range(0, longest, step):
        stop = min(first + step, longest)
        visible = _rounded(before + stop)
        part, keys = slice(first * group, stop * group), slice(0, visible)
        at_once = max(1, limit // ((stop - first) * group * visible))
        for one in range(0, n * shared, at_once):
            b = slice(one, one + at_once)
            # The queries are not needed again: their memory takes the result.
            flat[b, part] = inner(flat[b, part], k[b, keys], v[b, keys], seen[:, part], scale)
    for place, (start, stop) in zip(rows, block.rows, strict=True):
        out[start:stop].view(-1, shared, group, size).copy_(place[:, : stop - start].transpose(0, 1))


def _rounded(keys: int) -> int:
    """Keys to attend to, some hidden ones included: for each shape of a product oneDNN keeps code and memory."""
    unit = max(16, 1 << keys.bit_length() >> 4)
    return -(-keys // unit) * unit


def _attend_last(q: Tensor, k: Tensor, v: Tensor, block: _Block, scale: float, inner: Inner) -> Tensor:
    """Only the last row of each segment: (n, H, D)."""
    n, heads, size = q.shape
    shared = len(k) // n
    rows = q.reshape(n * shared, heads // shared, size)
    last = torch.tensor([block.before + stop - start - 1 for start, stop in block.rows], device=q.device)
    seen = last.repeat_interleave(shared)[:, None].expand(-1, heads // shared)
    return inner(rows, k, v, seen, scale).view(n, heads, size)


def softmax(scores: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Softmax in float32 of (rows, keys) over the keys up to `seen` (rows,), in the type of `scores`."""
    hidden = torch.arange(scores.shape[1], device=scores.device) > seen[:, None]
    return (scores.float() * scale).masked_fill(hidden, -torch.inf).softmax(-1).to(scores.dtype)


def written_out(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softmax: Softmax = softmax) -> Tensor:
    """Two batched products and a softmax."""
    scores = torch.bmm(q, k.mT)
    weights = softmax(scores.flatten(0, 1), seen.expand(len(q), -1).reshape(-1), scale)
    return torch.bmm(weights.view(scores.shape), v)


def fused(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    """PyTorch's fused attention under an explicit mask."""
    visible = torch.arange(k.shape[1], device=q.device) <= seen[..., None]
    found = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=visible[None], scale=scale)
    return found[0]
