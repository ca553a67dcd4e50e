"""The engine: a stock transformers decoder on packed batches; each sequence's last hidden state comes back."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qwen3_rag.errors import InvalidArgumentError, ModelError, UnknownNameError
from qwen3_rag.models import attention
from qwen3_rag.models.packing import Layout, batches
from qwen3_rag.models.runtimes import NEVER, Until

__all__ = [
    "Decoder",
    "Weights",
    "check_length",
    "choose_device",
    "choose_dtype",
    "load_decoder",
    "load_model",
    "load_weights",
    "quiet_loading",
]

Head = Literal["causal", "classifier", "none"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Past these a batch gains nothing: matrix products are at full speed, and activations still fit a small machine.
DEFAULT_BUDGET = {"cpu": 2048, "mps": 4096, "cuda": 16384}
logger = logging.getLogger("qwen3_rag")


def choose_device(wanted: str) -> torch.device:
    """The device for a name; "auto" is the first CUDA device, otherwise the CPU.

    Raises:
        InvalidArgumentError: PyTorch does not know it, or it is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidArgumentError(
            f"device={wanted!r} cannot be used; expected 'auto', 'cpu', 'cuda', …: {reason}"
        ) from None
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The type to compute in; "auto" is bfloat16 where the hardware has it, float16 on older GPUs, else float32.

    Raises:
        UnknownNameError: Neither "auto" nor float32, bfloat16 or float16.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise UnknownNameError("dtype", wanted, ["auto", *DTYPES])
        return DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    # AMX implies it too. Where bfloat16 is only emulated, float32 is faster.
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


@dataclass(frozen=True)
class Weights:
    """A loaded model: the decoder without its head, and the head's rows that the caller asked for."""

    body: nn.Module
    rows: Tensor | None
    config: Any


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' bar and its table of missing weights off the screen; missing weights are an error of ours."""
    from transformers.utils import logging as hf

    shown, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()  # type: ignore[no-untyped-call]
    hf.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if shown:
            hf.enable_progress_bar()  # type: ignore[no-untyped-call]


def head_of(folder: Path) -> Head:
    """Which head a checkpoint has, as its own configuration says."""
    config = _config(folder)
    names = " ".join(config.architectures or [])
    if "ForSequenceClassification" in names:
        return "classifier"
    return "causal" if "ForCausalLM" in names else "none"


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} holds no model configuration that transformers reads: {error}") from error


def load_weights(
    folder: Path, head: Head, token_ids: Sequence[int], device: torch.device, dtype: torch.dtype, implementation: str
) -> Weights:
    """Load a checkpoint in safetensors form.

    Args:
        folder: The checkpoint.
        head: "causal" keeps the output rows of `token_ids`; "classifier" its one row; "none" no rows.
        token_ids: Vocabulary ids whose output rows are wanted.
        device: Where to.
        dtype: In what type.
        implementation: Name of the attention implementation, as transformers knows it.

    Raises:
        ModelError: Not a checkpoint of this form, or weights are missing from it.
    """
    model = load_model(folder, head, dtype, implementation).to(device)
    body = model if head == "none" else getattr(model, model.base_model_prefix)
    return Weights(body, _rows(model, head, token_ids), model.config)


def load_model(folder: Path, head: Head, dtype: torch.dtype, implementation: str) -> Any:
    """The whole model of a checkpoint, for inference. Arguments and errors as in `load_weights`."""
    import transformers as tf

    loaders: dict[str, Any] = {
        "causal": tf.AutoModelForCausalLM,
        "classifier": tf.AutoModelForSequenceClassification,
        "none": tf.AutoModel,
    }
    try:
        with quiet_loading():
            model, report = loaders[head].from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=implementation,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded as a {head} model: {error}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise ModelError(f"{folder} lacks the weights {', '.join(lacking[:3])}; expected a complete {head} checkpoint")
    if head == "classifier" and model.score.weight.shape[0] != 1:
        raise ModelError(f"the classifier has {model.score.weight.shape[0]} labels; expected a reranker's single one")
    return model.requires_grad_(False).eval()


def _rows(model: Any, head: Head, token_ids: Sequence[int]) -> Tensor | None:
    if head == "none":
        return None
    if head == "causal":
        return model.get_output_embeddings().weight[list(token_ids)].float()  # type: ignore[no-any-return]
    rows: Tensor = model.score.weight
    return rows.float()


