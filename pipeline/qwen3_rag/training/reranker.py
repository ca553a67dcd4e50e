"""Fine-tunes a reranker, and says honestly whether that helped."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwen3_rag.arguments import as_path, at_least, one_of
from qwen3_rag.errors import InvalidArgumentError, TrainingError
from qwen3_rag.evaluation.figures import MAIN, check_installed, compared, mean
from qwen3_rag.models.checkpoints.formats import Encoded, RerankFormat
from qwen3_rag.models.checkpoints.sources import resolve
from qwen3_rag.models.protocols import RerankerProtocol
from qwen3_rag.progress import progress
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.training.card import write_card
from qwen3_rag.training.lists import TrainingList, read_lists
from qwen3_rag.training.losses import LOSSES
from qwen3_rag.training.models import Lora, TrainedReranker
from qwen3_rag.training.rows import Rows, encode, packed_rows, pair_rows
from qwen3_rag.training.splitting import split

__all__ = ["TrainingSettings", "train_reranker"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that determines the result, apart from the data.

    Attributes:
        loss: "listwise", "pointwise" or "distillation".
        lora_rank: Rank of the adapter; 0 trains all weights.
        lora_alpha: Its output is scaled by alpha / rank.
        epochs: Passes over the training lists.
        learning_rate: Its peak; it warms up over a tenth of the steps and falls to zero as a cosine does.
        batch_lists: Lists a step.
        max_length: Most tokens of template, instruction, query and document.
        instruction: A preset's name or a sentence; None is the default one.
        held_out: Share of the queries held out for validation, and as many for the test.
        evaluations: How often the validation lists are measured.
        patience: Evaluations without a better one before training stops.
        packed: A row a list, with its query once; False is a row a pair, padded.
        seed: Of the split, the order and the adapter's first values.
        dtype: Of the frozen weights under an adapter: "auto", "float32", "bfloat16".
    """

    loss: str = "listwise"
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
    packed: bool = True
    seed: int = 17
    dtype: str = "auto"

    @property
    def stack(self) -> Callable[[Sequence[Encoded], int], Rows]:
        """Makes rows of lists."""
        return packed_rows if self.packed else pair_rows

    def __post_init__(self) -> None:
        one_of(self.loss, list(LOSSES), "loss")
        at_least(self.lora_rank, 0, "lora_rank")
        for name in ("epochs", "batch_lists", "max_length", "evaluations", "patience"):
            at_least(getattr(self, name), 1, name)
        if not 0 < self.held_out < 0.4:
            raise InvalidArgumentError(f"held_out is {self.held_out!r}; expected a share between 0 and 0.4")
        if not self.learning_rate > 0:
            raise InvalidArgumentError(f"learning_rate is {self.learning_rate!r}; expected more than 0")


