"""transformers' trainer with this package's rows, losses and evaluation."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from qwen3_rag.errors import TrainingError
from qwen3_rag.evaluation.figures import MAIN, ByQuery, by_query
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.models.checkpoints.formats import Encoded
from qwen3_rag.training.lists import TrainingList
from qwen3_rag.training.losses import Loss
from qwen3_rag.training.models import TrainedReranker
from qwen3_rag.training.rows import Rows

__all__ = ["Item", "ListTrainer", "last_checkpoint", "measured"]

METRIC = "eval_ndcg"
Item = tuple[TrainingList, Encoded]
Stack = Callable[[Sequence[Encoded], int], Rows]
SCORED_TOGETHER = 16  # documents scored at once in an evaluation


class ListTrainer(Trainer):
    """Trains on lists; evaluates by nDCG@10 of held-out lists.

    Args:
        trained: The model.
        items: Training lists with their tokens.
        validation: Held-out lists.
        loss: Loss on a list's log-odds.
        stack: Makes rows of lists.
        arguments: transformers' settings.
        patience: Evaluations without a better one before training stops.
        report: Called with the number of completed steps, for a progress bar.
    """

    def __init__(
        self,
        trained: TrainedReranker,
        items: Sequence[Item],
        validation: Sequence[Item],
        loss: Loss,
        stack: Stack,
        arguments: TrainingArguments,
        patience: int,
        report: Callable[[int], None],
    ) -> None:
        self.trained, self.validation, self.loss, self.stack = trained, validation, loss, stack
        super().__init__(
            model=trained.model,
            args=arguments,
            train_dataset=list(items),
            eval_dataset=list(validation),
            data_collator=lambda batch: list(batch),  # type: ignore[arg-type,return-value]
            callbacks=[EarlyStoppingCallback(patience), _Steps(report)],
        )
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: list[Item], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of a batch of lists."""
        rows = self.stack([encoded for _, encoded in inputs], 0)
        parts = torch.split(self.trained.log_odds(rows), [len(encoded.tails) for _, encoded in inputs])
        losses = [
            self.loss(
                part,
                torch.tensor(one.grades, device=part.device),
                None if one.scores is None else torch.tensor(one.scores, device=part.device),
            )
            for part, (one, _) in zip(parts, inputs, strict=True)
        ]
        loss = torch.stack(losses).mean()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step}, list {inputs[0][0].place}: the log-odds "
                "overflowed; expected a lower learning_rate, or dtype='float32'"
            )
        return (loss, None) if return_outputs else loss

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # rows are made and moved in `compute_loss`

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """nDCG@10 of the validation lists."""
        values = measured(self.trained, self.validation, self.stack)
        metrics = {METRIC: sum(values[MAIN].values()) / len(values[MAIN])}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Steps(TrainerCallback):
    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        self.report(state.global_step)


@torch.no_grad()
def measured(trained: TrainedReranker, items: Sequence[Item], stack: Stack) -> ByQuery:
    """All measures of each list, by its place.

    Raises:
        TrainingError: The model gives NaN, or the same score to every document.
    """
    trained.model.eval()
    run: dict[str, dict[str, float]] = {}
    grades: dict[str, dict[str, int]] = {}
    spreads = []
    for one, encoded in items:
        scores: list[float] = []
        for start in range(0, len(encoded.tails), SCORED_TOGETHER):
            part = Encoded(encoded.head, encoded.tails[start : start + SCORED_TOGETHER], [])
            scores += trained.log_odds(stack([part], 0)).tolist()
        if not all(map(math.isfinite, scores)):
            raise TrainingError(f"the model gives NaN for {one.place}; expected a lower learning_rate")
        spreads.append(max(scores) - min(scores))
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        run[one.place] = {str(i): scores[i] for i in order}
        grades[one.place] = {str(i): grade for i, grade in enumerate(one.grades)}
    if max(spreads) < 1e-5:
        raise TrainingError(
            f"the model gives every document the same log-odds ({scores[0]:.3f}): it has collapsed; expected a lower "
            "learning_rate"
        )
    trained.model.train()
    return by_query(Judged("held out", {one.place: one.query for one, _ in items}, grades), run)


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of an interrupted run; incomplete ones are removed."""
    complete: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        # transformers writes this file last.
        if (path / "trainer_state.json").is_file():
            complete[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return complete[max(complete)] if complete else None