class Decoder:
    """Runs packed batches through a decoder.

    Args:
        weights: The loaded model.
        attend: Attention function, from `attention.choose`.
        budget: Tokens a batch may hold.

    Thread-safe; calls take turns.
    """

    def __init__(self, weights: Weights, attend: attention.Attention, budget: int) -> None:
        self.body, self.config = weights.body, weights.config
        self._attend, self._budget = attend, budget
        self._lock = threading.Lock()
        self.device = next(self.body.parameters()).device

    def last_states(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = (), until: Until = NEVER
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Final hidden states of the sequences' last tokens, batch by batch.

        Args:
            sequences: Token ids, each at least one.
            prefix: Ids that stand before every sequence; computed once.
            until: Once reached, no further batch is begun.

        Yields:
            Indices of the sequences of a batch, and their states (n, hidden) in float32 on the model's device.

        Raises:
            ModelError: A state is not a number.
        """
        shared: dict[int, tuple[Any, Any]] = {}
        if prefix and sequences:
            self._run([prefix], Layout((len(prefix),), keys_values=shared, record=True))
        for indices in batches([len(s) for s in sequences], self._budget):
            if until.reached:
                return
            part = [sequences[i] for i in indices]
            layout = Layout(tuple(map(len, part)), prefix=len(prefix), keys_values=shared)
            yield indices, self._run(part, layout)

    def _run(self, sequences: Sequence[Sequence[int]], layout: Layout) -> Tensor:
        ids = torch.tensor([i for s in sequences for i in s], device=self.device)
        positions = torch.tensor(layout.positions, device=self.device)
        with self._lock, torch.inference_mode():
            # With a cache transformers would attend across the sequences of a row.
            states = self.body(
                input_ids=ids[None], position_ids=positions[None], use_cache=False, layout=layout, attend=self._attend
            ).last_hidden_state[0]
            last: Tensor = states[torch.tensor(layout.last_rows, device=self.device)].float()
        if not bool(torch.isfinite(last).all()):
            raise ModelError(
                "the model's hidden states are not numbers (NaN or infinite): damaged weights, or a dtype too narrow"
            )
        return last


def check_length(max_length: int, config: Any) -> None:
    """Refuse a `max_length` beyond the positions that a model knows."""
    known = getattr(config, "max_position_embeddings", None)
    if known is not None and max_length > known:
        raise InvalidArgumentError(
            f"max_length is {max_length}; this model knows {known} positions, expected at most that"
        )


def load_decoder(
    folder: Path, head: Head, token_ids: Sequence[int], *, device: str, dtype: str, options: dict[str, Any]
) -> tuple[Decoder, Tensor | None, dict[str, str]]:
    """A decoder ready to run, its head's rows, and what it runs on (device, dtype, attention), which is logged.

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
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    budget = options.get("token_budget", DEFAULT_BUDGET.get(chosen_device.type, 4096))
    name, attend = attention.choose(str(options.get("attention", "auto")), chosen_device, chosen_dtype)
    attention.register()
    weights = load_weights(folder, head, token_ids, chosen_device, chosen_dtype, attention.IMPLEMENTATION)
    decoder = Decoder(weights, attend, budget)
    _check_causal(decoder)
    runs_on = {"device": str(chosen_device), "dtype": str(chosen_dtype).removeprefix("torch."), "attention": name}
    logger.info("%s on %s in %s, attention: %s, %d tokens a batch", folder.name, *runs_on.values(), budget)
    return decoder, weights.rows, runs_on


def _check_causal(decoder: Decoder) -> None:
    """A decoder of which every layer can be packed records one pair of keys and values a layer."""
    recorded: dict[int, tuple[Any, Any]] = {}
    try:
        decoder._run([[0, 1]], Layout((2,), keys_values=recorded, record=True))
    except TypeError as error:
        raise ModelError(f"{type(decoder.body).__name__} cannot be packed ({error}); use another runtime") from error
    expected = decoder.config.num_hidden_layers
    if len(recorded) != expected:
        raise ModelError(
            f"{type(decoder.body).__name__} is not a plain causal decoder: {len(recorded)} of {expected} layers have "
            "attention that can be packed; use another runtime"
        )
