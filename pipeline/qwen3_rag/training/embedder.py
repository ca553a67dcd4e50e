"""Fine-tunes an embedder, and says honestly whether that helped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from qwen3_rag.arguments import as_path
from qwen3_rag.errors import InvalidArgumentError, TrainingError
from qwen3_rag.evaluation.figures import MAIN, ByQuery, by_query, mean
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.models.checkpoints.formats import EmbedFormat
from qwen3_rag.models.checkpoints.sources import resolve
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.training.lists import TrainingList, normalised, read_lists
from qwen3_rag.training.loop import begin, run
from qwen3_rag.training.models import Lora, TrainedEmbedder
from qwen3_rag.training.reporting import finish
from qwen3_rag.training.settings import EmbedderSettings
from qwen3_rag.training.splitting import split

__all__ = ["contrastive", "train_embedder"]

TOGETHER = 16  # texts embedded at once in an evaluation
DEPTH = 100  # documents of a run


def train_embedder(
    data: str | Path | Sequence[TrainingList],
    out: str | Path,
    *,
    model: str = "0.6b",
    settings: EmbedderSettings | None = None,
    device: str = "auto",
    show_progress: bool = False,
) -> dict[str, Any]:
    """Fine-tune a Qwen3 embedder: each query close to its document, far from its negatives and those of its batch.

    The figures are those of exact search for the test queries among the documents of all lists. Arguments, results and
    errors are those of `train_reranker`; the instruction is that of the queries.
    """
    chosen = settings or EmbedderSettings()
    folder = as_path(out, "out")
    base = resolve("embedder", model, None, "huggingface").folder()
    lists = read_lists(as_path(data, "data")) if isinstance(data, str | Path) else list(data)
    begin(folder, chosen, model=model, lists=len(lists))
    parts = split(lists, chosen.held_out, chosen.seed)
    lora = Lora(chosen.lora_rank, chosen.lora_alpha) if chosen.lora_rank else None
    trained = TrainedEmbedder(base, lora, device, chosen.dtype, chosen.seed)
    if (most := max(chosen.dimensions, default=0)) > trained.dimensions:
        raise InvalidArgumentError(f"dimensions has {most}; this model gives {trained.dimensions}")
    work = _Work(trained, chosen, lists)
    before = work.measured(parts.test)
    outcome = run(
        trained,
        parts.training,
        work.loss,
        lambda: mean(work.measured(parts.validation))[MAIN],
        chosen,
        folder,
        show_progress,
    )
    after = work.measured(parts.test)
    return finish(folder, "embedder", model, chosen, parts, trained, before, after, outcome)


class _Work:
    """Losses and figures of an embedder, from inference's token ids.

    Args:
        trained: The model.
        settings: Of the run.
        lists: All lists; their documents are what test queries are searched in.
    """

    def __init__(self, trained: TrainedEmbedder, settings: EmbedderSettings, lists: Sequence[TrainingList]) -> None:
        self.trained, self.settings = trained, settings
        self.form = EmbedFormat(trained.tokens, settings.max_length)
        self.instruction = resolve_instruction(settings.instruction, {})
        self.pool = list(dict.fromkeys(text for one in lists for text in one.documents))
        for one in lists:
            for text, ids in zip(one.documents, trained.tokens.encode(one.documents), strict=True):
                if len(ids) >= settings.max_length:
                    raise TrainingError(
                        f"{one.place}: {text[:60]!r}… has {len(ids)} tokens; expected fewer than "
                        f"max_length={settings.max_length}"
                    )

    def loss(self, batch: list[TrainingList]) -> Tensor:
        """Contrastive loss of a batch: a relevant document of each list, its negatives, and those of the others."""
        queries = self.trained.states(self.form.queries([one.query for one in batch], self.instruction).ids)
        documents: list[str] = []
        targets = []
        for one in batch:
            targets.append(len(documents))
            relevant = set(one.positives)
            documents += [one.positives[0], *(text for text in one.documents if text not in relevant)]
        known = [{normalised(text) for text in one.positives} for one in batch]
        banned = torch.tensor(
            [
                [place != target and normalised(text) in mine for place, text in enumerate(documents)]
                for target, mine in zip(targets, known, strict=True)
            ]
        )
        states = self.trained.states(self.form.documents(documents).ids)
        dimensions = (self.trained.dimensions, *self.settings.dimensions)
        return contrastive(queries, states, torch.tensor(targets), banned, self.settings.temperature, dimensions)

    @torch.no_grad()
    def measured(self, lists: Sequence[TrainingList]) -> ByQuery:
        """All measures of an exact search for each query.

        Raises:
            TrainingError: The model gives NaN, or the same vector to every document.
        """
        self.trained.model.eval()
        documents = self._vectors(self.form.documents(self.pool).ids)
        queries = self._vectors(self.form.queries([one.query for one in lists], self.instruction).ids)
        self.trained.model.train()
        scores = queries @ documents.T
        if not torch.isfinite(scores).all():
            raise TrainingError("the model gives vectors of NaN; expected a lower learning_rate")
        if float((documents - documents[0]).abs().max()) < 1e-4:
            raise TrainingError(
                "the model gives every document the same vector: it has collapsed; expected a lower learning_rate"
            )
        run: dict[str, dict[str, float]] = {}
        grades: dict[str, Mapping[str, int]] = {}
        for one, row in zip(lists, scores, strict=True):
            values, places = row.topk(min(DEPTH, len(self.pool)))
            run[one.place] = {str(place): value for place, value in zip(places.tolist(), values.tolist(), strict=True)}
            relevant = {normalised(text) for text in one.positives}
            grades[one.place] = {str(i): int(normalised(text) in relevant) for i, text in enumerate(self.pool)}
        queries_of = {one.place: one.query for one in lists}
        return by_query(Judged("held out", queries_of, {name: dict(of) for name, of in grades.items()}), run)

    def _vectors(self, ids: list[list[int]]) -> Tensor:
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = [
            self.trained.states([ids[i] for i in order[start : start + TOGETHER]])
            for start in range(0, len(ids), TOGETHER)
        ]
        states = normalize(torch.cat(parts), dim=1)
        return states[torch.tensor(order).argsort()]


def contrastive(
    queries: Tensor,
    documents: Tensor,
    targets: Tensor,
    banned: Tensor,
    temperature: float,
    dimensions: Sequence[int],
) -> Tensor:
    """InfoNCE (van den Oord et al., 2018), the mean over leading dimensions (Kusupati et al., 2022).

    Args:
        queries: States (n, hidden) of queries.
        documents: States (m, hidden) of documents.
        targets: Place of each query's document: int64 (n,).
        banned: bool (n, m), documents that are relevant too and must not count as negatives.
        temperature: Divides the cosines.
        dimensions: Numbers of leading values that are compared.
    """
    losses = []
    for size in dimensions:
        cosines = normalize(queries[:, :size], dim=1) @ normalize(documents[:, :size], dim=1).T
        logits = (cosines / temperature).masked_fill(banned.to(cosines.device), -torch.inf)
        losses.append(cross_entropy(logits, targets.to(cosines.device)))
    return torch.stack(losses).mean()
