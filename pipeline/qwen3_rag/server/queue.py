"""How many requests may be at the models at once, and when others should come again."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qwen3_rag.server.failures import RequestError

__all__ = ["Queue"]

LONGEST_WAIT = 60  # seconds
SMOOTHING = 0.1


class Queue:
    """Requests at the models; used by one event loop.

    Args:
        limit: Most requests at once.

    Attributes:
        size: Requests there now.
        refused: Requests refused so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.refused = limit, 0, 0
        self._seconds_between = 0.0  # between one request's end and the next one's, smoothed
        self._last_end = 0.0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue.

        Raises:
            RequestError: The queue is full (429, with the seconds after which half of it should be done).
        """
        if self.size >= self.limit:
            self.refused += 1
            wait = math.ceil(min(max(self._seconds_between * self.size / 2, 1), LONGEST_WAIT))
            raise RequestError(429, f"{self.size} requests are waiting, the most that this server takes at once", wait)
        self.size += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.size -= 1
            now = time.monotonic()
            passed = now - max(began, self._last_end)
            self._last_end = now
            self._seconds_between += SMOOTHING * (passed - self._seconds_between)
