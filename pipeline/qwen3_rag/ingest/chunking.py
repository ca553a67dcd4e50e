"""A document to passages: along sections, between paragraphs if possible, else sentences, lines, words, tokens."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Protocol

import numpy as np
import sentencex
from numpy.typing import NDArray

from qwen3_rag.ingest.parsed import Parsed, Section, heading, path_of

__all__ = ["Cut", "chunk", "token_starts"]

SLAB = 100_000  # characters tokenized at once, so that memory does not grow with a document
BLOCK = 4_000  # characters searched for sentences at once
BLANK = re.compile(r"\n[^\S\n]*\n\s*")
SMALL = 4  # a group of sections shorter than a passage by this factor takes in the next section
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """A passage: its place in the document's text, the path of headings above it, and its page."""

    start: int
    stop: int
    heading: str | None = None
    page: int | None = None


@dataclass(frozen=True)
class _Piece:
    """What is not cut further: a sentence, a line, a run of tokens; with the section it lies in."""

    start: int
    stop: int
    tokens: int
    section: int


class _Tokenizes(Protocol):
    def spans(self, text: str) -> Int64: ...


def token_starts(embedder: _Tokenizes, text: str) -> Int64:
    """First characters (n,) of an embedder's tokens of a text."""
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
    """Passages of a document, in order, none beginning or ending in white space.

    Args:
        parsed: The document with its sections.
        starts: First characters (n,) of its tokens, ascending.
        size: Tokens a passage may have.
        overlap: Tokens at most that a passage repeats of the one before, in whole sentences.
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
                within = sorted({piece.section for piece in pieces[first:last]})
                above = _heading(text, [sections[number] for number in within], start, tables, rows)
                cuts.append(Cut(start, stop, above, parsed.page(start)))
    return cuts


def _groups(sections: Sequence[Section], starts: Int64, size: int) -> Iterator[list[int]]:
    """Sections cut together: a short one goes with what follows it under the same or a neighbouring heading."""
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
    """Whether a section may be cut together with the one before it."""
    one, other = last.headings, section.headings
    if one == other:
        return True
    # Siblings, or one above the other.
    return short and (one[:-1] == other[:-1] or one == other[: len(one)] or other == one[: len(other)])


def _heading(
    text: str, sections: Sequence[Section], start: int, tables: str, rows: dict[Section, tuple[int, str]]
) -> str | None:
    """Headings common to the sections of a passage; in the midst of a table its first row as well.

    `rows` keeps the length and heading of each table's first row, so that a long table is looked through once.
    """
    # What the first and the last in order of names have in common, all have.
    ends = (min(s.headings for s in sections), max(s.headings for s in sections))
    path = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))]
    first = sections[0]
    if tables == "rows" and first.kind == "table" and start > first.start:
        if first not in rows:
            row = text[first.start : first.stop].lstrip("\n").partition("\n")[0].strip()
            rows[first] = len(row), heading(row)
        length, line = rows[first]
        path += [line] if start > first.start + length else []
    return path_of(path)


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
    """Ends of sentences of any script, a block at a time: the time sentencex takes grows with a block's square."""
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
        # A block that is cut off in the midst of a sentence: the next begins with that sentence.
        if stop < len(part) and not blank and len(boundaries) > 1:
            boundaries.pop()
            stop = boundaries[-1]
        ends += boundaries
        at = stop
    return ends


def _joined(part: str, ends: Sequence[int]) -> list[int]:
    """Places from 0 to the end between which something other than white space lies."""
    places = [0]
    for end in [*sorted(set(ends)), len(part)]:
        if end > places[-1]:
            if not part[places[-1] : end].strip() and len(places) > 1:
                places[-1] = end
            else:
                places.append(end)
    return places


def _fitting(text: str, starts: Int64, begin: int, end: int, number: int, size: int, by_line: bool) -> Iterator[_Piece]:
    """A sentence or line, cut further where it is too long: at the ends of lines, else of words, else of tokens."""
    first, last = (int(i) for i in np.searchsorted(starts, [begin, end]))
    if not by_line and last - first > max(size // SMALL, 8) and "\n" in text[begin:end].strip():
        ends = _joined(text[begin:end], _line_ends(text[begin:end]))
        for start, stop in pairwise(ends):
            yield from _fitting(text, starts, begin + start, begin + stop, number, size, True)
        return
    while last - first > size:
        cut = first + size
        # Several tokens may lie in one character; it is never split.
        words = (i for i in range(cut, first + size // 2, -1) if text[int(starts[i]) - 1].isspace())
        cut = next(words, cut)
        place = int(starts[cut])
        if place <= begin:
            break
        yield _Piece(begin, place, cut - first, number)
        begin, first = place, cut
    yield _Piece(begin, end, last - first, number)


def _filled(text: str, pieces: Sequence[_Piece], size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First and last-but-one piece of each passage."""
    begin = 0
    while begin < len(pieces):
        end = _fill(text, pieces, begin, size)
        yield begin, end
        if end == len(pieces):
            return
        begin = _step_back(pieces, begin, end, size, overlap)


def _fill(text: str, pieces: Sequence[_Piece], begin: int, size: int) -> int:
    """Piece after the last that fits; a paragraph's end is preferred in the second half of what fits."""
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
    """First piece of the next passage: as many whole pieces before `end` as the overlap allows.

    What is repeated must leave space for the next new piece, or the next passage would hold nothing else.
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
