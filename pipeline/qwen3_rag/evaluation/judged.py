"""Judged queries and runs, from files in BEIR layout or TREC's formats. Every complaint names file and line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen3_rag.errors import JudgementError

__all__ = ["Judged", "Run", "read_folder", "read_judged", "read_run", "write_run"]

Run = dict[str, dict[str, float]]  # query id to document id to score, best first
Grades = dict[str, dict[str, int]]  # query id to document id to grade


@dataclass(frozen=True)
class Judged:
    """Queries with judgements.

    Attributes:
        name: Of the collection.
        queries: Text of each judged query by id, in the file's order.
        grades: Grades by query and document; above 0 is relevant.
        notes: What was left out, with counts and the first place.
    """

    name: str
    queries: Mapping[str, str]
    grades: Grades
    notes: tuple[str, ...] = ()

    @property
    def documents(self) -> set[str]:
        """Ids of the documents that are judged relevant to some query."""
        return {name for grades in self.grades.values() for name, grade in grades.items() if grade > 0}

    def first(self, count: int | None) -> "Judged":
        """The first `count` queries; None for all."""
        queries = dict(list(self.queries.items())[:count])
        return Judged(self.name, queries, {name: self.grades[name] for name in queries}, self.notes)


class _Notes:
    """Counts complaints of a kind and keeps the first place of each."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        self._kinds.setdefault(kind, []).append(place)

    def texts(self) -> tuple[str, ...]:
        return tuple(f"{len(places)} {kind}, the first at {places[0]}" for kind, places in self._kinds.items())


def read_judged(queries: Path, judgements: Path, name: str) -> Judged:
    """Read queries and their judgements.

    Args:
        queries: JSON lines with `_id` and `text`, or lines of id, tab and text.
        judgements: A table with a header and the columns query-id, corpus-id and score (BEIR), or TREC's qrels: query,
            an unused column, document, grade.
        name: Of the collection.

    Raises:
        JudgementError: A line cannot be read, a pair has two grades, or no query has a relevant document.
    """
    notes = _Notes()
    texts = dict(_queries(queries))
    grades: Grades = {}
    for place, query, document, grade in _judgements(judgements):
        if query not in texts:
            notes.add(f"judgements of queries that {queries.name} does not have", place)
            continue
        if grade < 0:
            notes.add("negative grades, read as 0", place)
        of_query, grade = grades.setdefault(query, {}), max(grade, 0)
        if document in of_query:
            if of_query[document] != grade:
                raise JudgementError(
                    f"{place}: {query!r} and {document!r} have two grades, {of_query[document]} and {grade}"
                )
            notes.add("judgements given twice", place)
        of_query[document] = grade
    judged = {query: text for query, text in texts.items() if any(grades.get(query, {}).values())}
    if not judged:
        swapped = sum(document in texts for of_query in grades.values() for document in of_query)
        hint = "; the columns of query and document seem to be swapped" if swapped or not grades else ""
        raise JudgementError(
            f"{judgements} has no query of {queries} with a relevant document (a grade above 0); expected one{hint}"
        )
    for query in grades.keys() - judged.keys():
        notes.add("queries without a relevant document, left out", f"{judgements}: {query!r}")
    return Judged(name, judged, {query: grades[query] for query in judged}, notes.texts())


def read_folder(folder: Path, queries: Path | None = None) -> Judged:
    """Read judged queries in BEIR layout: `queries.jsonl`, and `qrels/test.tsv` or the only table in `qrels`.

    Args:
        folder: The folder.
        queries: File of queries; None is the folder's.

    Raises:
        JudgementError: There is no such table, or several; and as in `read_judged`.
    """
    tables = sorted((folder / "qrels").glob("*.tsv"))
    chosen = [path for path in tables if path.stem == "test"] or tables
    if len(chosen) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise JudgementError(f"{folder / 'qrels'} has {names}; expected test.tsv, or one table")
    return read_judged(queries or folder / "queries.jsonl", chosen[0], folder.name)


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), start=1):
        place = f"{path}:{number}"
        if line.lstrip().startswith("{"):
            try:
                record = json.loads(line)
                name, text = record["_id"], record["text"]
            except (ValueError, KeyError) as error:
                raise JudgementError(f'{place}: expected {{"_id": …, "text": …}}, got {line[:80]!r}') from error
        else:
            name, tab, text = line.partition("\t")
            if not tab:
                raise JudgementError(f"{place}: expected an id, a tab and a query, got {line[:80]!r}")
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise JudgementError(f"{place}: expected an id and a text that is not empty, got {line[:80]!r}")
        if name in seen:
            raise JudgementError(f"{place}: a second query {name!r}")
        seen.add(name)
        yield name, text


def _judgements(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Place, query, document and grade of each line."""
    for number, line in enumerate(_lines(path), start=1):
        place = f"{path}:{number}"
        fields = _columns(line, 3, 4)
        if len(fields) not in (3, 4):
            raise JudgementError(
                f"{place}: expected query, document and grade, or TREC's four columns; got {line[:80]!r}"
            )
        query, document, grade = fields[0], fields[-2], fields[-1]
        if number == 1 and len(fields) == 3 and not grade.strip().lstrip("+-").isdigit():
            continue  # the header
        try:
            yield place, query, document, int(grade)
        except ValueError:
            raise JudgementError(f"{place}: grade is {grade!r}; expected a whole number in the last column") from None


def read_run(path: Path) -> Run:
    """A run in TREC's format: query, Q0, document, rank, score, tag; documents by falling score.

    Raises:
        JudgementError: A line has other columns, a score that is no number, or a document for the second time.
    """
    run: Run = {}
    for number, line in enumerate(_lines(path), start=1):
        place, fields = f"{path}:{number}", _columns(line, 6)
        if len(fields) != 6:
            raise JudgementError(f"{place}: expected the six columns of a TREC run, got {line[:80]!r}")
        query, _, document, _, score, _ = fields
        of_query = run.setdefault(query, {})
        if document in of_query:
            raise JudgementError(f"{place}: {document!r} is there twice for {query!r}")
        try:
            of_query[document] = float(score)
        except ValueError:
            raise JudgementError(f"{place}: score is {score!r}; expected a number in the fifth column") from None
    if not run:
        raise JudgementError(f"{path} is empty; expected a TREC run")
    return {query: dict(sorted(hits.items(), key=lambda hit: -hit[1])) for query, hits in run.items()}


def write_run(run: Run, path: Path, tag: str) -> None:
    """Write a run in TREC's format, with tabs, because ids may have blanks."""
    lines = (
        f"{query}\tQ0\t{document}\t{rank}\t{score:.6f}\t{tag}\n"
        for query, hits in run.items()
        for rank, (document, score) in enumerate(hits.items(), start=1)
    )
    path.write_text("".join(lines), "utf-8")


def _columns(line: str, *counts: int) -> list[str]:
    """Columns between tabs if there are as many as expected, else between blanks."""
    tabbed = line.split("\t")
    return tabbed if len(tabbed) in counts else line.split()


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise JudgementError(f"{path} cannot be read: {error}") from error
