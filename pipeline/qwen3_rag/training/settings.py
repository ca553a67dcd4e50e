"""Everything that determines the result of a training run, apart from the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from qwen3_rag.arguments import at_least, one_of
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.checkpoints.formats import Encoded
from qwen3_rag.training.losses import LOSSES
from qwen3_rag.training.rows import Rows, packed_rows, pair_rows

__all__ = ["EmbedderSettings", "Settings", "TrainingSettings"]


@dataclass(frozen=True)
class Settings:
    """What both kinds of training share.

    Attributes:
        lora_rank: Rank of the adapter; 0 trains all weights.
        lora_alpha: Its output is scaled by alpha / rank.
        epochs: Passes over the training lists.
        learning_rate: Its peak; it warms up over a tenth of the steps and falls to zero as a cosine does.
        batch_lists: Lists a step.
        max_length: Most tokens of an input, template included.
        instruction: A preset's name or a sentence; None is the default one.
        held_out: Share of the queries held out for validation, and as many for the test.
        evaluations: How often the validation lists are measured.
        patience: Evaluations without a better one before training stops.
        seed: Of the split, the order and the adapter's first values.
        dtype: Of the frozen weights under an adapter: "auto", "float32", "bfloat16".
    """

    lora_rank: int = 16
    lora_alpha: float = 32.0
    epochs: int = 2
    learning_rate: float = 2e-4
    batch_lists: int = 4
    max_length: int = 2048
    instruction: str | None = None
    held_out: float = 0.1
    evaluations: int = 8
    patience: int = 3
    seed: int = 17
    dtype: str = "auto"
    in_batch: ClassVar[bool] = False  # whether lists of a step are computed together

    def __post_init__(self) -> None:
        at_least(self.lora_rank, 0, "lora_rank")
        for name in ("epochs", "batch_lists", "max_length", "evaluations", "patience"):
            at_least(getattr(self, name), 1, name)
        if not 0 < self.held_out < 0.4:
            raise InvalidArgumentError(f"held_out is {self.held_out!r}; expected a share between 0 and 0.4")
        if not self.learning_rate > 0:
            raise InvalidArgumentError(f"learning_rate is {self.learning_rate!r}; expected more than 0")


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Settings for a reranker; further attributes are those of `Settings`.

    Attributes:
        loss: "listwise", "pointwise" or "distillation".
        packed: A row a list, with its query once; False is a row a pair, padded.
    """

    loss: str = "listwise"
    packed: bool = True

    @property
    def stack(self) -> Callable[[Sequence[Encoded], int], Rows]:
        """Makes rows of lists."""
        return packed_rows if self.packed else pair_rows

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.loss, list(LOSSES), "loss")


@dataclass(frozen=True)
class EmbedderSettings(Settings):
    """Settings for an embedder; further attributes are those of `Settings`.

    Attributes:
        batch_lists: Lists a step; each query's negatives are its own and all documents of the others.
        temperature: Divides the cosines in the softmax.
        dimensions: Leading values that are trained to serve alone (Matryoshka); the full vector always is.
    """

    batch_lists: int = 16
    max_length: int = 512
    temperature: float = 0.05
    dimensions: tuple[int, ...] = (256, 64)
    in_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InvalidArgumentError(f"temperature is {self.temperature!r}; expected more than 0")
        for each in self.dimensions:
            at_least(each, 1, "dimensions")
        at_least(self.batch_lists, 2, "batch_lists")
