"""The engine: a stock transformers decoder on packed batches; each sequence's last hidden state comes back."""

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
from qwen3_rag.models.packing import Layout, Prefix, Segment, reading_order
from qwen3_rag.models.queue import Call, Piece, Queue
from qwen3_rag.models.runtimes import NEVER, Float32, Until

__all__ = ["Decoder", "load_decoder"]

# Past these a batch gains nothing: matrix products are at full speed, and activations still fit a small machine.
DEFAULT_BUDGET = {"cpu": 2048, "mps": 4096, "cuda": 16384}
LEAST_BUDGET = 256
# Compiling costs up to half a minute: "auto" waits until the model has worked about as long in this process.
COMPILE_AFTER = 20.0  # seconds
PAIR = (0, 0)  # tokens of a sequence that is only there for company
logger = logging.getLogger("qwen3_rag")


class Decoder:
    """Runs packed batches through a decoder; calls from many threads share them.

    Args:
        weights: The loaded model.
        name: Name of the attention function.
        attend: The function, from `attention.choose`.
        dtype: What was asked for, int8 included.
        budget: Tokens a batch may hold.
        compiling: "auto" compiles the layers once the model has worked for some time; True now; False never.

    Raises:
        ModelError: Not a plain causal decoder; or `compiling` is True and it fails.
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
        self.queue: Queue[Segment, Any] = Queue(self._run_pieces, budget, _smaller_budget)
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
        """A decoder of which every layer can be packed calls our attention once a layer."""
        layout = Layout([Segment((0, 1)), Segment((1, 0))])
        try:
            batch = self._forward(layout)[1]
        except (TypeError, AttributeError) as error:
            raise ModelError(f"{type(self.body).__name__} cannot be packed ({error}); use another runtime") from error
        if batch.layers != self.config.num_hidden_layers:
            raise ModelError(
                f"{type(self.body).__name__} is not a plain causal decoder: {batch.layers} of "
                f"{self.config.num_hidden_layers} layers have attention that can be packed; use another runtime"
            )

    def last_states(self, segments: Sequence[Segment], until: Until = NEVER) -> Iterator[tuple[list[int], Float32]]:
        """Final hidden states of the segments' last tokens, batch by batch.

        Args:
            segments: Each at least one token; those that share a prefix share the very object.
            until: Once reached, no further batch is begun.

        Yields:
            Indices of the segments of a batch, and their states (n, hidden) in float32.

        Raises:
            ModelError: A state is not a number.
        """
        by_prefix: dict[Prefix | None, list[int]] = {}
        for index, segment in enumerate(segments):
            by_prefix.setdefault(segment.after, []).append(index)
        weights, order = [len(s.ids) for s in segments], []
        for prefix, indices in by_prefix.items():
            own = [indices[i] for i in reading_order([weights[i] for i in indices])]
            order += own
            if prefix is not None:
                prefix.awaited = len(own)
                weights[own[0]] += len(prefix)
        holds = max((len(p) for p in by_prefix if p is not None), default=0)
        call: Call[Segment, Any] = Call(segments, weights, order, holds)
        call.hurried = until.deadline is not None
        for ready in self.queue.results(call, until):
            yield [index for index, _ in ready], np.stack([state for _, state in ready])

    def _run_pieces(self, pieces: list[Piece]) -> list[Any]:
        """Results of a batch in the order of its pieces; an error in the place of a state that is no number."""
        wanted: list[Segment] = [call.items[index] for call, index in pieces]
        by_prefix: dict[Prefix | None, list[int]] = {}
        for place, segment in enumerate(wanted):
            by_prefix.setdefault(segment.after, []).append(place)
        fresh = [p for p in by_prefix if p is not None and not p.keys_values]
        order = [place for places in by_prefix.values() for place in sorted(places, key=lambda i: -len(wanted[i].ids))]
        if self._may_compile and self._seconds > COMPILE_AFTER and not any(call.hurried for call, _ in pieces):
            self._may_compile = False
            self.compile(required=False)
        started = time.monotonic()
        try:
            states = self.run(Layout([*(Segment(p.ids, computes=p) for p in fresh), *(wanted[i] for i in order)]))
        except BaseException:
            for prefix in fresh:
                prefix.keys_values.clear()
            raise
        self._seconds += time.monotonic() - started
        for segment in wanted:
            if segment.after is not None:
                segment.after.awaited -= 1
                if not segment.after.awaited:
                    segment.after.keys_values.clear()
        results: list[Any] = [None] * len(pieces)
        for place, state in zip(order, states, strict=True):
            results[place] = state if np.isfinite(state).all() else _no_number()
        return results

    def compile(self, required: bool = True) -> None:
        """Compile the layers and run them once; if that fails, go on as before, unless it is `required`."""
        before = self._attend
        started = time.monotonic()
        try:
            # What the compiler warns of in its own code is nothing to the caller.
            with warnings.catch_warnings(action="ignore"):
                layers.compile_layers(self.body)
                if self.attention == "math":
                    self._attend = layers.compiled_attention(next(self.body.parameters()).dtype)
                self._warm_up()
        # Compilers fail in many ways, none of which must cost the caller his scores.
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
        """Meet every kind of shape once: with and without a prefix, few rows and many."""
        prefix = Prefix([0] * 7)
        segments = [Segment([0] * length, after=prefix) for length in (300, 290, 3, 2)]
        self.run(Layout([Segment(prefix.ids, computes=prefix), *segments]))
        self.run(Layout([Segment(PAIR), Segment(PAIR)]))

    def run(self, layout: Layout) -> Float32:
        """Final hidden states (n, hidden) of the segments that have a result. One thread at a time."""
        if len(layout.results) == 1:
            # Code compiled for any number of rows is compiled anew for a single one: so there are always two.
            return self.run(Layout([*layout.segments, Segment(PAIR)]))[: len(layout.results)]
        states, batch = self._forward(layout)
        if batch.stage == "all":
            states = states[torch.tensor(layout.last_rows, device=self.device)]
        found: Float32 = states.float().cpu().numpy()
        return found

    def _forward(self, layout: Layout) -> tuple[Tensor, attention.Batch]:
        ids = torch.tensor(layout.ids, device=self.device)
        positions = torch.tensor(layout.positions, device=self.device)
        with attention.running(attention.Batch(layout, self._attend)) as batch, torch.inference_mode():
            # With a cache transformers would attend across the sequences of a row.
            found = self.body(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        return found.last_hidden_state[0], batch


def _no_number() -> ModelError:
    return ModelError(
        "the model's hidden states are not numbers (NaN or infinite): damaged weights, or a dtype too narrow"
    )


def _smaller_budget(error: BaseException, budget: int) -> int | None:
    """Half the budget after the GPU ran out of memory; None after another error, or with nothing to halve."""
    if not isinstance(error, torch.OutOfMemoryError) or budget < 2 * LEAST_BUDGET:
        return None
    torch.cuda.empty_cache()
    logger.warning("out of memory on the GPU: going on with %d tokens a batch instead of %d", budget // 2, budget)
    return budget // 2


def load_decoder(
    folder: Path, head: Head, token_ids: Sequence[int], *, device: str, dtype: str, options: dict[str, Any]
) -> tuple[Decoder, Tensor]:
    """A decoder ready to run, and its head's rows; what it runs on is logged.

    Args:
        folder: The checkpoint.
        head: As in `load_weights`.
        token_ids: As in `load_weights`.
        device: Name of a device or "auto".
        dtype: Name of a type or "auto".
        options: `attention` and `token_budget`.

    Raises:
        InvalidArgumentError: A device or type that is not there.
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
