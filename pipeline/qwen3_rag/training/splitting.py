"""Splits judged queries so that nothing that is learned can be looked up in what is held out."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwen3_rag.errors import TrainingError
from qwen3_rag.training.lists import TrainingList, normalised

__all__ = ["Split", "split"]

FEWEST = 5  # queries in each held-out part


@dataclass(frozen=True)
class Split:
    """Three parts that share no query and no relevant document.

    Attributes:
        training: For training.
        validation: For choosing the best step.
        test: For the figures before and after.
        notes: What was left out to keep the parts apart.
    """

    training: list[TrainingList]
    validation: list[TrainingList]
    test: list[TrainingList]
    notes: tuple[str, ...] = ()


def split(lists: Sequence[TrainingList], share: float, seed: int) -> Split:
    """Hold out a share of the queries for validation, and as many for the test.

    Queries that are spelled the same or share a relevant document stay together. Where that ties nearly all of them to
    one another, only equal queries do, and the training lists lose the relevant documents of held-out queries instead.

    Args:
        lists: Lists with relevant documents.
        share: Share of the queries in each of the held-out parts.
        seed: Of the random choice.

    Raises:
        TrainingError: There are too few queries.
    """
    quota = max(FEWEST, round(share * len(lists)))
    if len(lists) < 3 * quota:
        raise TrainingError(
            f"there are {len(lists)} queries; expected at least {3 * FEWEST}, so that {quota} can be held out for "
            f"validation and {quota} for the test"
        )
    by_document = _filled(_groups(lists, documents=True), quota, seed)
    if by_document is not None:
        training, validation, test = ([lists[i] for i in part] for part in by_document)
        return Split(training, validation, test)
    by_query = _filled(_groups(lists, documents=False), quota, seed)
    if by_query is None:
        raise TrainingError(f"most of the {len(lists)} queries are the same; expected different ones")
    training, validation, test = ([lists[i] for i in part] for part in by_query)
    tested = _positives(test)
    validation = [one for one in (one.without(tested) for one in validation) if one.positives]
    held_out = tested | _positives(validation)
    kept = [one for one in (one.without(held_out) for one in training) if one.positives]
    left_out = len(training) - len(kept)
    note = f"{left_out} training queries were left out: their relevant documents are those of held-out queries"
    return Split(kept, validation, test, (note,) if left_out else ())


def _positives(lists: Iterable[TrainingList]) -> frozenset[str]:
    return frozenset(normalised(text) for one in lists for text in one.positives)


def _groups(lists: Sequence[TrainingList], documents: bool) -> list[list[int]]:
    """Numbers of lists that have to stay together."""
    parents = list(range(len(lists)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for number, one in enumerate(lists):
        keys = [("query", normalised(one.query))]
        keys += [("document", normalised(text)) for text in one.positives] if documents else []
        for key in keys:
            parents[root(number)] = root(first.setdefault(key, number))
    groups: dict[int, list[int]] = {}
    for number in range(len(lists)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def _filled(groups: list[list[int]], quota: int, seed: int) -> tuple[list[int], list[int], list[int]] | None:
    """Training, validation and test in their order, or None if the groups are too large to hold out that many."""
    random.Random(seed).shuffle(groups)
    training, validation, test = list[int](), list[int](), list[int]()
    for group in groups:
        for part in (test, validation):
            if len(part) < quota and len(part) + len(group) <= quota + quota // 2:
                part += group
                break
        else:
            training += group
    if min(len(validation), len(test)) < quota or len(training) < quota:
        return None
    return sorted(training), sorted(validation), sorted(test)
