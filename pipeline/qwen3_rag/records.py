"""What goes in and what comes out: documents, hits, results."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from qwen3_rag.arguments import shown
from qwen3_rag.errors import InvalidArgumentError

__all__ = [
    "Document",
    "Entry",
    "Hit",
    "IndexReport",
    "Results",
    "heading_path",
    "headings_of",
    "passage_text",
    "row_of_path",
    "same_as_stored",
]

INT64 = range(-(2**63), 2**63)
DEEPEST = 100  # lists and objects in one another in metadata; Python's json ends at about ten times that

HEADINGS = " > "  # between the headings of a path


def heading_path(headings: Sequence[str], row: str | None = None) -> str | None:
    """Headings in one text, as a store keeps them: `Setup > Linux`; a table's first row follows on its own line."""
    lines = (" ".join(heading.split()).replace(HEADINGS, " › ") for heading in headings)
    path = HEADINGS.join(line for line in lines if line)
    return "\n".join([path] + ([row] if row else [])) or None


def headings_of(path: str | None) -> tuple[str, ...]:
    """The headings in a text of `heading_path`."""
    line = (path or "").partition("\n")[0]
    return tuple(line.split(HEADINGS)) if line else ()


def row_of_path(path: str | None) -> str | None:
    """The table's first row in a text of `heading_path`; None if there is none."""
    return (path or "").partition("\n")[2] or None


def passage_text(text: str, title: str | None, path: str | None = None, titles: bool = True) -> str:
    """What the models and the words index see of a passage: title, headings and a table's first row precede the text.

    A heading that the text itself begins with is not said twice.

    Args:
        text: The passage.
        title: Its document's title.
        path: Its headings, as `heading_path` gives them.
        titles: False for the text alone.
    """
    if not titles:
        return text
    line, _, row = (path or "").partition("\n")
    above, _, own = line.rpartition(HEADINGS)
    if own and own in text.partition("\n")[0]:
        line = above
    return "\n".join([part for part in (title, line, row) if part] + [text])


@dataclass(frozen=True)
class Document:
    """A text to search, with its id, title, source and metadata.

    Attributes:
        text: The text; offsets of hits count its characters.
        id: Name by which it is replaced, deleted and returned; by default a hash of the text.
        title: Stands before the text in what is embedded and reranked.
        source: Where it comes from, such as a file's path.
        metadata: JSON values by which it can be filtered and which come back with its hits.

    Raises:
        InvalidArgumentError: A value of the wrong type, or text that is not valid Unicode.
    """

    text: str
    id: str = None  # type: ignore[assignment]  # None is replaced at once, so that readers always find a str
    title: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text(self.text, "text", required=True)
        for name in ("id", "title", "source"):
            _check_text(getattr(self, name), name, required=False)
        if self.id is None:
            object.__setattr__(self, "id", hashlib.sha256(self.text.encode()).hexdigest()[:32])
        elif not self.id:
            raise InvalidArgumentError("id is ''; expected a name that is not empty, or None")
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata, self.id))


def _check_text(value: object, name: str, *, required: bool) -> None:
    if value is None and not required:
        return
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is {shown(value)} ({type(value).__name__}); expected a text (str)")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{name} has a lone surrogate at character {error.start}: {value[error.start : error.start + 20]!r}; "
            "expected valid Unicode"
        ) from None


def _checked_metadata(metadata: object, owner: str) -> dict[str, Any]:
    """A copy as it will be read back: tuples are lists, and later changes by the caller do not reach it."""
    if not isinstance(metadata, Mapping):
        raise InvalidArgumentError(
            f"metadata of {owner!r} is {shown(metadata)}; expected a mapping of names to JSON values"
        )
    for name, value in metadata.items():
        if not isinstance(name, str):
            raise InvalidArgumentError(f"metadata of {owner!r} has the name {shown(name)}; expected a text (str)")
        if isinstance(value, str):
            continue
        nested = isinstance(value, list | tuple | dict)
        if nested and _too_deep(value):
            raise InvalidArgumentError(
                f"metadata[{name!r}] of {owner!r} is {shown(value)[:60]}…; expected at most {DEEPEST} nested levels"
            )
        for number in value if nested else (value,):
            if isinstance(number, int) and number not in INT64:
                raise InvalidArgumentError(
                    f"metadata[{name!r}] of {owner!r} is {shown(number)}; expected at most 64 bits"
                )
    try:
        written = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False)
        written.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"metadata of {owner!r} is not JSON: {error}; it is {shown(metadata)[:120]}"
        ) from None
    read_back: dict[str, Any] = json.loads(written)
    return read_back


