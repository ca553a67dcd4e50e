"""The engine: runs a stock transformers decoder on packed batches and returns each sequence's last hidden state."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen3_rag.errors import ModelError
from qwen3_rag.models import attention, layers
from qwen3_rag.models.loading import Head, Weights, choose_device, choose_dtype, load_weights
from qwen3_rag.models.packing import Layout, PackedSequence, Prefix, reading_order
from qwen3_rag.models.queue import BatchItem, Call, Queue
from qwen3_rag.models.runtimes import NEVER, Cancellation, Float32

__all__ = ["Decoder", "load_decoder"]

# Tokens in a batch: more gain nothing, because matrix products are at full speed; these still fit a small machine.
DEFAULT_BUDGET = {"cpu": 2048, "mps": 4096, "cuda": 16384}
LEAST_BUDGET = 256
# Compiling costs up to half a minute: "auto" waits until the model has worked about as long in this process.
COMPILE_AFTER = 20.0  # seconds
DUMMY = (0, 0)  # token ids of a sequence whose result is not used
logger = logging.getLogger("qwen3_rag")


class Decoder:
    """Runs packed batches through a decoder; calls from many threads share them.

    Args:
        weights: The loaded model.
        name: Name of the attention function.
        attend: Attention function, from `attention.choose`.
        budget: Most tokens in a batch.
        dtype: Requested type, which may be int8.
        compiling: When to compile the layers: "auto" after `COMPILE_AFTER` seconds of work, True now, False never.

    Raises:
        ModelError: The model is not a plain causal decoder, or `compiling` is True and compiling fails.
    """

    def __init__(
        self,
        weights: Weights,
        name: str,
        attend: attention.Attention,
        budget: int,
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
        self._seconds = 0.0  # of work so far
        self._may_compile = compiling == "auto" and layers.can_compile(self.device)
        self.queue: Queue[PackedSequence, Any] = Queue(self._run_batch, budget, _smaller_budget)
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

    def last_states(
        self, sequences: Sequence[PackedSequence], cancellation: Cancellation = NEVER
    ) -> Iterator[tuple[list[int], Float32]]:
        """Final hidden states of the sequences' last tokens, batch by batch.

        Args:
            sequences: At least one token each; sequences with a common prefix refer to the same `Prefix` object.
            cancellation: Once it applies, no further batch starts.

        Yields:
            Indices of a batch's sequences, and their states (n, hidden) in float32.

        Raises:
            ModelError: A state is NaN or infinite.
        """
        by_prefix: dict[Prefix | None, list[int]] = {}
        for index, sequence in enumerate(sequences):
            by_prefix.setdefault(sequence.prefix, []).append(index)
        weights, order = [len(s.ids) for s in sequences], []
        for prefix, indices in by_prefix.items():
            group = [indices[i] for i in reading_order([weights[i] for i in indices])]
            order += group
            if prefix is not None:
                prefix.refcount = len(group)
                weights[group[0]] += len(prefix)
        kv_tokens = max((len(p) for p in by_prefix if p is not None), default=0)
        call: Call[PackedSequence, Any] = Call(sequences, weights, order, kv_tokens)
        call.has_deadline = cancellation.deadline is not None
        for ready in self.queue.results(call, cancellation):
            yield [index for index, _ in ready], np.stack([state for _, state in ready])

    def _run_batch(self, batch: list[BatchItem]) -> list[Any]:
        """States of a batch's items in their order; an error in place of a state that is NaN or infinite."""
        sequences: list[PackedSequence] = [call.items[index] for call, index in batch]
        by_prefix: dict[Prefix | None, list[int]] = {}
        for place, sequence in enumerate(sequences):
            by_prefix.setdefault(sequence.prefix, []).append(place)
        fresh = [p for p in by_prefix if p is not None and not p.keys_values]
        order = [
            place for places in by_prefix.values() for place in sorted(places, key=lambda i: -len(sequences[i].ids))
        ]
        if self._may_compile and self._seconds > COMPILE_AFTER and not any(call.has_deadline for call, _ in batch):
            self._may_compile = False
            self.compile(required=False)
        started = time.monotonic()
        try:
            states = self.run(
                Layout([*(PackedSequence(p.ids, computes=p) for p in fresh), *(sequences[i] for i in order)])
            )
        except BaseException:
            for prefix in fresh:
                prefix.keys_values.clear()
            raise
        self._seconds += time.monotonic() - started
        for sequence in sequences:
            if sequence.prefix is not None:
                sequence.prefix.refcount -= 1
                if not sequence.prefix.refcount:
                    sequence.prefix.keys_values.clear()
        results: list[Any] = [None] * len(batch)
        for place, state in zip(order, states, strict=True):
            results[place] = state if np.isfinite(state).all() else _not_finite()
        return results

    def compile(self, required: bool = True) -> None:
        """Compile the layers and run them once; a failure leaves them uncompiled, and raises if `required`."""
        before = self._attend
        started = time.monotonic()
        try:
            # The compiler's warnings about its own code do not concern the caller.
            with warnings.catch_warnings(action="ignore"):
                layers.compile_layers(self.body)
                if self.attention == "math":
                    self._attend = layers.compiled_attention(next(self.body.parameters()).dtype)
                self._warm_up()
        # Compilers fail in many ways; none may cost the caller the scores.
        except Exception as error:
            layers.uncompile_layers(self.body)
            self._attend = before
            reason = (str(error).strip().splitlines() or [""])[0]
            if required:
                raise ModelError(f"the model cannot be compiled here: {type(error).__name__}: {reason}") from error
            logger.warning("the model is not compiled, which costs speed only: %s: %s", type(error).__name__, reason)
        else:
            self.compiled = True
            logger.info("the model's layers were compiled in %.1f s", time.monotonic() - started)

    def _warm_up(self) -> None:
        """Run every kind of shape once: with and without a prefix, few rows and many."""
        prefix = Prefix([0] * 7)
        sequences = [PackedSequence([0] * length, prefix=prefix) for length in (300, 290, 3, 2)]
        self.run(Layout([PackedSequence(prefix.ids, computes=prefix), *sequences]))
        self.run(Layout([PackedSequence(DUMMY), PackedSequence(DUMMY)]))

    def run(self, layout: Layout) -> Float32:
        """Final hidden states (n, hidden) of the sequences that have a result; call from one thread at a time."""
        if len(layout.results) == 1:
            # torch.compile would compile again for a single row, so there are always at least two.
            return self.run(Layout([*layout.sequences, PackedSequence(DUMMY)]))[: len(layout.results)]
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


