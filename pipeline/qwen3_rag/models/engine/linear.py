"""Linear layers for the CPU, with weights packed for its matrix units: 16-bit, or quantised to 8 bits.

Both are opaque to torch.compile, which cannot trace packed weights. A layer's weights are looked up by a number in a
tensor, so that all layers of a model share one compiled graph.
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
    output: Tensor = _modules[int(number)].product(x.flatten(0, -2)).view(*x.shape[:-1], features)
    return output


@_packed_linear.register_fake
def _(x: Tensor, number: Tensor, features: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty(*x.shape[:-1], features, dtype=dtype)


def _apply(x: Tensor, module: "PackedLinear | Int8Linear") -> Tensor:
    output: Tensor = _packed_linear(x, module._number, module.out_features, module._dtype)
    return output


class PackedLinear(nn.Module):
    """A linear layer whose weight oneDNN reorders once instead of at every call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.bias = linear.out_features, linear.bias
        self._dtype = linear.weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self._number = _register(self)

    def product(self, x: Tensor) -> Tensor:
        """Map (rows, in) to (rows, out)."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return _apply(x, self)


class Int8Linear(nn.Module):
    """A linear layer in 8 bits: one scale per output for the weight, one scale per row for the input."""

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
        """Map rows (rows, in) from `quantise` to (rows, out), not yet multiplied by the rows' scales."""
        # Unsigned with zero point 128: some CPUs multiply signed inputs a thousand times slower.
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self._weight, self._scale, self._zeros, None, 1.0, 0, self._dtype, "none", [], ""
        )
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out). When compiled, all but the product fuses with the operations around it."""
        rows, scale = quantise(x)
        out = (_apply(rows, self) * scale).to(x.dtype)
        return out if self.bias is None else out + self.bias


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise rows (..., in) to unsigned 8 bits with zero point 128; returns them and the scales (..., 1)."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return ((x / scale).round() + 128).to(torch.uint8), scale


def _register(module: Any) -> Tensor:
    number = next(_numbers)
    _modules[number] = module
    return torch.tensor(number)


def replace_linears(root: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every linear layer below `root` by `make(linear)`, freeing each weight as it is replaced."""
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child))
