"""A text to passages: cut by the embedder's own tokens, between paragraphs if possible, else sentences, else tokens."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["chunk"]

# Ends of paragraphs, of sentences in many scripts, and of lines (code, lists): a piece includes the space after it.
PIECE_END = re.compile(r"\n\s*\n\s*|(?:[.!?…]+[\"'”’»)\]]*\s+)|(?:[。！？｡؟۔।॥።]+[\"'”’」』）]*\s*)|\n")
Span = tuple[int, int]


def chunk(text: str, tokens: NDArray[np.int64], size: int, overlap: int) -> list[Span]:
    """Character spans (start, end) of the passages of a text, none beginning or ending in white space.

    Args:
        text: The text.
        tokens: Character offsets (n, 2) of its tokens.
        size: Tokens a passage may have.
        overlap: Tokens at most that a passage repeats of the one before, in whole sentences.
    """
    if not text.strip():
        return []
    if len(tokens) <= size:
        return [_stripped(text, 0, len(text))]
    pieces = list(_pieces(text, tokens[:, 0], size))
    counts = [last - first for _, _, first, last in pieces]
    spans = []
    begin = 0
    while begin < len(pieces):
        end = _fill(text, pieces, counts, begin, size)
        spans.append(_stripped(text, pieces[begin][0], pieces[end - 1][1]))
        if end == len(pieces):
            break
        begin = _step_back(counts, begin, end, size, overlap)
    return [span for span in spans if span[0] < span[1]]


def _pieces(text: str, starts: NDArray[np.int64], size: int) -> Iterator[tuple[int, int, int, int]]:
    """Sentences as (start, end, first token, token after the last); those longer than `size` are cut by tokens."""
    ends = [match.end() for match in PIECE_END.finditer(text)]
    begin = 0
    for end in dict.fromkeys([*ends, len(text)]):
        first, last = (int(i) for i in np.searchsorted(starts, [begin, end]))
        while last - first > size:
            cut = int(starts[first + size])
            # Several tokens may lie in one character; it is never split.
            if cut <= begin:
                break
            yield begin, cut, first, first + size
            begin, first = cut, first + size
        yield begin, end, first, last
        begin = end


def _fill(text: str, pieces: list[tuple[int, int, int, int]], counts: list[int], begin: int, size: int) -> int:
    """Piece after the last that fits; a paragraph's end is preferred in the second half of what fits."""
    used, end, paragraph = counts[begin], begin + 1, 0
    while end < len(pieces) and used + counts[end] <= size:
        if used > size // 2 and "\n\n" in text[pieces[end - 1][0] : pieces[end - 1][1]]:
            paragraph = end
        used += counts[end]
        end += 1
    return paragraph if paragraph and end < len(pieces) else end


def _step_back(counts: list[int], begin: int, end: int, size: int, overlap: int) -> int:
    """First piece of the next passage: as many whole pieces before `end` as the overlap allows.

    What is repeated must leave room for the piece that is new, or the next passage would hold nothing else.
    """
    start, repeated = end, 0
    allowed = min(overlap, size - counts[end])
    while start - 1 > begin and repeated + counts[start - 1] <= allowed:
        start -= 1
        repeated += counts[start]
    return start


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
