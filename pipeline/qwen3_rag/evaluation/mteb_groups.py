"""MTEB's tasks by name, and the groups of the Qwen3 paper, beside the figures that it publishes.

Published: arXiv:2506.05176, over the top 100 of Qwen3-Embedding-0.6B; means of the main scores, times 100.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen3_rag.errors import MissingDependencyError, UnknownNameError
from qwen3_rag.evaluation.mteb_models import MtebPipeline
from qwen3_rag.models.checkpoints.sources import PRESETS
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol

__all__ = ["GROUPS", "PUBLISHED", "compared_with_published", "evaluate_mteb", "tasks_of"]

# Group to one of mteb's benchmarks, of which the retrieval tasks are meant, or to its tasks.
GROUPS: dict[str, str | tuple[str, ...]] = {
    "MTEB-R": "MTEB(eng, v2)",
    "CMTEB-R": "MTEB(cmn, v1)",
    "MMTEB-R": "MTEB(Multilingual, v2)",
    "MLDR": ("MultiLongDocRetrieval",),
    "MTEB-Code": "MTEB(Code, v1)",
    "FollowIR": ("Core17InstructionRetrieval", "News21InstructionRetrieval", "Robust04InstructionRetrieval"),
}
_FIRST_STAGE = "Qwen3-Embedding-0.6B"
PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(GROUPS, values, strict=True))
    for name, values in {
        _FIRST_STAGE: (61.82, 71.02, 64.64, 50.26, 75.41, 5.09),
        "Qwen3-Reranker-0.6B": (65.80, 71.31, 66.36, 67.28, 73.42, 5.41),
        "Qwen3-Reranker-4B": (69.76, 75.94, 72.74, 69.97, 81.20, 14.84),
        "Qwen3-Reranker-8B": (69.02, 77.45, 72.94, 70.19, 81.22, 8.05),
    }.items()
}
TOLERANCE = 0.5


def tasks_of(name: str) -> list[Any]:
    """The tasks of a group, or the task with that name.

    Raises:
        UnknownNameError: There is neither.
    """
    mteb = _mteb()
    group = GROUPS.get(name)
    if isinstance(group, str):
        return [task for task in mteb.get_benchmark(group).tasks if task.metadata.type == "Retrieval"]
    try:
        return [mteb.get_task(task) for task in group or (name,)]
    except KeyError:
        raise UnknownNameError("task of MTEB", name, list(GROUPS), "Or the name of one of mteb's tasks.") from None


def evaluate_mteb(
    names: Sequence[str],
    out: str | Path,
    *,
    embedder: str | EmbedderProtocol = "0.6b",
    reranker: str | RerankerProtocol | None = "0.6b",
    candidates: int = 100,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Run mteb's tasks with a pipeline, and write `mteb.json` to `out`. Finished tasks are not run again.

    Args:
        names: Tasks and groups (`GROUPS`).
        out: Folder for results, predictions and stores.
        embedder: First stage.
        reranker: Second stage; None for the first stage alone.
        candidates: Passages that the reranker scores.
        show_progress: Show mteb's bars.

    Returns:
        Main scores times 100 by task, and for each group its mean, the published figure and whether they differ.
    """
    mteb = _mteb()
    tasks = {name: tasks_of(name) for name in names}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model = MtebPipeline(folder / "stores", embedder, reranker, candidates=candidates)
    cache = mteb.ResultCache(cache_path=folder / "results")
    scores: dict[str, float] = {}
    try:
        for task in {each.metadata.name: each for group in tasks.values() for each in group}.values():
            result = mteb.evaluate(
                model,
                task,
                cache=cache,
                co2_tracker=False,
                prediction_folder=folder / "predictions",
                show_progress_bar=show_progress,
            )
            scores[task.metadata.name] = 100 * float(result.task_results[0].get_score())
    finally:
        model.close()
    means = {name: float(np.mean([scores[task.metadata.name] for task in tasks[name]])) for name in names}
    report = {"tasks": scores, "groups": compared_with_published(means, _official(embedder, reranker))}
    draft = folder / ".mteb.json"
    draft.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    draft.replace(folder / "mteb.json")
    return report


def compared_with_published(means: dict[str, float], model: str | None) -> dict[str, dict[str, Any]]:
    """Each group's mean, the figure published for the model, and whether they differ by more than `TOLERANCE`."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in means.items():
        published = PUBLISHED.get(model or "", {}).get(name)
        differs = None if published is None else abs(value - published) > TOLERANCE
        rows[name] = {"score": round(value, 2), "published": published, "differs": differs}
    return rows


def _official(embedder: object, reranker: object) -> str | None:
    """The row of `PUBLISHED` that two models, given by name, belong to."""

    def base(kind: Any, model: object) -> str:
        preset = PRESETS[kind].get(model.lower()) if isinstance(model, str) else None
        name = preset.model if preset else model
        return name.rpartition("/")[2] if isinstance(name, str) else ""

    if base("embedder", embedder) != _FIRST_STAGE:
        return None
    second = _FIRST_STAGE if reranker is None else base("reranker", reranker)
    return second if second in PUBLISHED else None


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise MissingDependencyError("mteb", "the MTEB benchmarks", "pip install 'qwen3-rag[mteb]'") from error
    return mteb
