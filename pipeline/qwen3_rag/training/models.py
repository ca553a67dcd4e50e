"""Loads a reranker for training, computes its log-odds, and saves what was learned."""

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3_rag.errors import MissingDependencyError, ModelError, TrainingError
from qwen3_rag.models.checkpoints.hardware import choose_device, choose_dtype
from qwen3_rag.models.checkpoints.loading import (
    Head,
    load_model,
    quiet_loading,
    reranker_head,
)
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.training.attention import IMPLEMENTATION, register
from qwen3_rag.training.rows import Rows

__all__ = ["Lora", "TrainedEmbedder", "TrainedReranker", "merge_adapter"]

TOKENIZER_FILES = ("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.jinja")
EMBEDDER_FILES = ("modules.json", "*_Pooling/*", "*_Normalize/*", "config_sentence_transformers.json")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter on all seven projections of every layer (Hu et al., 2021).

    Attributes:
        rank: Columns of its two matrices.
        alpha: Its output is scaled by alpha / rank.
    """

    rank: int = 16
    alpha: float = 32.0


class TrainedReranker:
    """A reranker's checkpoint in training.

    Args:
        folder: The checkpoint.
        lora: The adapter; None trains all weights, in float32.
        device: As for `Reranker`.
        dtype: Of the frozen weights under an adapter.
        seed: Of the adapter's first values.

    Raises:
        ModelError: The checkpoint is no reranker.
        MissingDependencyError: An adapter is wanted, and peft is not installed.
    """

    def __init__(self, folder: Path, lora: Lora | None, device: str, dtype: str, seed: int) -> None:
        self.folder, self.lora = folder, lora
        self.tokens = Tokens(folder)
        self.head, self.no_yes = reranker_head(folder, self.tokens)
        self.device = choose_device(device)
        self.model, self.dtype = _loaded(folder, self.head, lora, self.device, dtype, seed)

    @property
    def causal(self) -> Any:
        """The stock transformers model, with the adapter's layers in it."""
        return self.model.get_base_model() if self.lora else self.model

    def log_odds(self, rows: Rows) -> Tensor:
        """logit(yes) − logit(no) of each document: float32 (documents,)."""
        model = self.causal
        body = getattr(model, model.base_model_prefix)
        states = body(
            input_ids=rows.input_ids.to(self.device),
            position_ids=rows.position_ids.to(self.device),
            use_cache=False,
            layouts=rows.layouts,
        ).last_hidden_state
        chosen = states[rows.last[:, 0].to(self.device), rows.last[:, 1].to(self.device)].float()
        if self.head == "classifier":
            return (chosen @ model.score.weight.float().T)[:, 0]  # type: ignore[no-any-return]
        no, yes = model.get_output_embeddings().weight[self.no_yes].float()
        return chosen @ (yes - no)  # type: ignore[no-any-return]

    def save(self, out: Path) -> None:
        """Write `adapter` (if there is one) and `merged`, a checkpoint that every runtime loads, in float32."""
        if self.lora:
            self.model.save_pretrained(out / "adapter")
            merge_adapter(out / "adapter", self.folder, out / "merged")
        else:
            _save(self.model, self.folder, out / "merged")


