"""Causal attention within each sequence of a packed batch; one function per device family.

Registered with transformers as `IMPLEMENTATION`, so that the stock modelling code calls it in every layer. A token
attends to its sequence's whole prefix, and to its own sequence up to itself.
"""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError, UnknownNameError
from qwen3_rag.models.engine.blockwise import blockwise, fused, unfused
from qwen3_rag.models.engine.packing import Layout
from qwen3_rag.models.engine.varlen import Varlen, varlen

__all__ = ["IMPLEMENTATION", "Attention", "Batch", "choose", "current", "number_layers", "register", "running"]

IMPLEMENTATION = "qwen3_rag_packed"
CHOICES = ("auto", "flash", "sdpa", "math")

# (T, H, D) queries; (T, H_kv, D) keys and values; layout; layer; scale; last rows only -> (rows, H, D)
Attention = Callable[[Tensor, Tensor, Tensor, Layout, int, float, bool], Tensor]


def choose(name: str, device: torch.device, dtype: torch.dtype) -> tuple[str, Attention]:
    """Choose the attention function for a device; returns its full name and the function.

    Args:
        name: "auto", "flash" (flash-attn's kernels), "sdpa" (PyTorch's fused attention, any device) or "math"
            (separate matrix products and softmax, any device).
        device: The model's device.
        dtype: The type to compute in; the flash kernels take 16-bit types only.

    Raises:
        UnknownNameError: The name is unknown.
        MissingDependencyError: "flash" without the package flash-attn.
        InvalidArgumentError: "flash" on a CPU, on a GPU older than Ampere, or in float32.
    """
    if name not in CHOICES:
        raise UnknownNameError("attention", name, list(CHOICES))
    if name == "math" or (name == "auto" and device.type == "cpu"):
        return "math", partial(blockwise, inner=unfused)
    fits = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    installed = importlib.util.find_spec("flash_attn") is not None
    if name == "flash" and not fits:
        raise InvalidArgumentError(
            f"attention='flash' with device={device.type!r} and dtype={dtype}; expected a CUDA device and a 16-bit "
            "dtype, or attention='auto'"
        )
    if name == "flash" and not installed:
        raise MissingDependencyError("flash-attn", "attention='flash'", "pip install flash-attn --no-build-isolation")
    # Both kernels need Ampere or later.
    modern = fits and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "flash" and not modern:
        raise InvalidArgumentError(
            f"attention='flash' on {torch.cuda.get_device_name(device)}; expected Ampere or later"
        )
    if name == "sdpa" or not modern:
        return "sdpa", partial(blockwise, inner=fused)
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
        # torch 2.11 has no grouped-query attention here; repeating the heads works in every version.
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        # A window of (-1, 0) is causal, aligned at the ends of queries and keys, so the whole prefix is visible.
        out = varlen_attn(q, k, v, cu_q, cu_k, n, m, scale=scale, window_size=(-1, 0))
        return out if isinstance(out, Tensor) else out[0]

    return kernel


@dataclass
class Batch:
    """The batch that a thread is running: what each layer's attention needs besides its tensors.

    Attributes:
        layout: The sequences of the batch.
        attend: Attention function.
        stage: "all": every row attends; "keys": store the keys and values of all rows, without attention; "last": the
            last row of each sequence attends to the stored keys and values.
        kept: Keys and values (T, H_kv, D) stored in the stage "keys".
        layers: Number of attention calls so far, to check that every layer makes one.
    """

    layout: Layout
    attend: Attention
    stage: Literal["all", "keys", "last"] = "all"
    kept: tuple[Tensor, ...] = ()
    layers: int = 0


def current() -> Batch:
    """The batch that this thread is running.

    Raises:
        ModelError: No batch is running.
    """
    if _current.batch is None:
        raise ModelError("a packed model was called without a batch; call it through its Decoder")
    return _current.batch


class _Current(threading.local):
    batch: Batch | None = None


_current = _Current()


@contextmanager
def running(batch: Batch) -> Iterator[Batch]:
    """Set the batch that this thread is running."""
    _current.batch = batch
    try:
        yield batch
    finally:
        _current.batch = None


def _record(layout: Layout, k: Tensor, v: Tensor, layer: int) -> None:
    for sequence, start, stop in zip(layout.sequences, layout.starts, layout.starts[1:], strict=False):
        if sequence.computes is not None:
            before = sequence.prefix.keys_values[layer] if sequence.prefix is not None else (k[:0], v[:0])
            # Copies, because compiled code may reuse this memory after the layer.
            keys, values = (torch.cat([b, x[start:stop]]) for b, x in zip(before, (k, v), strict=True))
            sequence.computes.keys_values[layer] = (keys, values)


# Opaque to torch.compile, so that a layer is one graph for every batch. The layer's number is a tensor: as a Python
# number it would be a constant of the graph, and each layer would be compiled separately.
@torch.library.custom_op("qwen3_rag::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, layer: Tensor, scale: float) -> Tensor:
    batch = current()
    number = int(layer)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    batch.layers += 1
    if batch.stage == "last":
        keys, values = batch.kept
        return batch.attend(q, keys, values, batch.layout, number, scale, True)
    _record(batch.layout, k, v, number)
    if batch.stage == "keys":
        batch.kept = (k, v)
        return torch.empty_like(q)
    return batch.attend(q, k, v, batch.layout, number, scale, False)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, layer: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape[2], query.shape[1], query.shape[3])


def _packed(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it in every layer: queries (1, H, T, D), keys and values (1, H_kv, T, D)."""
    unsupported = {
        name: options[name] for name in ("sliding_window", "softcap", "s_aux") if options.get(name) is not None
    }
    if unsupported or not getattr(module, "is_causal", True):
        raise ModelError(
            f"{type(module).__name__} needs {unsupported or 'bidirectional attention'}; expected plain causal attention"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return _attend(query, key, value, module.number, scale)[None], None


def number_layers(body: torch.nn.Module) -> None:
    """Store each attention module's layer number as a CPU tensor, which is cheap to read."""
    for module in body.modules():
        if isinstance(index := getattr(module, "layer_idx", None), int):
            object.__setattr__(module, "number", torch.tensor(index))


def _no_mask(*_: object, **__: object) -> None:
    return None


def register() -> None:
    """Register the packed attention with transformers; safe to call repeatedly."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _packed)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
