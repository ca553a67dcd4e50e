"""Runs one packed batch through a stock transformers decoder."""

import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_rag.errors import ModelError
from qwen3_rag.models.checkpoints.loading import Weights
from qwen3_rag.models.engine import attention, layers
from qwen3_rag.models.engine.compiling import CompilePolicy, compiled
from qwen3_rag.models.engine.packing import Layout, PackedSequence, Prefix

__all__ = ["Runner"]

DUMMY = (0, 0)  # token ids of a sequence whose result is not used
Float32 = NDArray[np.float32]
logger = logging.getLogger("qwen3_rag")


class Runner:
    """A loaded decoder with packed attention. One thread at a time may run it.

    Args:
        weights: The loaded model.
        name: Name of the attention function.
        attend: Attention function, from `attention.choose`.
        dtype: Requested type, which may be int8.
        compiling: When to compile the layers: "auto", True or False, as in `CompilePolicy`.

    Raises:
        ModelError: The model is not a plain causal decoder, or `compiling` is True and compiling fails.
    """

    def __init__(
        self,
        weights: Weights,
        name: str,
        attend: attention.Attention,
        dtype: torch.dtype,
        compiling: str | bool = False,
    ) -> None:
        self.body, self.config = weights.body, weights.config
        self.device = next(self.body.parameters()).device
        self.attention, self._attend, self.dtype = name, attend, dtype
        attention.number_layers(self.body)
        self._check_causal()
        layers.prepare(self.body, dtype)
        self.compiled = False
        self.policy = CompilePolicy(compiling, self.device)
        if compiling is True:
            self.compile()

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention, and whether the layers are compiled."""
        return {
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self.attention,
            "compiled": "yes" if self.compiled else "no",
        }

    def run(self, layout: Layout, may_compile: bool = False) -> Float32:
        """Final hidden states (n, hidden) of the sequences that have a result.

        Args:
            layout: The batch.
            may_compile: Whether the layers may be compiled first if that is due; a caller with a deadline cannot wait.
        """
        if may_compile and self.policy.due():
            self.compile(required=False)
        started = time.monotonic()
        states = self._states(layout)
        self.policy.seconds += time.monotonic() - started
        return states

    def _states(self, layout: Layout) -> Float32:
        if (count := len(layout.results)) < 2:
            # torch.compile would compile again for a single row, so there are always at least two.
            return self._states(Layout([*layout.sequences, *[PackedSequence(DUMMY)] * (2 - count)]))[:count]
        states, batch = self._forward(layout)
        if batch.stage == "all":
            states = states[torch.tensor(layout.last_rows, device=self.device)]
        result: Float32 = states.float().cpu().numpy()
        return result

    def _forward(self, layout: Layout) -> tuple[Tensor, attention.Batch]:
        ids = torch.tensor(layout.ids, device=self.device)
        positions = torch.tensor(layout.positions, device=self.device)
        with attention.running(attention.Batch(layout, self._attend)) as batch, torch.inference_mode():
            # With a cache, transformers would attend across sequences.
            output = self.body(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        return output.last_hidden_state[0], batch

    def _check_causal(self) -> None:
        """Check that every layer calls the packed attention exactly once."""
        layout = Layout([PackedSequence((0, 1)), PackedSequence((1, 0))])
        try:
            batch = self._forward(layout)[1]
        except (TypeError, AttributeError) as error:
            raise ModelError(f"{type(self.body).__name__} cannot be packed ({error}); use another runtime") from error
        if batch.layers != self.config.num_hidden_layers:
            raise ModelError(
                f"{type(self.body).__name__} is not a plain causal decoder: {batch.layers} of "
                f"{self.config.num_hidden_layers} layers have attention that can be packed; use another runtime"
            )

    def compile(self, required: bool = True) -> None:
        """Compile the layers and run them once; a failure leaves them uncompiled, and raises if `required`."""
        before = self._attend
        try:
            with compiled(self.body) as attend:
                if self.attention == "math":
                    self._attend = attend()
                self._warm_up()
        except ModelError as error:
            self._attend = before
            if required:
                raise
            logger.warning("the model is not compiled, which costs speed only: %s", error)
        else:
            self.compiled = True

    def warm_up(self) -> None:
        """Compile the layers now if that was to be done later."""
        if self.policy.brought_forward():
            self.compile(required=False)

    def _warm_up(self) -> None:
        """Run every kind of shape once: with and without a prefix, few rows and many."""
        prefix = Prefix([0] * 7)
        sequences = [PackedSequence([0] * length, prefix=prefix) for length in (300, 290, 3, 2)]
        self._states(Layout([PackedSequence(prefix.ids, computes=prefix), *sequences]))
        self._states(Layout([PackedSequence(DUMMY), PackedSequence(DUMMY)]))

    @staticmethod
    def out_of_memory(error: BaseException) -> bool:
        """Whether the GPU ran out of memory, so that a smaller batch may succeed; frees PyTorch's unused memory."""
        if not isinstance(error, torch.OutOfMemoryError):
            return False
        torch.cuda.empty_cache()
        return True