@contextmanager
def _no_deprecations() -> Iterator[None]:
    """Hide that peft uses names which transformers 5.24 calls by other ones; both work until transformers 6."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`.*gradient_checkpointing.*` is deprecated", FutureWarning)
        yield


class TrainedEmbedder:
    """An embedder's checkpoint in training: a decoder whose last token's state is the vector. Arguments as above."""

    def __init__(self, folder: Path, lora: Lora | None, device: str, dtype: str, seed: int) -> None:
        self.folder, self.lora = folder, lora
        self.tokens = Tokens(folder)
        self.device = choose_device(device)
        self.model, self.dtype = _loaded(folder, "none", lora, self.device, dtype, seed)
        self.dimensions = int(self.model.config.hidden_size)

    def states(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """State of the last token of each input, not yet scaled to unit length: float32 (inputs, hidden)."""
        longest = max(map(len, ids))
        rows = torch.tensor([[*each, *[0] * (longest - len(each))] for each in ids], device=self.device)
        ends = torch.tensor([len(each) for each in ids], device=self.device)
        mask = torch.arange(longest, device=self.device)[None] < ends[:, None]
        model = self.model.get_base_model() if self.lora else self.model
        states = model(input_ids=rows, attention_mask=mask.long(), use_cache=False).last_hidden_state
        return states[torch.arange(len(ids), device=self.device), ends - 1].float()  # type: ignore[no-any-return]

    def save(self, out: Path) -> None:
        """Write `adapter` (if there is one) and `merged`, a checkpoint that every runtime loads, in float32."""
        if self.lora:
            self.model.save_pretrained(out / "adapter")
            merge_adapter(out / "adapter", self.folder, out / "merged", "none")
        else:
            _save(self.model, self.folder, out / "merged", EMBEDDER_FILES)


def _loaded(
    folder: Path, head: Head, lora: Lora | None, device: torch.device, dtype: str, seed: int
) -> tuple[Any, str]:
    """A model with its adapter, or with all weights to be trained; and the type of the weights."""
    if device.index:
        raise TrainingError(f"device is {device}; expected the first: set CUDA_VISIBLE_DEVICES={device.index}")
    kind = choose_dtype(dtype, device, folder) if lora else torch.float32
    register()
    base = load_model(folder, head, kind, "sdpa" if head == "none" else IMPLEMENTATION).to(device)
    if device.type == "cuda":
        with _no_deprecations():
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(seed)
    model = _with_adapter(base, lora, head) if lora else base.requires_grad_(True)
    return model, str(kind).removeprefix("torch.")


def _with_adapter(base: Any, lora: Lora, head: Head) -> Any:
    peft = _peft()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=PROJECTIONS,
        task_type="FEATURE_EXTRACTION" if head == "none" else "CAUSAL_LM",
    )
    with _no_deprecations():
        return peft.get_peft_model(base, config)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError("peft", "training with an adapter", "pip install 'qwen3-rag[train]'") from error
    return peft


def merge_adapter(adapter: Path, base: Path, out: Path, head: Head | None = None) -> None:
    """Add an adapter to its base in float32, and write a checkpoint that every runtime loads.

    Args:
        adapter: Folder of the adapter.
        base: Folder of its base.
        out: Folder of the result.
        head: "none" for an embedder; None is that of a reranker.

    Raises:
        TrainingError: The adapter was made for another base.
    """
    _check_base(adapter, base)
    head = head or reranker_head(base, Tokens(base))[0]
    model = load_model(base, head, torch.float32, "sdpa")
    try:
        with _no_deprecations():
            merged = _peft().PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"{adapter} does not fit {base}: {str(error)[:300]}") from error
    _save(merged, base, out, EMBEDDER_FILES if head == "none" else ())


def _check_base(adapter: Path, base: Path) -> None:
    """Check the base that an adapter names against the one it is to be added to, by their configurations."""
    try:
        named = json.loads((adapter / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ModelError(f"{adapter} has no adapter_config.json that can be read: {error}") from error
    shapes = [_shape(Path(folder)) for folder in (named or base, base)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise TrainingError(
            f"the adapter {adapter} was made for {named}, whose shape is {shapes[0]}; got {base}: {shapes[1]}"
        )


def _shape(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError:
        return None
    names = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
    return {name: config.get(name) for name in names}


def _save(model: Any, base: Path, out: Path, more: Sequence[str] = ()) -> None:
    """Write a model with its base's tokenizer, and further files if the base has them."""
    with quiet_loading():
        model.save_pretrained(out)
    for pattern in (*TOKENIZER_FILES, *more):
        for file in base.glob(pattern):
            target = out / file.relative_to(base)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
