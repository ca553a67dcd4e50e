"""How many tokens the texts of a request may have, and what becomes of those that have more."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, StoppedError
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.scores import Cancellation
from qwen3_rag.server.failures import RequestError

__all__ = ["Cut", "Limits"]

Spans = Callable[[str], NDArray[np.int64]]
NORMALISED = 3  # times as many bytes as before a text may have when normalised
START_CHARACTERS = 8  # for each token, at first
SHOWN = 60  # characters of a text in a message
PIECE = 65536  # characters counted at once
Tokens = Sequence[Any]  # of places (start, end)


@dataclass(frozen=True)
class Cut:
    """How texts that are too long are treated.

    Attributes:
        tokens: Most tokens of a document, or None.
        pair: Most tokens of query and document with the template, or None.
        refuses: Whether such a text is an error.
        from_start: Whether its beginning is cut rather than its end.
    """

    tokens: int | None = None
    pair: int | None = None
    refuses: bool = False
    from_start: bool = False


class Limits:
    """Checks and cuts the texts of a request, as long as its deadline and its client allow.

    Args:
        spans: Divides a text into tokens.
        deadline: Seconds from now after which the work stops.
        cancel: Once set, the work stops.
    """

    def __init__(self, spans: Spans, deadline: float | None, cancel: threading.Event) -> None:
        self.spans, self.cancellation = spans, Cancellation.after(deadline, cancel)

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        end = self.cancellation.deadline
        return None if end is None else max(0.0, end - time.monotonic())

    def check(self, text: str, limit: int, name: str) -> None:
        """Refuse a text that is never cut.

        Raises:
            InvalidArgumentError: It has more than `limit` tokens.
            StoppedError: The work must stop.
        """
        if not _surely_fits(text, limit) and self._more_than(text, limit, False):
            raise InvalidArgumentError(f"the {name} has more than {limit} tokens: {text[:SHOWN]!r}…; expected fewer")

    def shortened(self, texts: Sequence[str], limit: int, cut: Cut, name: str, lead: str = "") -> tuple[list[str], int]:
        """Texts of at most `limit` tokens, each counted behind `lead`; and how many were cut.

        Raises:
            InvalidArgumentError: A text is longer, and `cut` refuses that.
            StoppedError: The work must stop.
        """
        kept, shorter = [], 0
        for place, text in enumerate(texts):
            tokens = None if _surely_fits(text, limit - len(lead)) else self._more_than(lead + text, limit, False)
            if tokens is None:
                kept.append(text)
                continue
            if cut.refuses:
                raise InvalidArgumentError(
                    f"{name}[{place}] has more than {limit} tokens, and may not be truncated; expected fewer"
                )
            shorter += 1
            kept.append(self._cut(lead + text, limit, cut.from_start, tokens, lead))
        return kept, shorter

    def _cut(self, whole: str, limit: int, from_start: bool, tokens: Tokens, lead: str) -> str:
        """As much of a text's end or beginning as has at most `limit` tokens by itself, behind `lead`."""
        if from_start:
            tokens = self._more_than(whole, limit, True) or tokens
        # Tokenized by itself, a part may have one token more: at its edge, or if a character has several tokens.
        for count in range(limit, 0, -1):
            piece = whole[int(tokens[-count][0]) :] if from_start else whole[: int(tokens[count - 1][1])]
            piece = piece.removeprefix(lead)
            if len(self.spans(lead + piece)) <= limit:
                return piece
        return ""

    def _more_than(self, text: str, limit: int, from_end: bool) -> Tokens | None:
        """Tokens of a part that has more than `limit`, as places in the text; None if the whole has fewer."""
        size = START_CHARACTERS * (limit + 1)
        while True:
            self.check_time()
            start = max(0, len(text) - size) if from_end else 0
            tokens = self.spans(text[start : start + size])
            if len(tokens) > limit:
                return [(int(first) + start, int(last) + start) for first, last in tokens]
            if size >= len(text):
                return None
            size *= 4

    def total(self, texts: Iterable[str], longest: int, most: int, each: int = 0) -> None:
        """Check that inputs have at most `most` tokens together.

        Args:
            texts: The texts.
            longest: Tokens up to which an input counts.
            most: The limit.
            each: Tokens that every input has besides its text.

        Raises:
            RequestError: They have more (413).
            StoppedError: The work must stop.
        """
        texts = list(texts)
        if sum(min(NORMALISED * len(text) * 4 + each, longest) for text in texts) <= most:
            return
        total = 0
        for text in texts:
            total += min(self._count(text, longest) + each, longest)
            if total > most:
                message = f"the request's texts have more than {most} tokens; expected fewer: send several"
                raise RequestError(413, message)

    def tokens_of(self, instruction: str | None, named: Mapping[str, str]) -> int:
        """Number of tokens of an instruction."""
        return self._count(resolve_instruction(instruction, named)) if instruction else 0

    def _count(self, text: str, enough: int | None = None) -> int:
        """Number of tokens, at the edge of each piece of a long text perhaps one more; stops once there are enough."""
        count = 0
        for start in range(0, len(text), PIECE):
            self.check_time()
            count += len(self.spans(text[start : start + PIECE]))
            if enough is not None and count >= enough:
                break
        return count

    def check_time(self) -> None:
        """Raise if the work must stop.

        Raises:
            StoppedError: It must.
        """
        if reason := self.cancellation.stop_reason:
            raise StoppedError(f"{reason} before the texts were counted")


def _surely_fits(text: str, limit: int) -> bool:
    """Whether a text has at most `limit` tokens without counting: each has a byte of the normalised text."""
    return NORMALISED * len(text.encode(errors="replace")) <= limit
