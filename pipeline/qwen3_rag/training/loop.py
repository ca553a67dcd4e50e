"""transformers' trainer with losses and evaluations of this package, from the beginning or the last checkpoint."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from qwen3_rag.errors import TrainingError
from qwen3_rag.evaluation.figures import check_installed
from qwen3_rag.progress import progress
from qwen3_rag.training.settings import Settings

__all__ = ["Loop", "begin", "run"]

logger = logging.getLogger(__name__)
METRIC = "eval_ndcg"


class Loop(Trainer):
    """Trains a model on items; evaluates by a function of its own.

    Args:
        model: The model whose parameters are trained.
        items: Training data, of whatever type `loss_of` takes.
        loss_of: A batch's loss.
        score: nDCG@10 of the validation lists, with the current weights.
        arguments: transformers' settings.
        patience: Evaluations without a better one before training stops.
        report: Called with the number of completed steps, for a progress bar.
    """

    def __init__(
        self,
        model: Any,
        items: Sequence[Any],
        loss_of: Callable[[list[Any]], Tensor],
        score: Callable[[], float],
        arguments: TrainingArguments,
        patience: int,
        report: Callable[[int], None],
    ) -> None:
        self.loss_of, self.score = loss_of, score
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # `loss_of` computes on one GPU; the trainer would multiply the batch by their number
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=list(items),
            eval_dataset=[None],
            data_collator=lambda batch: list(batch),  # type: ignore[arg-type,return-value]
            callbacks=[EarlyStoppingCallback(patience), _Steps(report)],
        )
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: list[Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch."""
        loss = self.loss_of(inputs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step}: the scores overflowed; expected a lower "
                "learning_rate, or dtype='float32'"
            )
        return (loss, None) if return_outputs else loss

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # tensors are made in `loss_of`

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise where transformers would warn; weights that are tied to others are not missing."""
        model: Any = self.model
        missing = set(load_result.missing_keys) - set(model._tied_weights_keys or ())
        if missing or load_result.unexpected_keys:
            raise TrainingError(
                f"a checkpoint lacks {sorted(missing)} and has unexpected {sorted(load_result.unexpected_keys)}; "
                "expected the model's weights"
            )

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """nDCG@10 of the validation lists."""
        metrics = {METRIC: self.score()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Steps(TrainerCallback):
    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        self.report(state.global_step)


def begin(folder: Path, settings: Settings, **facts: Any) -> None:
    """Check that the run can begin; note what it is, or check that it is the one that the folder holds.

    Raises:
        TrainingError: The folder holds a finished run, or one with other settings; or several processes were started.
        MissingDependencyError: The extra `train` is not installed.
    """
    check_installed("peft", purpose="training", extra="train")
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise TrainingError(f"WORLD_SIZE is {processes}; expected one process: a run uses one GPU")
    file, described = folder / "settings.json", json.loads(json.dumps(facts | asdict(settings)))
    if (folder / "report.json").exists():
        raise TrainingError(f"{folder} holds a finished run; expected a new folder")
    if file.exists():
        begun = json.loads(file.read_text("utf-8"))
        different = {name: (begun.get(name), value) for name, value in described.items() if begun.get(name) != value}
        if different:
            raise TrainingError(
                f"{folder} was begun with other settings, so it cannot continue: {different} (before, now); expected "
                "the same, or a new folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(described, indent=1) + "\n", "utf-8")


def run(
    trained: Any,
    items: Sequence[Any],
    loss_of: Callable[[list[Any]], Tensor],
    score: Callable[[], float],
    settings: Settings,
    folder: Path,
    show_progress: bool,
) -> dict[str, Any]:
    """Train from the last checkpoint in the folder, or from the beginning; leaves the best weights in the model.

    Args:
        trained: The model, as `training.models` has them.
        items: Training data.
        loss_of: A batch's loss.
        score: nDCG@10 of the validation lists.
        settings: Of the run.
        folder: Of the run.
        show_progress: A bar on a terminal, log lines elsewhere.

    Returns:
        Number of steps, the best step, and nDCG@10 at each evaluation.

    Raises:
        TrainingError: A checkpoint cannot be written.
    """
    checkpoints = folder / "checkpoints"
    steps = settings.epochs * -(-len(items) // settings.batch_lists)
    with progress("training", steps, show_progress) as count:
        done = [0]

        def report(step: int) -> None:
            count(step - done[0])
            done[0] = step

        arguments = _arguments(settings, checkpoints, steps, trained.device.type == "cpu")
        loop = Loop(trained.model, items, loss_of, score, arguments, settings.patience, report)
        checkpoint = _last_checkpoint(checkpoints)
        if checkpoint is not None:
            logger.info("continuing from %s", checkpoint.name)
        try:
            loop.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except OSError as error:
            raise TrainingError(
                f"{checkpoints} cannot be written: {error}; run it again to continue from the last checkpoint"
            ) from error
    state = loop.state
    return {
        "steps": state.global_step,
        "best step": state.best_global_step,
        "validation": {str(row["step"]): row[METRIC] for row in state.log_history if METRIC in row},
    }


def _arguments(settings: Settings, checkpoints: Path, steps: int, cpu: bool) -> TrainingArguments:
    """Transformers' settings of a run of so many steps."""
    every = max(1, steps // settings.evaluations)
    together = settings.batch_lists if settings.in_batch else 1
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=settings.batch_lists // together,
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


def _last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of an interrupted run; incomplete ones are removed."""
    complete: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        # transformers writes this file last.
        if (path / "trainer_state.json").is_file():
            complete[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return complete[max(complete)] if complete else None
