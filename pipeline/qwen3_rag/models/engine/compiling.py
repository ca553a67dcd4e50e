"""Compiles a decoder's layers with torch.compile: when it pays, and how."""

import logging
import os
import shutil
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from qwen3_rag.errors import ModelError
from qwen3_rag.models.engine import attention, blockwise
from qwen3_rag.models.engine.layers import LastTokens, layers_of

__all__ = ["CompilePolicy", "can_compile", "compiled"]

# Compiling costs up to half a minute: "auto" waits until the model has worked about as long in this process.
COMPILE_AFTER = 20.0  # seconds
MANY_KEYS = 5000
logger = logging.getLogger("qwen3_rag")


class CompilePolicy:
    """When to compile: "auto" after `COMPILE_AFTER` seconds of work, True at loading, False never.

    Attributes:
        seconds: Work so far.
    """

    def __init__(self, mode: str | bool, device: torch.device) -> None:
        self.seconds = 0.0
        self._pending = mode == "auto" and can_compile(device)

    def brought_forward(self) -> bool:
        """Whether to compile before it is due; True at most once."""
        pending, self._pending = self._pending, False
        return pending

    def due(self) -> bool:
        """Whether to compile now; True at most once, so that a failure is not repeated."""
        if not self._pending or self.seconds <= COMPILE_AFTER:
            return False
        self._pending = False
        return True


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works for a device on this machine."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++", "clang++"))
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return False


@contextmanager
def compiled(body: nn.Module) -> Iterator[Callable[[], attention.Attention]]:
    """Compile a decoder's layers; the block runs them, and if it fails they are uncompiled again.

    Yields:
        A function that compiles unfused attention on the CPU for the decoder's type.

    Raises:
        ModelError: Compiling or running failed.
    """
    started = time.monotonic()
    try:
        # The compiler's warnings about its own code do not concern the caller.
        with warnings.catch_warnings(action="ignore"):
            compile_layers(body)
            yield lambda: compiled_attention(next(body.parameters()).dtype)
    # Compilers fail in many ways; none may cost the caller the scores.
    except Exception as error:
        uncompile_layers(body)
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"the model cannot be compiled here: {type(error).__name__}: {reason}") from error
    logger.info("the model's layers were compiled in %.1f s", time.monotonic() - started)


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
    return [layer.layer if isinstance(layer, LastTokens) else layer for layer in layers_of(body)]


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
