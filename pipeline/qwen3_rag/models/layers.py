"""Optimises the layers of a loaded decoder: last tokens only, packed weights, compiled code."""

import copy
import os
import shutil
import types
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from qwen3_rag.errors import ModelError
from qwen3_rag.models import attention, blockwise, linear

__all__ = [
    "LastTokens",
    "can_compile",
    "compile_layers",
    "compiled_attention",
    "last_tokens_only",
    "prepare",
    "uncompile_layers",
]

PARTS = ("input_layernorm", "self_attn")
MANY_KEYS = 5000
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class _NoQueries(nn.Module):
    """Replaces a projection whose result is not used."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the projection's shape, without allocating them."""
        return x.new_zeros(1).expand(*x.shape[:-1], self.features)


class LastTokens(nn.Module):
    """A model's last layer: keys and values for all tokens, everything else only for each sequence's last token.

    It calls the stock layer twice: first its attention without query and output projections, on all rows, to store
    the keys and values; then the whole layer, on the last rows.

    Args:
        layer: The stock decoder layer.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        twin: Any = copy.copy(layer.self_attn)
        twin._modules = dict(twin._modules)
        twin.q_proj = _NoQueries(layer.self_attn.q_proj.out_features)
        twin.o_proj = nn.Identity()
        self._key_values = (twin,)  # in a tuple, so that PyTorch does not register its weights twice

    def forward(self, hidden_states: Tensor, position_embeddings: Any = None, **options: Any) -> Tensor:
        """Map (1, T, hidden) to (1, n, hidden), one row for each sequence that has a result."""
        batch = attention.current()
        batch.stage = "keys"
        layer: Any = self.layer
        normed = layer.input_layernorm(hidden_states)
        self._key_values[0](hidden_states=normed, position_embeddings=position_embeddings, **options)
        batch.stage = "last"
        rows = torch.tensor(batch.layout.last_rows, device=hidden_states.device)
        last = hidden_states.index_select(1, rows)
        cos, sin = position_embeddings
        options.pop("position_ids", None)
        output: Tensor = layer(
            last, position_embeddings=(cos.index_select(1, rows), sin.index_select(1, rows)), **options
        )
        return output


def last_tokens_only(body: nn.Module) -> bool:
    """Make the last layer compute only what the last tokens need; False if its parts have unexpected names."""
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layers[-1], part) for part in PARTS):
        return False
    if not all(hasattr(layers[-1].self_attn, name) for name in PROJECTIONS):
        return False
    layers[-1] = LastTokens(layers[-1])
    return True


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works for a device on this machine."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++", "clang++"))
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return False


def prepare(body: nn.Module, dtype: torch.dtype) -> None:
    """Apply the optimisations that need no compiling to a loaded decoder.

    Args:
        body: A decoder with packed attention.
        dtype: Requested type; int8 quantises the linear layers.
    """
    on_cpu = next(body.parameters()).device.type == "cpu"
    if dtype == torch.int8:
        linear.replace_linears(_layers(body), linear.Int8Linear)
    elif on_cpu and dtype == torch.bfloat16:
        linear.replace_linears(_layers(body), linear.PackedLinear)
    last_tokens_only(body)


def _layers(body: nn.Module) -> nn.ModuleList:
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(body).__name__} has no list of layers; expected a decoder such as Qwen3's")
    return layers


def compile_layers(body: nn.Module) -> None:
    """Compile the layers to one graph, which all of them share and which takes any length."""
    copies: dict[Any, Any] = {}
    for layer in _inner(body):
        forward = type(layer).forward
        copies.setdefault(forward, _copied(forward))
        layer.forward = torch.compile(types.MethodType(copies[forward], layer), dynamic=True, fullgraph=True)


def uncompile_layers(body: nn.Module) -> None:
    """Undo `compile_layers`."""
    for layer in _inner(body):
        layer.__dict__.pop("forward", None)


def compiled_attention(dtype: torch.dtype) -> attention.Attention:
    """Unfused attention on the CPU with a compiled softmax, for scores of one type."""
    compiled = _compiled(blockwise.softmax)

    def softmax(scores: Tensor, seen: Tensor, scale: float) -> Tensor:
        # torch.compile would compile again for sizes of one.
        return (blockwise.softmax if min(scores.shape) < 2 else compiled)(scores, seen, scale)

    # Few and many keys compile to different code: compile both now.
    with torch.inference_mode():
        for keys in (300, MANY_KEYS):
            softmax(torch.zeros(40, keys, dtype=dtype), torch.zeros(40, dtype=torch.int64), 0.1)
    return partial(blockwise.blockwise, inner=partial(blockwise.unfused, softmax=softmax))


def _inner(body: nn.Module) -> list[nn.Module]:
    return [layer.layer if isinstance(layer, LastTokens) else layer for layer in _layers(body)]


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    return compiled


def _copied(function: Any) -> Any:
    """A copy with its own code object, because torch.compile caches by code object and other models share it."""
    code = function.__code__.replace()
    clone = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    clone.__kwdefaults__ = function.__kwdefaults__
    return clone