def _too_deep(value: object) -> bool:
    """Whether lists and objects are nested past the limit; iterative, because recursion has its own limit."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict | list | tuple):
            if depth > DEEPEST:
                return True
            stack += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
    return False


@dataclass(frozen=True)
class Entry:
    """A document in the list of a store's documents.

    Attributes:
        id: Its id.
        title: Its title.
        source: Its source.
        passages: Number of its passages.
    """

    id: str
    title: str | None
    source: str | None
    passages: int


def same_as_stored(one: Document, other: Document | None) -> bool:
    """Whether two documents are stored the same way: in metadata 1, 1.0 and True differ; key order does not matter."""
    if other is None or (one.id, one.title, one.source, one.text) != (other.id, other.title, other.source, other.text):
        return False
    first, second = (json.dumps(dict(document.metadata), sort_keys=True) for document in (one, other))
    return first == second


@dataclass(frozen=True)
class Hit:
    """A passage returned by a search.

    Attributes:
        id: The passage's name, the document's id and its place in it: "guide#2".
        document_id: The document's id.
        text: The passage, `document.text[start:end]`; with its neighbours if requested.
        title: The document's title.
        source: The document's source.
        page: Page in the source, from 1; None if it has no pages.
        headings: Headings above the passage, from the outermost to the innermost.
        start: First character of the passage in the document's text.
        end: Character after its last.
        score: Reranker's probability of yes; None if it was not reranked.
        log_odds: The same as logit(yes) − logit(no); None if it was not reranked.
        rank: Place in the results; 1 is best.
        retrieval_score: First stage's score: cosine for dense, BM25 for lexical, fused for hybrid.
        retrieval_rank: Place in the first stage; 1 is best.
        reranked: Whether the reranker scored it.
        metadata: The document's metadata.
        probability: Probability that the passage is relevant, by the store's calibration; None without one.
        context: Descriptions of the document's path and of the folders above it, the longest path first.
    """

    id: str
    document_id: str
    text: str
    title: str | None
    source: str | None
    page: int | None
    headings: tuple[str, ...]
    start: int
    end: int
    score: float | None
    log_odds: float | None
    rank: int
    retrieval_score: float
    retrieval_rank: int
    reranked: bool
    metadata: Mapping[str, Any]
    probability: float | None = None
    context: tuple[str, ...] = ()

    def cite(self) -> str:
        """Where the passage stands, for a reader: `manual.pdf, p. 12, § Setup > Linux`.

        The source comes first, by its name if it is a file. A document that is only one of its source's, such as a row
        of a table, is named too: `Opening hours (faq.csv)`.
        """
        source = self.source or ""
        file = source if "://" in source else PurePath(source).name
        own = self.title or self.document_id
        name = own if not file else file if self.document_id == source else f"{own} ({file})"
        page = f"p. {self.page}" if self.page is not None else ""
        section = f"§ {HEADINGS.join(self.headings)}" if self.headings else ""
        return ", ".join(part for part in (name, page, section) if part)


class Results(list[Hit]):
    """Hits, best first.

    Attributes:
        mode: Mode of the first stage: "dense", "lexical" or "hybrid".
        timings: Seconds of each stage: "embed", "retrieve", "rerank", "total".
        degraded: Why fewer candidates were reranked than requested, or None.
        truncated: How many candidates were cut to fit the reranker's `max_length`.
        reread: How many candidates the reranker scored.
        answered: Whether a hit's probability is at least `min_probability`, or at least the calibration's own
            threshold; None without a calibration.
        uncalibrated: Why there are no probabilities although the search or the store has to do with them, or None.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        mode: str = "dense",
        timings: Mapping[str, float] | None = None,
        degraded: str | None = None,
        truncated: int = 0,
        reread: int = 0,
        answered: bool | None = None,
        uncalibrated: str | None = None,
    ) -> None:
        super().__init__(hits)
        self.timings, self.degraded, self.truncated = dict(timings or {}), degraded, truncated
        self.mode, self.reread = mode, reread
        self.answered, self.uncalibrated = answered, uncalibrated

    def explain(self) -> str:
        """For each hit, its place, and the rank and score of both stages; then the time of each stage. Plain text."""
        first = {"dense": "cosine", "lexical": "BM25", "hybrid": "fused"}.get(self.mode, self.mode)
        lines = [line for hit in self for line in _explained(hit, first)]
        lines.append(", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in self.timings.items()))
        return "\n".join([*lines, *filter(None, (self.degraded, self.uncalibrated))])


def _explained(hit: Hit, first: str) -> Iterable[str]:
    second = "not reranked" if hit.score is None else f"score {hit.score:.4f}, log-odds {hit.log_odds:+.3f}"
    second += "" if hit.probability is None else f", probability {hit.probability:.2f}"
    yield f"{hit.rank}. {hit.cite()}, characters {hit.start} to {hit.end}"
    yield f"   first stage: rank {hit.retrieval_rank}, {first} {hit.retrieval_score:.4f}; second: {second}"


@dataclass(frozen=True)
class IndexReport:
    """What a call of `add`, `index` or `sync` did.

    Attributes:
        documents: Documents written, new or changed.
        unchanged: Documents that the store already held unchanged.
        passages: Passages written.
        embedded: Passages whose text had to be embedded; the rest kept their vectors.
        removed: Documents removed because they or their file no longer exist.
        files: Files that were read.
        files_unchanged: Files that had not changed and were not opened.
        moved: Documents that kept their vectors although their file moved.
        withheld: Files that are gone but whose documents stay, because most files of their root are gone.
        ignored: Number of files of unsupported kinds, by suffix.
        skipped: Paths of files and folders that could not be read, and why.
        actions: In a dry run, the action for each file: "new", "changed", "moved", "removed".
    """

    documents: int = 0
    unchanged: int = 0
    passages: int = 0
    embedded: int = 0
    removed: int = 0
    files: int = 0
    files_unchanged: int = 0
    moved: int = 0
    withheld: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    actions: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: "IndexReport") -> "IndexReport":
        mine, theirs = vars(self), vars(other)
        return IndexReport(**{name: _added(mine[name], theirs[name]) for name in mine})


def _added(one: Any, other: Any) -> Any:
    if not isinstance(one, Mapping):
        return one + other
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
