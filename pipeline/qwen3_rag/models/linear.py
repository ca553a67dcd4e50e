"""Linear layers for the CPU: weights in the order its matrix units want, in 16 bits or quantised to 8.

Both are opaque to torch.compile, which cannot trace packed weights: their weights are found by a number that travels
as a tensor, so that all layers of a model share one compiled graph.
"""

import itertools
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

__all__ = ["Int8Linear", "PackedLinear", "quantise", "replace_linears"]

_numbers = itertools.count()
_modules: WeakValueDictionary[int, "PackedLinear | Int8Linear"] = WeakValueDictionary()
TYPICAL_ROWS = 2048


@torch.library.custom_op("qwen3_rag::packed_linear", mutates_args=())
def _packed_linear(x: Tensor, number: Tensor, features: int, dtype: torch.dtype) -> Tensor:
    found: Tensor = _modules[int(number)].product(x.flatten(0, -2)).view(*x.shape[:-1], features)
    return found


@_packed_linear.register_fake
def _(x: Tensor, number: Tensor, features: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty(*x.shape[:-1], features, dtype=dtype)


def _apply(x: Tensor, module: "PackedLinear | Int8Linear") -> Tensor:
    found: Tensor = _packed_linear(x, module._number, module.out_features, module._dtype)
    return found


class PackedLinear(nn.Module):
    """A linear layer whose weight oneDNN has reordered once instead of at every call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.bias = linear.out_features, linear.bias
        self._dtype = linear.weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self._number = _register(self)

    def product(self, x: Tensor) -> Tensor:
        """(rows, in) to (rows, out)."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return _apply(x, self)


class Int8Linear(nn.Module):
    """A linear layer in 8 bits: one scale an output for the weight, one scale a row for the input."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.bias = linear.out_features, linear.bias
        weight = linear.weight.detach().float()
        self._scale = weight.abs().amax(1).clamp_min(1e-12) / 127
        quantised = (weight / self._scale[:, None]).round().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(quantised, [TYPICAL_ROWS, linear.in_features])
        self._dtype = linear.weight.dtype
        self._zeros = torch.zeros(linear.out_features, dtype=torch.int64)
        self._number = _register(self)

    def product(self, rows: Tensor) -> Tensor:
        """(rows, in) of `quantise` to (rows, out), still to be multiplied by the rows' scales."""
        # Unsigned with its zero in the middle: some CPUs multiply signed inputs a thousand times slower.
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self._weight, self._scale, self._zeros, None, 1.0, 0, self._dtype, "none", [], ""
        )
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out). Compiled, all but the product melts into what stands before and after."""
        rows, scale = quantise(x)
        out = (_apply(rows, self) * scale).to(x.dtype)
        return out if self.bias is None else out + self.bias


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., in) as unsigned 8 bits around 128, and the scale of each row (..., 1)."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return ((x / scale).round() + 128).to(torch.uint8), scale


def _register(module: Any) -> Tensor:
    number = next(_numbers)
    _modules[number] = module
    return torch.tensor(number)


def replace_linears(root: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put `make(linear)` in the place of every linear layer below `root`, letting each weight go as it is replaced."""
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child))
