"""Training data: queries, each with documents that are judged. Every complaint names file and line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen3_rag.errors import TrainingError

__all__ = ["TrainingList", "normalised", "read_lists"]


@dataclass(frozen=True)
class TrainingList:
    """A query and its documents.

    Attributes:
        place: Where it comes from: file and line, or the query's id.
        query: The query.
        documents: Texts as the reranker reads them; no text twice.
        grades: Grade of each; above 0 is relevant.
        scores: A teacher's log-odds of each, or None.
    """

    place: str
    query: str
    documents: tuple[str, ...]
    grades: tuple[int, ...]
    scores: tuple[float, ...] | None = None

    @property
    def positives(self) -> tuple[str, ...]:
        """The relevant documents."""
        return tuple(text for text, grade in zip(self.documents, self.grades, strict=True) if grade > 0)

    def without(self, unwanted: frozenset[str]) -> "TrainingList":
        """The list without relevant documents whose normalised text is among the unwanted."""
        kept = [
            place
            for place, (text, grade) in enumerate(zip(self.documents, self.grades, strict=True))
            if grade <= 0 or normalised(text) not in unwanted
        ]
        return replace(
            self,
            documents=tuple(self.documents[place] for place in kept),
            grades=tuple(self.grades[place] for place in kept),
            scores=self.scores and tuple(self.scores[place] for place in kept),
        )


def normalised(text: str) -> str:
    """What two spellings of the same text share."""
    return " ".join(text.casefold().split())


def read_lists(path: Path) -> list[TrainingList]:
    """Read training lists: JSON lines with `query`, `positive` and `negative`, each a text or a list of texts.

    `scores`, if there, are a teacher's log-odds of the positives and then the negatives.

    Raises:
        TrainingError: A line cannot be read or used, or a pair is there with opposite labels.
    """
    lists: list[TrainingList] = []
    labels: dict[tuple[str, str], tuple[bool, str]] = {}
    for place, record in _records(path):
        one = _list(place, record)
        for text, grade in zip(one.documents, one.grades, strict=True):
            label, first = labels.setdefault((normalised(one.query), normalised(text)), (grade > 0, place))
            if label != (grade > 0):
                raise TrainingError(
                    f"{place}: {text[:60]!r} is {_word(grade > 0)} for {one.query[:60]!r}; at {first} it is "
                    f"{_word(label)}"
                )
        lists.append(one)
    if not lists:
        raise TrainingError(f"{path} is empty; expected lines with query, positive and negative")
    return lists


def _word(relevant: bool) -> str:
    return "a positive" if relevant else "a negative"


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", json.loads(line)
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise TrainingError(f"{path}:{number}: expected a line of JSON, got {line[:80]!r}") from error


def _list(place: str, record: Any) -> TrainingList:
    if not isinstance(record, Mapping):
        raise TrainingError(f"{place}: expected an object with query, positive and negative, got {record!r:.80}")
    query = record.get("query")
    if not isinstance(query, str) or not query.strip():
        raise TrainingError(f"{place}: query is {query!r}; expected a text that is not empty")
    positives, negatives = (_texts(record.get(name), name, place) for name in ("positive", "negative"))
    documents = dict.fromkeys([*positives, *negatives])
    if len(documents) < len(positives) + len(negatives):
        raise TrainingError(f"{place}: a document is there twice; expected each once, as positive or negative")
    scores = record.get("scores")
    if scores is not None and (
        not isinstance(scores, list)
        or len(scores) != len(documents)
        or not all(isinstance(score, int | float) and score == score for score in scores)
    ):
        raise TrainingError(f"{place}: scores is {scores!r:.80}; expected {len(documents)} numbers")
    grades = (1,) * len(positives) + (0,) * len(negatives)
    return TrainingList(place, query, tuple(documents), grades, None if scores is None else tuple(map(float, scores)))


def _texts(value: Any, name: str, place: str) -> Sequence[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise TrainingError(f"{place}: no {name}; expected a text or a list of texts")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise TrainingError(f"{place}: {name} is {text!r}; expected texts that are not empty")
    return texts
