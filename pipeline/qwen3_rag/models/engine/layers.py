"""Optimises the layers of a loaded decoder: last tokens only, packed or quantised weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qwen3_rag.errors import ModelError
from qwen3_rag.models.engine import attention, linear

__all__ = ["LastTokens", "last_tokens_only", "layers_of", "prepare"]

PARTS = ("input_layernorm", "self_attn")
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


def prepare(body: nn.Module, dtype: torch.dtype) -> None:
    """Apply the optimisations that need no compiling to a loaded decoder.

    Args:
        body: A decoder with packed attention.
        dtype: Requested type; int8 quantises the linear layers.
    """
    on_cpu = next(body.parameters()).device.type == "cpu"
    if dtype == torch.int8:
        linear.replace_linears(layers_of(body), linear.Int8Linear)
    elif on_cpu and dtype == torch.bfloat16:
        linear.replace_linears(layers_of(body), linear.PackedLinear)
    last_tokens_only(body)


def layers_of(body: nn.Module) -> nn.ModuleList:
    """The decoder's layers.

    Raises:
        ModelError: It has none under the usual name.
    """
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(body).__name__} has no list of layers; expected a decoder such as Qwen3's")
    return layers