def _not_finite() -> ModelError:
    return ModelError(
        "the model's hidden states are NaN or infinite: the weights are damaged, or the dtype is too narrow"
    )


def _smaller_budget(error: BaseException, budget: int) -> int | None:
    """Half the budget after the GPU ran out of memory; None for any other error or a budget too small to halve."""
    if not isinstance(error, torch.OutOfMemoryError) or budget < 2 * LEAST_BUDGET:
        return None
    torch.cuda.empty_cache()
    logger.warning("out of memory on the GPU: going on with %d tokens a batch instead of %d", budget // 2, budget)
    return budget // 2


def load_decoder(
    folder: Path, head: Head, token_ids: Sequence[int], *, device: str, dtype: str, options: dict[str, Any]
) -> tuple[Decoder, Tensor]:
    """Load a decoder and its head's rows, and log what it runs on.

    Args:
        folder: The checkpoint.
        head: As in `load_weights`.
        token_ids: As in `load_weights`.
        device: Name of a device, or "auto".
        dtype: Name of a type, or "auto".
        options: `attention`, `compile` and `token_budget`.

    Raises:
        InvalidArgumentError: The device or type is not available.
        ModelError: Not a causal decoder.
    """
    where = choose_device(device)
    chosen = choose_dtype(dtype, where, int8=True)
    computes_in = choose_dtype("auto", where) if chosen == torch.int8 else chosen
    name, attend = attention.choose(str(options.get("attention", "auto")), where, computes_in)
    attention.register()
    weights = load_weights(folder, head, token_ids, where, computes_in, attention.IMPLEMENTATION)
    budget = options.get("token_budget", DEFAULT_BUDGET.get(where.type, 4096))
    decoder = Decoder(weights, name, attend, budget, chosen, options.get("compile", "auto"))
    logger.info("%s on %s in %s, attention: %s, %d tokens a batch", folder.name, where, chosen, name, budget)
    return decoder, weights.rows
