"""The engine: sequences of many callers in, each sequence's last hidden state out.

Read on in this order: `scheduler` merges calls into batches, `packing` lays a batch out as one row, `runner` runs it
through the model, `attention` keeps its sequences apart.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_rag.errors import ModelError
from qwen3_rag.models.checkpoints.hardware import choose_device, choose_dtype
from qwen3_rag.models.checkpoints.loading import Head, load_weights
from qwen3_rag.models.engine import attention
from qwen3_rag.models.engine.compute import computed
from qwen3_rag.models.engine.packing import Layout, PackedSequence, by_prefix, kept_prefixes, pack, reading_order
from qwen3_rag.models.engine.runner import Runner
from qwen3_rag.models.engine.scheduler import BatchItem, Call, Scheduler
from qwen3_rag.scores import NEVER, Cancellation

__all__ = ["Engine", "load_engine"]

Float32 = NDArray[np.float32]
# Tokens in a batch: more gain nothing, because matrix products are at full speed; these still fit a small machine.
DEFAULT_BUDGET = {"cpu": 2048, "mps": 4096, "cuda": 16384}
logger = logging.getLogger("qwen3_rag")


class Engine:
    """Runs sequences through a decoder; calls from many threads share its batches.

    Args:
        runner: Runs one batch.
        budget: Most tokens in a batch.
    """

    def __init__(self, runner: Runner, budget: int) -> None:
        self.runner, self.config, self._on_cpu = runner, runner.config, runner.device.type == "cpu"
        self.scheduler: Scheduler[PackedSequence, Any] = Scheduler(self._run_batch, budget, runner.out_of_memory)

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention, and whether the layers are compiled."""
        return self.runner.runs_on

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
        for ready in self.scheduler.results(_call_of(sequences, cancellation), cancellation):
            yield [index for index, _ in ready], np.stack([state for _, state in ready])

    def warm_up(self) -> None:
        """Compile the layers now rather than in the middle of work, if that is to be done."""
        computed(self._on_cpu, self.runner.warm_up)

    def _run_batch(self, batch: list[BatchItem]) -> list[Any]:
        """States of a batch's items in their order; an error in place of a state that is NaN or infinite."""
        sequences: list[PackedSequence] = [call.items[index] for call, index in batch]
        may_compile = not any(call.has_deadline for call, _ in batch)
        # By itself, so that the first call with an instruction has the same results as later ones, to the last bit.
        for prefix in kept_prefixes(sequences):
            if not prefix.keys_values:
                self._run(Layout([PackedSequence(prefix.ids, computes=prefix)]), may_compile)
        layout, order = pack(sequences)
        states = self._run(layout, may_compile)
        for sequence in sequences:
            if sequence.prefix is not None:
                sequence.prefix.release()
        results: list[Any] = [None] * len(batch)
        for place, state in zip(order, states, strict=True):
            results[place] = state if np.isfinite(state).all() else _not_finite()
        return results

    def _run(self, layout: Layout, may_compile: bool) -> Float32:
        try:
            return computed(self._on_cpu, self.runner.run, layout, may_compile=may_compile)
        except BaseException:
            layout.discard_prefixes()
            raise


def _call_of(sequences: Sequence[PackedSequence], cancellation: Cancellation) -> Call[PackedSequence, Any]:
    """A call in reading order; the first sequence of each prefix also weighs the prefix, which its batch computes."""
    weights, order = [len(s.ids) for s in sequences], []
    prefixes = by_prefix(sequences)
    for prefix, indices in prefixes.items():
        group = [indices[i] for i in reading_order([weights[i] for i in indices])]
        order += group
        if prefix is not None:
            prefix.refcount = len(group)
            weights[group[0]] += 0 if prefix.kept else len(prefix.ids)  # kept ones have a batch of their own
    kv_tokens = max((prefix.missing for prefix in prefixes if prefix is not None), default=0)
    return Call(sequences, weights, order, kv_tokens, has_deadline=cancellation.deadline is not None)


def _not_finite() -> ModelError:
    return ModelError(
        "the model's hidden states are NaN or infinite: the weights are damaged, or the dtype is too narrow"
    )


def load_engine(
    folder: Path, head: Head, token_ids: Sequence[int], *, device: str, dtype: str, options: dict[str, Any]
) -> tuple[Engine, Tensor]:
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
    chosen = choose_dtype(dtype, where, folder, int8=True)
    computes_in = choose_dtype("auto", where, folder) if chosen == torch.int8 else chosen
    name, attend = attention.choose(str(options.get("attention", "auto")), where, computes_in)
    attention.register()
    weights = computed(
        where.type == "cpu", load_weights, folder, head, token_ids, where, computes_in, attention.IMPLEMENTATION
    )
    budget = options.get("token_budget", DEFAULT_BUDGET.get(where.type, 4096))
    runner = computed(where.type == "cpu", Runner, weights, name, attend, chosen, options.get("compile", "auto"))
    engine = Engine(runner, budget)
    logger.info("%s on %s in %s, attention: %s, %d tokens a batch", folder.name, where, chosen, name, budget)
    return engine, weights.rows
