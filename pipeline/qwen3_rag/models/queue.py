"""A queue in front of a model: calls from many threads are merged into common batches.

There is no thread of the queue's own. Whoever finds the model free runs the next batch, for everybody, until his own
call is done; the others wait. So nothing is left behind by Ctrl-C, and a single caller pays for nothing.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from qwen3_rag.models.runtimes import NEVER, Until

__all__ = ["Call", "Piece", "Queue"]

# Calls that may wait in line; further ones wait outside, first come, first served.
PLACES = 256
# How often a waiting call looks whether it has been cancelled, in seconds.
LOOK = 0.05

Item = TypeVar("Item")
Result = TypeVar("Result")
Piece = tuple["Call[Any, Any]", int]


class Call(Generic[Item, Result]):
    """One caller's items, and what has been made of them.

    Args:
        items: What the model reads.
        weights: Tokens of each item.
        order: Indices of the items in the order to read them.
        holds: Tokens whose keys and values it keeps in memory while it runs.
    """

    def __init__(self, items: Sequence[Item], weights: Sequence[int], order: Sequence[int], holds: int = 0) -> None:
        self.items, self.weights, self.holds = items, weights, holds
        self.waiting = deque(order)
        self.running = 0
        self.ready: list[tuple[int, Result]] = []
        self.error: BaseException | None = None
        self.begun = False
        self.hurried = False  # whether its caller has a deadline

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or not (self.waiting or self.running)

    def take(self, room: int, alone: bool) -> tuple[list[int], int]:
        """Indices of the next items that fit into `room` tokens, and the room left; if it is `alone`, at least one."""
        taken: list[int] = []
        if self.error is not None:
            return taken, room
        while self.waiting and (self.weights[self.waiting[0]] <= room or (alone and not taken)):
            taken.append(self.waiting.popleft())
            room -= self.weights[taken[-1]]
        self.running += len(taken)
        self.begun = self.begun or bool(taken)
        return taken, room

    def put_back(self, index: int) -> None:
        """Undo `take` for one item."""
        self.waiting.appendleft(index)
        self.running -= 1


class Queue(Generic[Item, Result]):
    """Merges calls into batches and shares the model out fairly: each batch begins with the next caller in turn.

    Args:
        run: Makes results of a batch's items, given as (call, index) pairs.
        budget: Tokens a batch may hold; a longer item is a batch by itself.
        shrink: Told of an error of a batch; the smaller budget to try again with, or None to let the error stand.
    """

    def __init__(
        self,
        run: Callable[[list[Piece]], Sequence[Result]],
        budget: int,
        shrink: Callable[[BaseException, int], int | None] = lambda _error, _budget: None,
    ) -> None:
        self._run, self.budget, self._shrink = run, budget, shrink
        self._calls: deque[Call[Item, Result]] = deque()
        self._outside: deque[object] = deque()
        self._changed = threading.Condition()
        self._busy = False

    def __len__(self) -> int:
        """Calls in line."""
        return len(self._calls)

    def results(self, call: Call[Item, Result], until: Until = NEVER) -> Iterator[list[tuple[int, Result]]]:
        """What is made of a call's items, as it comes: (index, result) pairs, till all are there or `until` is reached.

        Leaving the iterator early takes the call out of the queue.
        """
        try:
            if not self._enter(call, until):
                return
            while True:
                self._advance(call, until)
                with self._changed:
                    ready, call.ready = call.ready, []
                    finished = call.finished
                if ready:
                    yield ready
                if call.error is not None:
                    raise call.error
                if finished or until.reached:
                    return
        finally:
            self._leave(call)

    def _enter(self, call: Call[Item, Result], until: Until) -> bool:
        ticket = object()
        with self._changed:
            self._outside.append(ticket)
            try:
                while len(self._calls) >= PLACES or self._outside[0] is not ticket:
                    if until.reached:
                        return False
                    self._changed.wait(_patience(until))
                self._calls.append(call)
            finally:
                self._outside.remove(ticket)
                self._changed.notify_all()
        return True

    def _leave(self, call: Call[Item, Result]) -> None:
        with self._changed:
            if call in self._calls:
                self._calls.remove(call)
            call.waiting.clear()
            self._changed.notify_all()

    def _advance(self, call: Call[Item, Result], until: Until) -> None:
        """Return once there is something new for a call: run a batch, or wait for whoever runs one."""
        leads = False
        try:
            with self._changed:
                while not call.ready and not call.finished and not until.reached:
                    if not self._busy:
                        leads = self._busy = True
                        break
                    self._changed.wait(_patience(until))
            if leads:
                self._lead()
        finally:
            if leads:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _lead(self) -> None:
        """Run one batch. Only one thread at a time is here."""
        with self._changed:
            pieces = self._next_batch()
        try:
            results = self._run(pieces)
        except Exception as error:  # noqa: BLE001
            self._failed(pieces, error)
            return
        except BaseException:
            # Ctrl-C in the thread that happened to run the batch: the others' items are read by another.
            self._put_back(pieces)
            raise
        with self._changed:
            for (call, index), result in zip(pieces, results, strict=True):
                call.running -= 1
                if isinstance(result, BaseException):
                    call.error = result
                else:
                    call.ready.append((index, result))

    def _next_batch(self) -> list[Piece]:
        pieces: list[Piece] = []
        room = self.budget
        held = sum(call.holds for call in self._calls if call.begun and not call.finished)
        for call in list(self._calls):
            begins = not call.begun
            late = begins and held and held + call.holds > self.budget
            taken, room = ([], room) if late else call.take(room, alone=not pieces)
            held += call.holds if begins and taken else 0
            if taken and not pieces:
                self._calls.remove(call)  # to the end of the line
                self._calls.append(call)
            pieces += [(call, index) for index in taken]
        return pieces

    def _put_back(self, pieces: list[Piece]) -> None:
        with self._changed:
            for call, index in reversed(pieces):
                call.put_back(index)

    def _failed(self, pieces: list[Piece], error: Exception) -> None:
        smaller = self._shrink(error, self.budget)
        if smaller is not None and len(pieces) > 1:
            self.budget = smaller
            self._put_back(pieces)
            return
        with self._changed:
            for call, _ in pieces:
                call.error = error


def _patience(until: Until) -> float | None:
    """How long to wait before looking at `until` again."""
    if until.cancel is not None:
        return LOOK
    return None if until.deadline is None else max(0.0, until.deadline - time.monotonic()) + 0.001
