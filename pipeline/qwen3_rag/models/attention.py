"""Causal attention within each sequence of a packed batch; one function per device family.

Registered with transformers under the name `IMPLEMENTATION`, so that the stock modelling code calls it. A sequence's
tokens see the shared prefix whole and their own sequence up to themselves.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError, UnknownNameError
from qwen3_rag.models.packing import Layout

__all__ = ["IMPLEMENTATION", "Attention", "choose", "register"]

IMPLEMENTATION = "qwen3_rag_packed"
CHOICES = ("auto", "flash", "sdpa")
# Query rows that see one explicit mask: bounds it to ROWS x keys for the longest sequences.
ROWS = 1024

# (T, H, D) queries; (S, H_kv, D) keys and values; cumulative lengths of both; longest of both; scale -> (T, H, D)
Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float], Tensor]
Attention = Callable[[Tensor, Tensor, Tensor, Layout, int, float], Tensor]


def choose(wanted: str, device: torch.device, dtype: torch.dtype) -> tuple[str, Attention]:
    """The attention function for a device, and its name.

    Args:
        wanted: "auto", "flash" (flash-attn's own kernels) or "sdpa" (PyTorch's, on any device).
        device: Where the model is.
        dtype: What it computes in; the flash kernels take 16-bit types only.

    Raises:
        UnknownNameError: Another name.
        MissingDependencyError: "flash" without the package flash-attn.
        InvalidArgumentError: "flash" on a CPU, on a GPU before Ampere, or in float32.
    """
    if wanted not in CHOICES:
        raise UnknownNameError("attention", wanted, list(CHOICES))
    fits = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    installed = importlib.util.find_spec("flash_attn") is not None
    if wanted == "flash" and not fits:
        raise InvalidArgumentError(
            f"attention='flash' with device={device.type!r} and dtype={dtype}; expected a CUDA device and a 16-bit "
            "dtype, or attention='auto'"
        )
    if wanted == "flash" and not installed:
        raise MissingDependencyError("flash-attn", "attention='flash'", "pip install flash-attn --no-build-isolation")
    # Both kernels need Ampere or later.
    modern = fits and torch.cuda.get_device_capability(device) >= (8, 0)
    if wanted == "flash" and not modern:
        raise InvalidArgumentError(
            f"attention='flash' on {torch.cuda.get_device_name(device)}; expected Ampere or later"
        )
    if wanted == "sdpa" or not modern:
        return "sdpa", sdpa
    if installed:
        return "flash-attn varlen", partial(varlen, kernel=_flash_attn())
    return "torch varlen", partial(varlen, kernel=_torch_varlen())


def _flash_attn() -> Varlen:
    from flash_attn import flash_attn_varlen_func

    def kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, n: int, m: int, scale: float) -> Tensor:
        out: Tensor = flash_attn_varlen_func(q, k, v, cu_q, cu_k, n, m, softmax_scale=scale, causal=True)
        return out

    return kernel


def _torch_varlen() -> Varlen:
    from torch.nn.attention.varlen import varlen_attn

    def kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, n: int, m: int, scale: float) -> Tensor:
        shared = q.shape[1] // k.shape[1]
        # torch 2.11 has no grouped queries here; repeating the heads serves both versions.
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        # A window of (-1, 0) is causal, aligned at the sequences' ends: earlier keys (the prefix) are all seen.
        out = varlen_attn(q, k, v, cu_q, cu_k, n, m, scale=scale, window_size=(-1, 0))
        assert isinstance(out, Tensor)
        return out

    return kernel


def varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout, layer: int, scale: float, *, kernel: Varlen) -> Tensor:
    """One call for the whole batch, by a kernel that takes cumulative lengths. Shapes as in `sdpa`."""
    rows_q, rows_k, rows_v = (x[0].transpose(0, 1) for x in (q, k, v))
    if layout.prefix:
        rows_k, rows_v = _with_prefix(rows_k, rows_v, layout, layer)
    if "cumulative" not in layout.scratch:
        lengths = torch.tensor((0, *layout.lengths), device=q.device)
        own = lengths.cumsum(0).to(torch.int32)
        prefixed = (own + torch.arange(len(lengths), device=q.device) * layout.prefix).to(torch.int32)
        layout.scratch["cumulative"] = (own, prefixed)
    cu_q, cu_k = layout.scratch["cumulative"]
    longest = max(layout.lengths)
    return kernel(rows_q, rows_k, rows_v, cu_q, cu_k, longest, longest + layout.prefix, scale)


def _with_prefix(k: Tensor, v: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values (S, H_kv, D) with the prefix's before each sequence's own."""
    shared = layout.keys_values[layer]
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part, rows, before in zip(parts, (k, v), shared, strict=True):
        for own in torch.split(rows, list(layout.lengths)):
            part += [before[0].transpose(0, 1), own]
    return torch.cat(parts[0]), torch.cat(parts[1])


def sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Layout, layer: int, scale: float) -> Tensor:
    """PyTorch's own attention, sequences of one length at a time.

    Args:
        q: Queries (1, H, T, D) of a packed batch of T tokens.
        k: Keys (1, H_kv, T, D).
        v: Values (1, H_kv, T, D).
        layout: How the T rows divide.
        layer: Whose prefix keys and values to use.
        scale: Factor on the products of queries and keys.

    Returns:
        (T, H, D).
    """
    out = torch.empty(q.shape[2], q.shape[1], q.shape[3], dtype=q.dtype, device=q.device)
    start = 0
    for count, length in layout.groups:
        stop = start + count * length
        part_q, part_k, part_v = (_by_sequence(x, start, stop, count) for x in (q, k, v))
        if layout.prefix:
            before_k, before_v = layout.keys_values[layer]
            part_k = torch.cat([before_k.expand(count, -1, -1, -1), part_k], 2)
            part_v = torch.cat([before_v.expand(count, -1, -1, -1), part_v], 2)
        target = out[start:stop].view(count, length, *out.shape[1:])
        _causal(part_q, part_k, part_v, layout, scale, target)
        start = stop
    return out


def _by_sequence(x: Tensor, start: int, stop: int, count: int) -> Tensor:
    heads, _, size = x.shape[1:]
    return x[0, :, start:stop].reshape(heads, count, -1, size).transpose(0, 1)


def _causal(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, out: Tensor) -> None:
    """Write (n, L, H, D) into `out`: L queries that come after `layout.prefix` keys which all of them see."""
    grouped, length, before = q.shape[1] != k.shape[1], q.shape[2], layout.prefix
    if not before:
        found = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        out.copy_(found.transpose(1, 2))
        return
    for row in range(0, length, ROWS):
        end = min(row + ROWS, length)
        seen = before + end
        mask = layout.scratch.get((row, end))
        if mask is None:
            mask = torch.ones(end - row, seen, dtype=torch.bool, device=q.device).tril(before + row)
            layout.scratch[row, end] = mask
        found = scaled_dot_product_attention(
            q[:, :, row:end], k[:, :, :seen], v[:, :, :seen], attn_mask=mask, scale=scale, enable_gqa=grouped
        )
        out[:, row:end].copy_(found.transpose(1, 2))


def _packed(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    attend: Attention = sdpa,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; `layout` and `attend` come through the model's keyword arguments."""
    if layout is None:
        raise ModelError(f"{type(module).__name__} did not pass on the batch's layout; its code cannot be packed")
    unsupported = {
        name: options[name] for name in ("sliding_window", "softcap", "s_aux") if options.get(name) is not None
    }
    if unsupported or not getattr(module, "is_causal", True):
        raise ModelError(f"{type(module).__name__} wants {unsupported or 'two-way attention'}; expected plain causal")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if layout.record:
        layout.keys_values[layer] = (key, value)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return attend(query, key, value, layout, layer, scale)[None], None


def _no_mask(*_: object, **__: object) -> None:
    return None


def register() -> None:
    """Make the packed attention known to transformers; doing so again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _packed)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
