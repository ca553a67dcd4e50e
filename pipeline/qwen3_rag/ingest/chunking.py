"""Split a document into passages: by section, at paragraph ends if possible, else sentences, lines, words, tokens."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Protocol

import numpy as np
import sentencex
from numpy.typing import NDArray

from qwen3_rag.ingest.parsed import Parsed, Section, heading

__all__ = ["Cut", "chunk", "token_starts"]

SLAB = 100_000  # characters tokenized at once; keeps memory independent of document length
BLOCK = 4_000  # characters passed to the sentence splitter at once
BLANK = re.compile(r"\n[^\S\n]*\n\s*")
SMALL = 4  # a group shorter than 1/SMALL of a passage may also include a section under a neighbouring heading
Int64 = NDArray[np.int64]


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


@dataclass(frozen=True)
class _Piece:
    """The smallest unit of a passage: a sentence, a line or a run of tokens, with the index of its section."""

    start: int
    stop: int
    tokens: int
    section: int


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
    for group in _groups(sections, starts, size):
        pieces = [piece for number in group for piece in _pieces(text, starts, sections, number, size, tables)]
        for first, last in _filled(text, pieces, size, overlap):
            start, stop = _stripped(text, pieces[first].start, pieces[last - 1].stop)
            if start < stop:
                numbers = sorted({piece.section for piece in pieces[first:last]})
                inside = [sections[number] for number in numbers]
                row = _first_row(text, inside[0], start, rows) if tables == "rows" else None
                cuts.append(Cut(start, stop, _shared(inside), parsed.page(start), row))
    return cuts


def _groups(sections: Sequence[Section], starts: Int64, size: int) -> Iterator[list[int]]:
    """Groups of sections split together: consecutive ones under the same or, if short, a neighbouring heading."""
    group: list[int] = []
    used = 0
    for number, section in enumerate(sections):
        tokens = int(np.subtract(*np.searchsorted(starts, [section.stop, section.start])))
        last = sections[group[-1]] if group else None
        if last is not None and used + tokens <= size and _belong(last, section, used < size // SMALL):
            group.append(number)
            used += tokens
            continue
        if group:
            yield group
        group, used = [number], tokens
    if group:
        yield group


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


def _pieces(
    text: str, starts: Int64, sections: Sequence[Section], number: int, size: int, tables: str
) -> Iterator[_Piece]:
    section = sections[number]
    by_line = section.kind == "code" or (section.kind == "table" and tables == "rows")
    part = text[section.start : section.stop]
    ends = _line_ends(part) if by_line else _sentence_ends(part)
    for begin, end in pairwise(_joined(part, ends)):
        yield from _fitting(text, starts, section.start + begin, section.start + end, number, size, by_line)


def _line_ends(part: str) -> list[int]:
    ends, at = [], 0
    for line in part.splitlines(keepends=True):
        at += len(line)
        ends.append(at)
    return ends


def _sentence_ends(part: str) -> list[int]:
    """Sentence ends in any script, found block by block because sentencex takes quadratic time."""
    ends: list[int] = []
    at = 0
    while at < len(part):
        stop = at + BLOCK
        if stop < len(part):
            stop = max(part.rfind("\n", at, stop), part.rfind(" ", at, stop), at) + 1
            stop = stop if stop > at + 1 else at + BLOCK
        blank = BLANK.search(part, at, stop)
        stop = blank.end() if blank else min(stop, len(part))
        boundaries = [at + sentence["end_index"] for sentence in sentencex.get_sentence_boundaries("en", part[at:stop])]
        # The block may end inside a sentence, so the next block starts with its last sentence.
        if stop < len(part) and not blank and len(boundaries) > 1:
            boundaries.pop()
            stop = boundaries[-1]
        ends += boundaries
        at = stop
    return ends


def _joined(part: str, ends: Sequence[int]) -> list[int]:
    """Boundaries from 0 to the end of `part`; blank pieces are merged into the previous one."""
    places = [0]
    for end in [*sorted(set(ends)), len(part)]:
        if end > places[-1]:
            if not part[places[-1] : end].strip() and len(places) > 1:
                places[-1] = end
            else:
                places.append(end)
    return places


def _fitting(text: str, starts: Int64, begin: int, end: int, number: int, size: int, by_line: bool) -> Iterator[_Piece]:
    """A sentence or line; if it is too long, split at line ends, else between words, else between tokens."""
    first, last = (int(i) for i in np.searchsorted(starts, [begin, end]))
    if not by_line and last - first > max(size // SMALL, 8) and "\n" in text[begin:end].strip():
        ends = _joined(text[begin:end], _line_ends(text[begin:end]))
        for start, stop in pairwise(ends):
            yield from _fitting(text, starts, begin + start, begin + stop, number, size, True)
        return
    while last - first > size:
        cut = first + size
        # Several tokens may share one character, which is never split.
        words = (i for i in range(cut, first + size // 2, -1) if text[int(starts[i]) - 1].isspace())
        cut = next(words, cut)
        place = int(starts[cut])
        if place <= begin:
            break
        yield _Piece(begin, place, cut - first, number)
        begin, first = place, cut
    yield _Piece(begin, end, last - first, number)


def _filled(text: str, pieces: Sequence[_Piece], size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Piece range `[begin, end)` of each passage."""
    begin = 0
    while begin < len(pieces):
        end = _fill(text, pieces, begin, size)
        yield begin, end
        if end == len(pieces):
            return
        begin = _step_back(pieces, begin, end, size, overlap)


def _fill(text: str, pieces: Sequence[_Piece], begin: int, size: int) -> int:
    """Index after the last piece of a passage, preferably at a paragraph end once the passage is half full."""
    used, end, paragraph = pieces[begin].tokens, begin + 1, 0
    while end < len(pieces) and used + pieces[end].tokens <= size:
        if used > size // 2 and _ends_paragraph(text, pieces[end - 1]):
            paragraph = end
        used += pieces[end].tokens
        end += 1
    if end < len(pieces) and used > size // 2 and _ends_paragraph(text, pieces[end - 1]):
        paragraph = end
    return paragraph if paragraph and end < len(pieces) else end


def _ends_paragraph(text: str, piece: _Piece) -> bool:
    tail = text[max(piece.stop - 4, piece.start) : piece.stop]
    return tail.count("\n") >= 2


def _step_back(pieces: Sequence[_Piece], begin: int, end: int, size: int, overlap: int) -> int:
    """Index of the next passage's first piece: it repeats as many whole pieces before `end` as the overlap allows.

    The repeated pieces leave space for at least one new piece; otherwise the passage would contain nothing new.
    """
    start, repeated = end, 0
    allowed = min(overlap, size - pieces[end].tokens)
    while start - 1 > begin and repeated + pieces[start - 1].tokens <= allowed:
        start -= 1
        repeated += pieces[start].tokens
    return start


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