def train_reranker(
    data: str | Path | Sequence[TrainingList],
    out: str | Path,
    *,
    model: str = "0.6b",
    teacher: RerankerProtocol | None = None,
    settings: TrainingSettings | None = None,
    device: str = "auto",
    show_progress: bool = False,
) -> dict[str, Any]:
    """Fine-tune a reranker on judged lists, and compare it with the base on queries held out from everything.

    Training sees the very tokens that inference sees. The best step is chosen on validation queries, and the figures
    before and after are those of the test queries. An interrupted run continues when it is called again.

    Args:
        data: A file of lists (`read_lists`), or the lists themselves, such as those of `mine_lists`.
        out: Folder for `merged` (a checkpoint that every runtime loads), `adapter`, the card and `report.json`.
        model: As for `Reranker`: a preset, a folder or a hub id.
        teacher: A reranker whose scores are learned; for the loss "distillation".
        settings: See `TrainingSettings`.
        device: As for `Reranker`.
        show_progress: Bars on a terminal, log lines elsewhere.

    Returns:
        What `report.json` holds; `improved` is whether nDCG@10 of the test queries rose.

    Raises:
        TrainingError: The data cannot be used, the loss is NaN, the model collapsed, or `out` holds another run.
        MissingDependencyError: The extra `train` is not installed.
    """
    from qwen3_rag.training.loop import measured

    check_installed()
    chosen = settings or TrainingSettings()
    folder = as_path(out, "out")
    base = resolve("reranker", model, None, "huggingface").folder()
    lists = read_lists(as_path(data, "data")) if isinstance(data, str | Path) else list(data)
    _begin(folder, {"model": model, "lists": len(lists)} | asdict(chosen))
    parts = split(lists, chosen.held_out, chosen.seed)
    instruction = resolve_instruction(chosen.instruction, {})
    training = _taught(parts.training, chosen.loss, teacher, instruction, show_progress)
    lora = Lora(chosen.lora_rank, chosen.lora_alpha) if chosen.lora_rank else None
    trained = TrainedReranker(base, lora, device, chosen.dtype, chosen.seed)
    form = RerankFormat(trained.tokens, chosen.max_length)
    items, validation, test = (
        [(one, encode(one, form, instruction)) for one in part] for part in (training, parts.validation, parts.test)
    )
    before = measured(trained, test, chosen.stack)
    state = _run(trained, items, validation, chosen, folder / "checkpoints", show_progress)
    after = measured(trained, test, chosen.stack)
    change = compared(before[MAIN], after[MAIN])
    result: dict[str, Any] = {
        "base": model,
        "settings": asdict(chosen),
        "queries": {"training": len(training), "validation": len(validation), "test": len(test)},
        "documents": sum(len(one.documents) for one in training),
        "steps": state.global_step,
        "best step": state.best_global_step,
        "validation": [
            {"step": row["step"], MAIN: row["eval_ndcg"]} for row in state.log_history if "eval_ndcg" in row
        ],
        "before": mean(before),
        "after": mean(after),
        "change": change,
        "improved": change["difference"] > 0,
        "notes": list(parts.notes),
    }
    trained.save(folder)
    write_card(folder, result)
    (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def _run(
    trained: TrainedReranker,
    items: Sequence[tuple[TrainingList, Encoded]],
    validation: Sequence[tuple[TrainingList, Encoded]],
    settings: TrainingSettings,
    checkpoints: Path,
    show_progress: bool,
) -> Any:
    """Train from the last checkpoint, or from the beginning; returns transformers' state of the run.

    Raises:
        TrainingError: A checkpoint cannot be written.
    """
    from qwen3_rag.training.loop import ListTrainer, last_checkpoint

    steps = settings.epochs * -(-len(items) // settings.batch_lists)
    arguments = _arguments(settings, checkpoints, steps, trained.device.type == "cpu")
    with progress("training", steps, show_progress) as count:
        done = [0]

        def report(step: int) -> None:
            count(step - done[0])
            done[0] = step

        loss = LOSSES[settings.loss]
        trainer = ListTrainer(trained, items, validation, loss, settings.stack, arguments, settings.patience, report)
        checkpoint = last_checkpoint(checkpoints)
        if checkpoint is not None:
            logger.info("continuing from %s", checkpoint.name)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except OSError as error:
            raise TrainingError(
                f"{checkpoints} cannot be written: {error}; run it again to continue from the last checkpoint"
            ) from error
    return trainer.state


def _arguments(settings: TrainingSettings, checkpoints: Path, steps: int, cpu: bool) -> Any:
    """Transformers' settings of a run of so many steps."""
    from transformers import TrainingArguments

    every = max(1, steps // settings.evaluations)
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.batch_lists,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        weight_decay=0.01,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="ndcg",
        greater_is_better=True,
        logging_steps=every,
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Note what the folder's run is, or check that it is the same run.

    Raises:
        TrainingError: The folder holds a finished run, or one with other settings.
    """
    file = folder / "settings.json"
    if (folder / "report.json").exists():
        raise TrainingError(f"{folder} holds a finished run; expected a new folder")
    if file.exists():
        begun = json.loads(file.read_text("utf-8"))
        different = {name: (begun.get(name), value) for name, value in settings.items() if begun.get(name) != value}
        if different:
            raise TrainingError(
                f"{folder} was begun with other settings, so it cannot continue: {different} (before, now); expected "
                "the same, or a new folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def _taught(
    lists: Sequence[TrainingList],
    loss: str,
    teacher: RerankerProtocol | None,
    instruction: str,
    show_progress: bool,
) -> list[TrainingList]:
    """The lists, with the teacher's scores if they are to be learned.

    Raises:
        TrainingError: There is neither a teacher nor its scores.
    """
    if loss != "distillation":
        return list(lists)
    if teacher is None:
        without = next((one for one in lists if one.scores is None), None)
        if without is not None:
            raise TrainingError(f"{without.place}: no scores to learn; expected a teacher, or scores on every line")
        return list(lists)
    taught = []
    with progress("teacher", len(lists), show_progress) as count:
        for one in lists:
            scores = teacher.read(one.query, one.documents, None).log_odds.tolist()
            taught.append(replace(one, scores=tuple(scores)))
            count(1)
    return taught
