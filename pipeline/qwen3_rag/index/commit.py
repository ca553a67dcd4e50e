"""What a commit of a store says: one typed record, parsed from rows of the table `meta` and written back to them.

No other module names these rows. Everything else in `meta`, such as the embedder, is read by key.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from qwen3_rag.errors import IndexCorruptedError

__all__ = ["KEYS", "Checkpoint", "Commit", "IndexKind", "IndexPolicy", "SegmentName", "commit_of", "commit_rows"]

IndexKind = Literal["auto", "flat", "ivf"]


@dataclass(frozen=True)
class SegmentName:
    """The store's record of a segment.

    Attributes:
        file: Name in the store's folder.
        first: First row it covers.
        rows: Number of rows it covers.
        size: Bytes of the file.
        digest: XXH3 of the bytes before the postings and of the postings' digests, which end the file.
    """

    file: str
    first: int
    rows: int
    size: int
    digest: int

    @property
    def stop(self) -> int:
        """Row after the last it covers."""
        return self.first + self.rows


@dataclass(frozen=True)
class Checkpoint:
    """The store's record of an approximate index: its file, the rows it covers, lists visited, measured recall.

    Attributes:
        file: Name in the store's folder.
        generation: Generation of the rows.
        rows: Number of rows covered, from row 0.
        lists: Number of inverted lists.
        visited: Number of lists that a search visits.
        recall: Mean recall@100 over `queries`, against exact search.
        queries: Number of queries used to measure it.
        measured_on: "passages" or "queries given".
        digest: XXH3 of the header and of the lists' digests, which end the file.
        header: Bytes before the lists.
        size: Bytes of the file.
    """

    file: str
    generation: int
    rows: int
    lists: int
    visited: int
    recall: float
    queries: int
    measured_on: str
    digest: int
    header: int
    size: int


@dataclass(frozen=True)
class IndexPolicy:
    """Which dense index to build.

    Attributes:
        kind: "flat" searches exactly, "ivf" approximately, "auto" approximately in large stores.
        recall: Recall@100 that an approximate index must reach.
        missed_at: Number of passages at which the last build missed it; 0 if none did.
    """

    kind: IndexKind = "auto"
    recall: float = 0.99
    missed_at: int = 0


@dataclass(frozen=True)
class Commit:
    """One version of the store.

    Attributes:
        number: Number of the commit.
        generation: Generation of the passage numbers; `optimize` starts a new one.
        rows: Passage numbers in use, including removed passages.
        removed: Number of removed passages.
        last_removal: Number of the last entry in the table of removals.
        documents: Number of documents.
        words: Segments for lexical search, in order of their rows.
        dense: The approximate index, if there is one.
        policy: Which dense index to build.
    """

    number: int = 0
    generation: int = 1
    rows: int = 0
    removed: int = 0
    last_removal: int = 0
    documents: int = 0
    words: tuple[SegmentName, ...] = ()
    dense: Checkpoint | None = None
    policy: IndexPolicy = IndexPolicy()

    @property
    def live(self) -> int:
        """Number of passages that are not removed."""
        return self.rows - self.removed

    @property
    def covered(self) -> int:
        """Number of rows that segments cover, from row 0."""
        return self.words[-1].stop if self.words else 0

    @property
    def derived(self) -> frozenset[str]:
        """Names of the derived files."""
        names = {name.file for name in self.words}
        return frozenset(names | {self.dense.file} if self.dense is not None else names)


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _words(value: Any) -> tuple[SegmentName, ...]:
    return tuple(SegmentName(**segment) for segment in value or ())


def _dense(value: Any) -> Checkpoint | None:
    return None if value is None else Checkpoint(**value)


def _policy(value: Any) -> IndexPolicy:
    if value is None:
        return IndexPolicy()
    policy = IndexPolicy(value["kind"], float(value.get("recall", IndexPolicy.recall)), value.get("hopeless", 0))
    if policy.kind not in get_args(IndexKind):
        raise ValueError(f"{policy.kind!r} is not one of {', '.join(get_args(IndexKind))}")
    return policy


def _described(policy: IndexPolicy) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": policy.kind, "recall": policy.recall}
    return described | ({"hopeless": policy.missed_at} if policy.missed_at else {})


# Rows that every store has, and the attribute of each.
NUMBERS = {
    "commit": "number",
    "generation": "generation",
    "rows": "rows",
    "removed": "removed",
    "documents": "documents",
}
# Rows that a store may lack, the attribute of each and how it is parsed.
OPTIONAL: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "words": ("words", _words),
    "dense": ("dense", _dense),
    "index": ("policy", _policy),
}
KEYS = (*NUMBERS, *OPTIONAL)


def commit_of(values: Mapping[str, str], last_removal: int, path: Path) -> Commit:
    """Parse a commit.

    Args:
        values: The rows of `meta` with a key in `KEYS`.
        last_removal: Number of the last entry in the table of removals.
        path: The database, for error messages.

    Raises:
        IndexCorruptedError: A row is missing or malformed; names its key.
    """
    attributes: dict[str, Any] = {"last_removal": last_removal}
    for key in KEYS:
        attribute, parse = (NUMBERS[key], _number) if key in NUMBERS else OPTIONAL[key]
        if key not in values:
            if key in OPTIONAL:
                continue
            raise IndexCorruptedError(f"{path}: the table meta has no row {key!r}; expected a whole number")
        try:
            attributes[attribute] = parse(json.loads(values[key]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IndexCorruptedError(f"{path}: {key!r} in the table meta is damaged: {error}") from error
    return Commit(**attributes)


def commit_rows(commit: Commit, before: Commit | None = None) -> list[tuple[str, str]]:
    """The rows of `meta`, key and value, that record a commit; with `before`, only those that have changed since."""
    rows, known = _rows(commit), {} if before is None else _rows(before)
    return [(key, value) for key, value in rows.items() if known.get(key) != value]


def _rows(commit: Commit) -> dict[str, str]:
    values = {
        "commit": commit.number,
        "generation": commit.generation,
        "rows": commit.rows,
        "removed": commit.removed,
        "documents": commit.documents,
        "words": [asdict(name) for name in commit.words],
        "dense": None if commit.dense is None else asdict(commit.dense),
        "index": _described(commit.policy),
    }
    return {key: json.dumps(value) for key, value in values.items()}
