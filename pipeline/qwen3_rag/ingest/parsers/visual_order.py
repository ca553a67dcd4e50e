"""Lines of Arabic and Hebrew that a PDF stores from left to right, as they look, put into the order they are read."""

import re
from collections.abc import Callable
from itertools import pairwise

__all__ = ["RIGHT_TO_LEFT", "in_logical_order"]

_LETTERS = "\u0590-\u065f\u066a-\u06ef\u06fa-\u08ff\ufb1d-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc"
RIGHT_TO_LEFT = re.compile(f"[{_LETTERS}]")
# Numbers and words of other scripts, which are stored from left to right in either order.
OTHERS = re.compile(rf"[%°$€£]?[^\W_{_LETTERS}](?:[^{_LETTERS}\r\n]*[^\W_{_LETTERS}])?[%°$€£]?")
LINES = re.compile(r"[^\r\n]+")
MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


def in_logical_order(text: str, left: Callable[[int], float]) -> str:
    """The text of a page with its lines of visual order put into logical order.

    Args:
        text: The text.
        left: The left edge of the character at an index.
    """

    def ordered(line: re.Match[str]) -> str:
        edges = [left(match.start()) for match in RIGHT_TO_LEFT.finditer(text, line.start(), line.end())]
        steps = [(after > before) - (after < before) for before, after in pairwise(edges)]
        return _reversed(line[0]) if sum(steps) > 0 else line[0]

    return LINES.sub(ordered, text)


def _reversed(line: str) -> str:
    """A line from the other side; numbers and words of other scripts stay as they are."""
    if not _is_mostly_right_to_left(line):
        return re.sub(f"[{_LETTERS}](?:[^\\w\\r\\n]*[{_LETTERS}])*", lambda run: _turned(run[0]), line)
    return OTHERS.sub(lambda run: _turned(run[0]), _turned(line))


def _turned(text: str) -> str:
    return text[::-1].translate(MIRRORED)


def _is_mostly_right_to_left(line: str) -> bool:
    letters = sum(character.isalpha() for character in line)
    return 2 * len(RIGHT_TO_LEFT.findall(line)) >= letters
