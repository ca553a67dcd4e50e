"""Split a document into passages: by section, each ending at the best place near the size wished for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np

from qwen3_rag.ingest.parsed import Parsed, Section, heading
from qwen3_rag.ingest.pieces import EDGE, GLUED, Int64, Piece, pieces_of

__all__ = ["Cut", "chunk", "token_starts"]

SLAB = 100_000  # characters tokenized at once; keeps memory independent of document length
SMALL = 4  # a group shorter than 1/SMALL of a passage may also include a section under a neighbouring heading
FADING = 0.7  # how much less a place is worth at half of the size than at the whole size


@dataclass(frozen=True)
class Cut:
    """A passage: its character range in the document's text, its headings and its page.

    `row` is the first row of a table that the passage continues.
    """

    start: int
    stop: int
    headings: tuple[str, ...] = ()
    page: int | None = None
    row: str | None = None


class _Tokenizes(Protocol):
    def spans(self, text: str) -> Int64: ...


def token_starts(embedder: _Tokenizes, text: str) -> Int64:
    """Character offsets (n,) at which the tokens of a text start, by the embedder's tokenizer."""
    starts, at = [], 0
    while at < len(text):
        stop = at + SLAB
        if stop < len(text):
            stop = max(text.rfind("\n", at, stop), text.rfind(" ", at, stop), at) + 1
            stop = stop if stop > at + 1 else at + SLAB
        starts.append(embedder.spans(text[at:stop])[:, 0] + at)
        at = stop
    return np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)


def chunk(parsed: Parsed, starts: Int64, size: int, overlap: int, tables: str = "rows") -> list[Cut]:
    """Split a document into passages, in order, without leading or trailing whitespace.

    Args:
        parsed: The document with its sections.
        starts: Character offsets (n,) at which its tokens start, ascending.
        size: Maximum number of tokens in a passage.
        overlap: Maximum number of tokens repeated from the previous passage, in whole sentences.
        tables: "rows", "text" or "drop", as in `Settings`.
    """
    text = parsed.document.text
    sections = [s for s in parsed.parts if not (s.kind == "table" and tables == "drop")]
    rows: dict[Section, tuple[int, str]] = {}
    cuts = []
    for group in _groups(text, sections, starts, size):
        pieces = list(pieces_of(text, starts, sections, group, size, tables))
        for first, last in _filled(pieces, size, overlap):
            start, stop = _stripped(text, pieces[first].start, pieces[last - 1].stop)
            if start < stop:
                numbers = sorted({piece.section for piece in pieces[first:last]})
                inside = [sections[number] for number in numbers]
                row = _first_row(text, inside[0], start, rows) if tables == "rows" else None
                cuts.append(Cut(start, stop, _shared(inside), parsed.page(start), row))
    return cuts


def _groups(text: str, sections: Sequence[Section], starts: Int64, size: int) -> Iterator[list[int]]:
    """Groups of sections split together: consecutive ones under the same or, if short, a neighbouring heading."""
    group: list[int] = []
    used = 0
    for number, section in enumerate(sections):
        tokens = int(np.subtract(*np.searchsorted(starts, [section.stop, section.start])))
        if group:
            last = sections[group[-1]]
            fits = used + tokens <= size and _belong(last, section, used < size // SMALL)
            together = fits or _only_heading(text, last) or _continues(last, section)
            if not together or text[last.stop : section.start].strip():
                split = _before_headings(text, sections, group)
                yield group[:split]
                group, used = group[split:], 0
        group.append(number)
        used += tokens
    if group:
        yield group


def _before_headings(text: str, sections: Sequence[Section], group: list[int]) -> int:
    """Length of a group without the sections at its end that are only headings: they belong to the text after them."""
    length = len(group)
    while length and _only_heading(text, sections[group[length - 1]]):
        length -= 1
    return length or len(group)


def _only_heading(text: str, section: Section) -> bool:
    length = section.heading_length
    return bool(length) and not text[section.start + length : section.stop].strip()


def _continues(last: Section, section: Section) -> bool:
    """Whether a section is under the same heading as the previous one."""
    return last.headings == section.headings and not section.heading_length


def _belong(last: Section, section: Section, short: bool) -> bool:
    """Whether a section may be grouped with the previous one."""
    previous, current = last.headings, section.headings
    if previous == current:
        return True
    siblings = previous[:-1] == current[:-1]
    nested = previous == current[: len(previous)] or current == previous[: len(current)]
    return short and (siblings or nested)


def _shared(sections: Sequence[Section]) -> tuple[str, ...]:
    """Headings shared by the sections of a passage."""
    # A prefix shared by the smallest and the largest path is shared by all.
    extremes = (min(s.headings for s in sections), max(s.headings for s in sections))
    return tuple(name for name, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*extremes, strict=False)))


def _first_row(text: str, section: Section, start: int, rows: dict[Section, tuple[int, str]]) -> str | None:
    """The first row of a table if the passage starts after it.

    `rows` caches the length and text of each table's first row, so that a long table is scanned only once.
    """
    if section.kind != "table" or start <= section.start:
        return None
    if section not in rows:
        row = text[section.start : section.stop].lstrip("\n").partition("\n")[0].strip()
        rows[section] = len(row), heading(row)
    length, line = rows[section]
    return line if start > section.start + length else None


def _filled(pieces: Sequence[Piece], size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Piece range `[begin, end)` of each passage."""
    begin = end = 0
    while begin < len(pieces):
        end = _fill(pieces, begin, end, size)
        yield begin, end
        if end == len(pieces):
            return
        begin = _step_back(pieces, begin, end, size, overlap)


def _fill(pieces: Sequence[Piece], begin: int, covered: int, size: int) -> int:
    """Index after the last piece of a passage: the best place to end it, and after `covered`."""
    used, end = pieces[begin].tokens, begin + 1
    best, worth = end, float("-inf")
    while True:
        if end > covered and (value := _worth(pieces[end - 1], used, size)) >= worth:
            best, worth = end, value
        if end == len(pieces):
            return end
        used += pieces[end].tokens
        if used > size:
            return best
        end += 1


def _worth(piece: Piece, used: int, size: int) -> float:
    """The score of a place to end a passage, less the further it is from the size wished for."""
    if piece.score == GLUED:
        return -2.0
    if used <= size // 2:
        return -1.0  # only if there is no other; of several the last
    missing = (size - used) / (size - size // 2)
    return piece.score * (1 - FADING * missing**2)


def _step_back(pieces: Sequence[Piece], begin: int, end: int, size: int, overlap: int) -> int:
    """Index of the next passage's first piece: it repeats as many whole pieces before `end` as the overlap allows.

    The repeated pieces leave space for at least one new piece; otherwise the passage would contain nothing new.
    Nothing is repeated across a heading, a rule, or the edge of a table or code block.
    """
    if pieces[end - 1].score >= EDGE:
        return end
    start, repeated = end, 0
    allowed = min(overlap, size - _unit(pieces, end, size))
    while start - 1 > begin and repeated + pieces[start - 1].tokens <= allowed:
        start -= 1
        repeated += pieces[start].tokens
    return start


def _unit(pieces: Sequence[Piece], begin: int, size: int) -> int:
    """Tokens of a piece, with those after it if it is glued to them; not counted beyond `size`."""
    tokens = pieces[begin].tokens
    while pieces[begin].score == GLUED and begin + 1 < len(pieces) and tokens <= size:
        begin += 1
        tokens += pieces[begin].tokens
    return tokens


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
