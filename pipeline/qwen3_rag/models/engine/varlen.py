"""Attention of a packed batch in one call to a kernel that takes cumulative lengths (flash-attn's, PyTorch's)."""

from collections.abc import Callable

import torch
from torch import Tensor

from qwen3_rag.models.engine.packing import Layout, Prefix

__all__ = ["Varlen", "varlen"]

# (T, H, D) queries; (S, H_kv, D) keys and values; cumulative lengths of both; longest of both; scale -> (T, H, D)
Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float], Tensor]


class _Plan:
    """One index that gathers each sequence's keys: rows of the stored prefixes, then rows of the batch."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        here = {s.computes: start for s, start in zip(layout.sequences, layout.starts, strict=False) if s.computes}
        self.stored = list(dict.fromkeys(s.prefix for s in layout.sequences if s.prefix and s.prefix not in here))
        rows: dict[Prefix | None, list[int]] = {None: []}
        total = 0
        for prefix in self.stored:
            rows[prefix] = list(range(total, total + len(prefix)))
            total += len(prefix)
        for prefix, start in here.items():  # parents come first
            rows[prefix] = [*rows[prefix.parent], *range(total + start, total + start + len(prefix.ids))]
        index: list[int] = []
        lengths_q, lengths_k = [], []
        for sequence, start in zip(layout.sequences, layout.starts, strict=False):
            length, shared = len(sequence.ids), sequence.prefix
            index += rows[shared]
            index += range(total + start, total + start + length)
            lengths_q.append(length)
            lengths_k.append(length + (len(shared) if shared is not None else 0))
        self.gathers = any(s.prefix is not None for s in layout.sequences)
        self.index = torch.tensor(index, device=device)
        self.longest = (max(lengths_q), max(lengths_k))
        self.cumulative = (_cumulative(lengths_q, device), _cumulative(lengths_k, device))
        last_k = [lengths_k[i] for i in layout.results]
        offsets = [0, *torch.tensor(lengths_k).cumsum(0).tolist()]
        last = [row for i in layout.results for row in range(offsets[i], offsets[i + 1])]
        self.last_index = self.index[torch.tensor(last, device=device)]
        self.last_cumulative = (_cumulative([1] * len(last_k), device), _cumulative(last_k, device))
        self.longest_of_last = max(last_k, default=0)


def _cumulative(lengths: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)


def varlen(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, layer: int, scale: float, last: bool, *, kernel: Varlen
) -> Tensor:
    """Attend in one call to `kernel`. Arguments and shapes as in `blockwise.blockwise`."""
    plan = layout.scratch.get("varlen")
    if plan is None:
        plan = layout.scratch["varlen"] = _Plan(layout, q.device)
    if plan.stored:
        k, v = (torch.cat([*(p.keys_values[layer][i] for p in plan.stored), x]) for i, x in enumerate((k, v)))
    if last:
        cu_q, cu_k = plan.last_cumulative
        k, v = k.index_select(0, plan.last_index), v.index_select(0, plan.last_index)
        return kernel(q.contiguous(), k, v, cu_q, cu_k, 1, plan.longest_of_last, scale)
    (cu_q, cu_k), (n, m) = plan.cumulative, plan.longest
    if plan.gathers:
        k, v = k.index_select(0, plan.index), v.index_select(0, plan.index)
    return kernel(q.contiguous(), k.contiguous(), v.contiguous(), cu_q, cu_k, n, m, scale)
