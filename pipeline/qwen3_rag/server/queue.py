"""How many requests may be at the models at once, and when others should come again."""

import math
import time

from qwen3_rag.server.failures import RequestError

__all__ = ["Queue"]

LONGEST_WAIT = 60  # seconds
BODIES = 16  # of the largest size that may be in memory at once
SMOOTHING = 0.1


class Queue:
    """Requests at the models; used by one event loop.

    Args:
        limit: Most requests at once.

    Attributes:
        size: Requests there now.
        refused: Requests refused so far.
        bytes: Bytes of the bodies that are in memory.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.refused, self.bytes = limit, 0, 0, 0
        self._seconds_between = 0.0  # between one request's end and the next one's, smoothed
        self._last_end = 0.0

    def check(self) -> None:
        """Raise if the queue is full.

        Raises:
            RequestError: It is (429, with the seconds after which half of it should be done).
        """
        if self.size >= self.limit:
            self.refused += 1
            wait = math.ceil(min(max(self._seconds_between * self.size / 2, 1), LONGEST_WAIT))
            raise RequestError(429, f"{self.size} requests are waiting, the most that this server takes at once", wait)

    def grow(self, count: int, largest: int) -> None:
        """Count bytes of a body.

        Raises:
            RequestError: The bodies of all requests are too large together (429).
        """
        self.bytes += count
        if self.bytes > BODIES * largest:
            self.refused += 1
            raise RequestError(429, "the requests that are waiting are too large together; send it later", 1)

    def enter(self) -> float:
        """Take a place; returns the time. Errors as of `check`."""
        self.check()
        self.size += 1
        return time.monotonic()

    def leave(self, entered: float) -> None:
        """Give a place back that was taken at this time."""
        self.size -= 1
        now = time.monotonic()
        passed = now - max(entered, self._last_end)
        self._last_end = now
        self._seconds_between += SMOOTHING * (passed - self._seconds_between)
