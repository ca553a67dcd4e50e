"""Training lists from judged queries: hard negatives are what the pipeline itself finds."""

from collections.abc import Sequence

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import InvalidArgumentError, TrainingError
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.progress import progress
from qwen3_rag.ranking import Retrieved, SearchOptions
from qwen3_rag.training.lists import TrainingList, normalised

__all__ = ["mine_lists"]

TOGETHER = 64  # queries searched at once


def mine_lists(
    pipeline: Pipeline,
    judged: Judged,
    *,
    negatives: int = 7,
    window: tuple[int, int] = (1, 50),
    margin: float | None = None,
    most_positives: int = 2,
    show_progress: bool = False,
) -> list[TrainingList]:
    """A list for each judged query: its relevant passages, and passages that the first stage ranks high.

    Args:
        pipeline: The store with the judged documents; its first stage finds the candidates.
        judged: Queries with judgements.
        negatives: Passages that are not relevant, evenly spread over the window.
        window: First and last rank of the negatives, from 1.
        margin: Leave out negatives whose first-stage score is less than this below the best relevant passage's: they
            may be relevant, and only nobody judged them.
        most_positives: Relevant passages of a list, the best ranked.
        show_progress: A bar on a terminal, log lines elsewhere.

    Raises:
        TrainingError: No query has a relevant passage and a negative in the store.
    """
    at_least(negatives, 1, "negatives")
    at_least(most_positives, 1, "most_positives")
    first, last = window
    if not 1 <= first <= last:
        raise InvalidArgumentError(f"window is {window}; expected a first and a last rank, from 1")
    lists = []
    names = list(judged.queries)
    with progress("mining", len(names), show_progress) as count:
        for start in range(0, len(names), TOGETHER):
            group = names[start : start + TOGETHER]
            texts = [judged.queries[name] for name in group]
            candidates = pipeline.searcher.retrieved(texts, SearchOptions(top_k=1, candidates=last))
            for name, found in zip(group, candidates, strict=True):
                one = _list(pipeline, judged, name, found, negatives, first, margin, most_positives)
                if one is not None:
                    lists.append(one)
                count(1)
    if not lists:
        raise TrainingError(
            f"none of {len(names)} queries has a relevant passage and a negative among its first {last}; expected the "
            f"store of {judged.name}"
        )
    return lists


def _list(
    pipeline: Pipeline,
    judged: Judged,
    name: str,
    found: Sequence[Retrieved],
    negatives: int,
    first: int,
    margin: float | None,
    most_positives: int,
) -> TrainingList | None:
    grades = judged.grades[name]
    relevant = [c for c in found if grades.get(c.passage.document_id, 0) > 0][:most_positives]
    if not relevant:
        return None
    limit = None if margin is None else relevant[0].score - margin
    known = {normalised(c.passage.text) for c in found if grades.get(c.passage.document_id, 0) > 0}
    others = {
        normalised(c.passage.text): c
        for c in reversed(found)
        if c.rank >= first
        and grades.get(c.passage.document_id, 0) <= 0
        and normalised(c.passage.text) not in known
        and (limit is None or c.score <= limit)
    }
    spread = list(others.values())[::-1]
    step = max(1, len(spread) // negatives)
    chosen = [*relevant, *spread[::step][:negatives]]
    if len(chosen) == len(relevant):
        return None
    texts = {c.passage.searched(pipeline.store.titles): grades.get(c.passage.document_id, 0) for c in chosen}
    return TrainingList(name, judged.queries[name], tuple(texts), tuple(max(grade, 0) for grade in texts.values()))
