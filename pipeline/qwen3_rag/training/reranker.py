"""Fine-tunes a reranker, and says honestly whether that helped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3_rag.arguments import as_path
from qwen3_rag.errors import TrainingError
from qwen3_rag.evaluation.figures import MAIN, ByQuery, by_query, mean
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.models.cascade import takes_instructions
from qwen3_rag.models.checkpoints.formats import Encoded, RerankFormat
from qwen3_rag.models.checkpoints.sources import resolve
from qwen3_rag.models.protocols import RerankerProtocol
from qwen3_rag.progress import progress
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.training.lists import TrainingList, read_lists
from qwen3_rag.training.loop import begin, run
from qwen3_rag.training.losses import LOSSES
from qwen3_rag.training.models import Lora, TrainedReranker
from qwen3_rag.training.reporting import finish
from qwen3_rag.training.rows import Rows, encode
from qwen3_rag.training.settings import TrainingSettings
from qwen3_rag.training.splitting import split

__all__ = ["train_reranker"]

Item = tuple[TrainingList, Encoded]
SCORED_TOGETHER = 16  # documents scored at once in an evaluation


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
    chosen = settings or TrainingSettings()
    folder = as_path(out, "out")
    base = resolve("reranker", model, None, "huggingface").folder()
    lists = read_lists(as_path(data, "data")) if isinstance(data, str | Path) else list(data)
    begin(folder, chosen, model=model, lists=len(lists))
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
    outcome = run(
        trained,
        items,
        lambda batch: _loss(trained, batch, chosen),
        lambda: mean(measured(trained, validation, chosen.stack))[MAIN],
        chosen,
        folder,
        show_progress,
    )
    after = measured(trained, test, chosen.stack)
    return finish(folder, "reranker", model, chosen, parts, trained, before, after, outcome)


def _loss(trained: TrainedReranker, batch: Sequence[Item], settings: TrainingSettings) -> Tensor:
    """The mean loss of a batch of lists."""
    log_odds = trained.log_odds(settings.stack([encoded for _, encoded in batch], 0))
    losses = [
        LOSSES[settings.loss](
            part,
            torch.tensor(one.grades, device=part.device),
            None if one.scores is None else torch.tensor(one.scores, device=part.device),
        )
        for part, (one, _) in zip(torch.split(log_odds, [len(e.tails) for _, e in batch]), batch, strict=True)
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def measured(
    trained: TrainedReranker, items: Sequence[Item], stack: Callable[[Sequence[Encoded], int], Rows]
) -> ByQuery:
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
    sentence = instruction if takes_instructions(teacher) else None
    taught = []
    with progress("teacher", len(lists), show_progress) as count:
        for one in lists:
            taught.append(
                replace(one, scores=tuple(teacher.read(one.query, one.documents, sentence).log_odds.tolist()))
            )
            count(1)
    return taught
