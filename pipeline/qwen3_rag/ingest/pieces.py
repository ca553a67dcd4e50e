"""The smallest units of a passage: sentences, list items and lines, each with how good a place its end is to stop."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import sentencex
from numpy.typing import NDArray

from qwen3_rag.ingest.parsed import Section

__all__ = ["EDGE", "GLUED", "Int64", "Piece", "pieces_of"]

Int64 = NDArray[np.int64]
BLOCK = 4_000  # characters passed to the sentence splitter at once
LONG = 4  # a sentence longer than 1/LONG of a passage may be split at line ends
BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
ITEM = re.compile(r"([ \t]{0,40})(?:[-*+•]|\d{1,9}[.)])[ \t]\s*")
RULE = re.compile(r"([-*_=~])(?:[ \t]*\1){2,}")
LONGEST_RULE = 200  # characters
# How good a place the end of a piece is to end a passage.
HEADING, DEEPER, EDGE = 100, 10, 50  # a heading follows: less for each level, but at least EDGE
FENCE = 80  # a code block or a table starts or ends
AFTER_RULE = 60
BLANK = 20
ITEM_FOLLOWS, SUBITEM_FOLLOWS = 8, 6
SENTENCE = 4
LINE = 1
WORD = 0
GLUED = -1  # a heading or the number of a list item: its text follows


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence, a list item, a line or a run of tokens.

    Attributes:
        start: Offset of the first character.
        stop: Offset after the last character.
        tokens: Number of its tokens.
        section: Index of its section.
        score: How good a place its end is to end a passage; `GLUED` if it should not.
    """

    start: int
    stop: int
    tokens: int
    section: int
    score: int


def pieces_of(
    text: str, starts: Int64, sections: Sequence[Section], numbers: Sequence[int], size: int, tables: str
) -> Iterator[Piece]:
    """Pieces of sections that are split together, each of at most `size` tokens.

    Args:
        text: The document's text.
        starts: Character offsets (n,) at which its tokens start.
        sections: The document's sections.
        numbers: Indexes of those to split.
        size: Maximum number of tokens in a passage.
        tables: "rows", "text" or "drop", as in `Settings`.
    """
    above = 0  # tokens of the headings directly above, which share a passage with the text after them unless too long
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        section = sections[number]
        by_line = section.kind == "code" or (section.kind == "table" and tables == "rows")
        begin = section.start
        heading = _heading(text, starts, section, number)
        if heading and above + heading.tokens <= size // 2:
            above += heading.tokens
            begin = heading.stop
            yield heading
        edge = _edge(section, None if following is None else sections[following])
        splitter = _Splitter(text, starts, number, size - above, by_line, items=not by_line)
        last = None
        for piece in splitter.pieces(begin, section.stop):
            if last:
                yield last
            last = piece
        if last:
            yield replace(last, score=max(last.score, edge))
            above = 0


def _heading(text: str, starts: Int64, section: Section, number: int) -> Piece | None:
    """The heading at the start of a section, with the white space after it; None if there is none."""
    if not section.heading_length:
        return None
    stop = min(section.start + section.heading_length, section.stop)
    body = text[stop : section.stop]
    stop += len(body) - len(body.lstrip())
    tokens = int(np.subtract(*np.searchsorted(starts, [stop, section.start])))
    return Piece(section.start, stop, tokens, number, GLUED)


def _edge(section: Section, following: Section | None) -> int:
    """How good a place the end of a section is to end a passage, beyond what its text says."""
    if following is None:
        return WORD
    if following.headings != section.headings or following.heading_length:
        return max(HEADING - DEEPER * max(len(following.headings) - 1, 0), EDGE)
    kinds = {section.kind, following.kind}
    return FENCE if kinds == {"table"} or (len(kinds) > 1 and kinds & {"code", "table"}) else WORD


@dataclass(frozen=True)
class _Splitter:
    """Splits the text of one section into pieces of at most `size` tokens; `items`: between the items of lists."""

    text: str
    starts: Int64
    number: int
    size: int
    by_line: bool
    items: bool

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Pieces of `text[begin:end]`."""
        part = self.text[begin:end]
        ends = _line_ends(part) if self.by_line else _sentence_ends(part)
        if self.items:
            ends += (stop for stop in _line_ends(part) if ITEM.match(part, stop))
        places = _joined(part, ends)
        counts = np.searchsorted(self.starts, np.array(places) + begin).tolist()
        long = self.size if self.by_line else min(max(self.size // LONG, 8), self.size)
        blank = True  # whether the previous piece ended a paragraph
        for (start, stop), (first, last) in zip(pairwise(places), pairwise(counts), strict=True):
            score = self._score(part, start, stop, blank)
            blank = score >= BLANK
            if last - first <= long:
                yield Piece(begin + start, begin + stop, last - first, self.number, score)
            else:
                yield from self._fitting(begin + start, begin + stop, first, last, score)

    def _fitting(self, begin: int, end: int, first: int, last: int, score: int) -> Iterator[Piece]:
        """A long sentence or line: split at line ends, else between words, else between tokens."""
        if not self.by_line and "\n" in self.text[begin:end].strip():
            *most, final = replace(self, by_line=True).pieces(begin, end)
            yield from most
            yield replace(final, score=score)
            return
        while last - first > self.size:
            cut = first + self.size
            # Several tokens may share one character, which is never split.
            words = (i for i in range(cut, first + self.size // 2, -1) if self.text[int(self.starts[i]) - 1].isspace())
            cut = next(words, cut)
            place = int(self.starts[cut])
            if place <= begin:
                break
            yield Piece(begin, place, cut - first, self.number, WORD)
            begin, first = place, cut
        yield Piece(begin, end, last - first, self.number, score)

    def _score(self, part: str, start: int, stop: int, blank: bool) -> int:
        """How good a place the end of a piece is to end a passage; `blank`: a blank line is before the piece."""
        piece = part[start:stop]
        body = piece.rstrip()
        lines = piece.count("\n", len(body))
        if blank and lines and self.items and len(body) <= LONGEST_RULE and RULE.fullmatch(body.strip()):
            return AFTER_RULE
        if lines > 1:
            return BLANK
        if self.items:
            if ITEM.fullmatch(piece):
                return GLUED
            if lines and (item := ITEM.match(part, stop)):
                return SUBITEM_FOLLOWS if len(item[1]) > 1 else ITEM_FOLLOWS
        return LINE if self.by_line else SENTENCE


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
        blank = BLANK_LINE.search(part, at, stop)
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
