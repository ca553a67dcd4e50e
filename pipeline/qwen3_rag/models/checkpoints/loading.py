"""Loads checkpoints: detects the head, and checks that no weights are missing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.checkpoints.tokens import Tokens

__all__ = [
    "Head",
    "Weights",
    "check_length",
    "head_of",
    "load_model",
    "load_weights",
    "quiet_loading",
    "reranker_head",
]

Head = Literal["causal", "classifier", "none"]


@dataclass(frozen=True)
class Weights:
    """A loaded model: the decoder without its head, and the requested rows of the head."""

    body: nn.Module
    rows: Tensor
    config: Any


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' progress bar and its table of missing weights, which this package reports as errors."""
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
    """Which head a checkpoint has, according to its configuration."""
    config = _config(folder)
    names = " ".join(config.architectures or [])
    if "ForSequenceClassification" in names:
        return "classifier"
    return "causal" if "ForCausalLM" in names else "none"


def reranker_head(folder: Path, tokens: Tokens) -> tuple[Head, list[int]]:
    """A reranker's head; and the ids of no and yes, or none for a classifier.

    Raises:
        ModelError: The checkpoint is no reranker.
    """
    head = head_of(folder)
    if head == "none":
        raise ModelError(f"{folder} is neither a causal decoder nor a one-label classifier; expected a reranker")
    return head, [tokens.token_id("no"), tokens.token_id("yes")] if head == "causal" else []


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} has no model configuration that transformers can read: {error}") from error


def load_weights(
    folder: Path, head: Head, token_ids: Sequence[int], device: torch.device, dtype: torch.dtype, implementation: str
) -> Weights:
    """Load a safetensors checkpoint.

    Args:
        folder: The checkpoint.
        head: "causal" keeps the head's rows of `token_ids`, "classifier" its one row, "none" no rows.
        token_ids: Vocabulary ids whose rows to keep.
        device: Device to load to.
        dtype: Type to load in.
        implementation: Name of an attention implementation registered with transformers.

    Raises:
        ModelError: This is not such a checkpoint, or weights are missing.
    """
    model = load_model(folder, head, dtype, implementation).to(device)
    body = model if head == "none" else getattr(model, model.base_model_prefix)
    return Weights(body, _rows(model, head, token_ids), model.config)


def load_model(folder: Path, head: Head, dtype: torch.dtype, implementation: str) -> Any:
    """Load the whole model of a checkpoint for inference. Arguments and errors as in `load_weights`."""
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
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise ModelError(f"{folder} lacks the weights {', '.join(missing[:3])}; expected a complete {head} checkpoint")
    if head == "classifier" and model.score.weight.shape[0] != 1:
        raise ModelError(f"the classifier has {model.score.weight.shape[0]} labels; expected a reranker's single one")
    return model.requires_grad_(False).eval()


def _rows(model: Any, head: Head, token_ids: Sequence[int]) -> Tensor:
    if head == "none":
        return torch.empty(0)
    if head == "causal":
        return model.get_output_embeddings().weight[list(token_ids)].float()  # type: ignore[no-any-return]
    rows: Tensor = model.score.weight
    return rows.float()


def check_length(max_length: int, config: Any) -> None:
    """Raise if `max_length` exceeds the positions that a model supports."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise InvalidArgumentError(
            f"max_length is {max_length}; expected at most {positions}, the positions this model supports"
        )
