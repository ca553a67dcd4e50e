"""The scheduler: merges calls from many threads into shared batches.

It has no thread. The first caller to find the model idle runs batches with items of all waiting calls, until its
own call is done. So Ctrl-C leaves no thread behind, and a single caller pays no overhead.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from qwen3_rag.models.engine.work import Work
from qwen3_rag.scores import NEVER, Cancellation

__all__ = ["BatchItem", "Call", "Scheduler"]

# Calls in the queue at once; later ones wait for a slot, first come, first served.
MAX_CALLS = 256
# How often a waiting call checks whether it is cancelled, in seconds.
POLL_SECONDS = 0.05
LEAST_BUDGET = 256  # tokens
logger = logging.getLogger("qwen3_rag")

Item = TypeVar("Item")
Result = TypeVar("Result")
# A call, and the index of one of its items.
BatchItem = tuple["Call[Any, Any]", int]


class Call(Generic[Item, Result]):
    """One caller's items and their results.

    Args:
        items: Inputs of the model.
        weights: Number of tokens of each item.
        order: Indices of the items in processing order.
        kv_tokens: Number of tokens whose keys and values stay in memory while the call runs.
        has_deadline: Whether the caller set a deadline.
    """

    def __init__(
        self,
        items: Sequence[Item],
        weights: Sequence[int],
        order: Sequence[int],
        kv_tokens: int = 0,
        has_deadline: bool = False,
    ) -> None:
        self.items, self.weights, self.kv_tokens, self.has_deadline = items, weights, kv_tokens, has_deadline
        self.waiting = deque(order)
        self.running = 0
        self.ready: list[tuple[int, Result]] = []
        self.error: BaseException | None = None
        self.begun = False

    @property
    def finished(self) -> bool:
        """Whether no more results will follow."""
        return self.error is not None or not (self.waiting or self.running)

    def take(self, budget: int, at_least_one: bool) -> tuple[list[int], int]:
        """Take the next items that fit into `budget` tokens: their indices, and the tokens left."""
        taken: list[int] = []
        if self.error is not None:
            return taken, budget
        while self.waiting and (self.weights[self.waiting[0]] <= budget or (at_least_one and not taken)):
            taken.append(self.waiting.popleft())
            budget -= self.weights[taken[-1]]
        self.running += len(taken)
        self.begun = self.begun or bool(taken)
        return taken, budget

    def put_back(self, index: int) -> None:
        """Undo `take` for one item."""
        self.waiting.appendleft(index)
        self.running -= 1


class Scheduler(Generic[Item, Result]):
    """Merges calls into batches, fairly: each batch starts with the next call in turn.

    Args:
        run: Computes the results of a batch.
        budget: Most tokens in a batch; a longer item is a batch by itself.
        out_of_memory: Whether a batch's error means that it was too large; it then runs again with half the budget.
    """

    def __init__(
        self,
        run: Callable[[list[BatchItem]], Sequence[Result]],
        budget: int,
        out_of_memory: Callable[[BaseException], bool] = lambda _error: False,
    ) -> None:
        self._run, self.budget, self._out_of_memory = run, budget, out_of_memory
        self._calls: deque[Call[Item, Result]] = deque()
        self._overflow: deque[object] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self.work = Work()

    def __len__(self) -> int:
        """Number of calls in the queue."""
        return len(self._calls)

    def results(
        self, call: Call[Item, Result], cancellation: Cancellation = NEVER
    ) -> Iterator[list[tuple[int, Result]]]:
        """Yield (index, result) pairs of a call as they become ready, until it is complete or `cancellation` applies.

        Closing the iterator early removes the call from the queue.
        """
        try:
            if not self._enter(call, cancellation):
                return
            while True:
                self._advance(call, cancellation)
                with self._changed:
                    ready, call.ready = call.ready, []
                    finished = call.finished
                if ready:
                    yield ready
                if call.error is not None:
                    raise call.error
                if finished or cancellation.stop_reason:
                    return
        finally:
            self._leave(call)

    def _enter(self, call: Call[Item, Result], cancellation: Cancellation) -> bool:
        ticket = object()
        with self._changed:
            self._overflow.append(ticket)
            try:
                while len(self._calls) >= MAX_CALLS or self._overflow[0] is not ticket:
                    if cancellation.stop_reason:
                        return False
                    self._changed.wait(_wait_seconds(cancellation))
                self._calls.append(call)
            finally:
                self._overflow.remove(ticket)
                self._changed.notify_all()
        return True

    def _leave(self, call: Call[Item, Result]) -> None:
        with self._changed:
            if call in self._calls:
                self._calls.remove(call)
            call.waiting.clear()
            self._changed.notify_all()

    def _advance(self, call: Call[Item, Result], cancellation: Cancellation) -> None:
        """Run a batch, or wait for another caller's, until the call has new results or must stop."""
        leads = False
        try:
            with self._changed:
                while not call.ready and not call.finished and not cancellation.stop_reason:
                    if not self._busy:
                        leads = self._busy = True
                        break
                    self._changed.wait(_wait_seconds(cancellation))
            if leads:
                self._lead()
        finally:
            if leads:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _lead(self) -> None:
        """Run one batch; only one thread at a time does this."""
        with self._changed:
            batch = self._next_batch()
        try:
            results = self._run(batch)
            if len(results) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} items gave {len(results)} results")
        except Exception as error:  # noqa: BLE001
            self._handle_error(batch, error)
            return
        except BaseException:
            # Ctrl-C in the thread that runs the batch: another caller's thread runs these items.
            self._put_back(batch)
            raise
        with self._changed:
            self._count(batch)
            for (call, index), result in zip(batch, results, strict=True):
                call.running -= 1
                if isinstance(result, BaseException):
                    call.error = result
                else:
                    call.ready.append((index, result))

    def _next_batch(self) -> list[BatchItem]:
        batch: list[BatchItem] = []
        tokens_left = self.budget
        kv_tokens = sum(call.kv_tokens for call in self._calls if call.begun and not call.finished)
        for call in list(self._calls):
            new = not call.begun
            # A call waits to begin while the keys and values already in memory leave no space for its own.
            postponed = new and kv_tokens and kv_tokens + call.kv_tokens > self.budget
            taken, tokens_left = ([], tokens_left) if postponed else call.take(tokens_left, at_least_one=not batch)
            kv_tokens += call.kv_tokens if new and taken else 0
            if taken and not batch:
                self._calls.remove(call)  # moves to the end of the queue
                self._calls.append(call)
            batch += [(call, index) for index in taken]
        return batch

    def _count(self, batch: list[BatchItem]) -> None:
        tokens = sum(call.weights[index] for call, index in batch)
        self.work.batches += 1
        self.work.items += len(batch)
        self.work.tokens += tokens
        self.work.capacity += max(self.budget, tokens)

    def _put_back(self, batch: list[BatchItem]) -> None:
        with self._changed:
            for call, index in reversed(batch):
                call.put_back(index)

    def _handle_error(self, batch: list[BatchItem], error: Exception) -> None:
        if len(batch) > 1 and self.budget >= 2 * LEAST_BUDGET and self._out_of_memory(error):
            half = self.budget // 2
            logger.warning("out of memory on the GPU: going on with %d tokens a batch instead of %d", half, self.budget)
            self.budget = half
            self._put_back(batch)
            return
        with self._changed:
            for call, _ in batch:
                call.error = error


def _wait_seconds(cancellation: Cancellation) -> float | None:
    """Longest wait in seconds before checking `cancellation` again; None waits for a notification."""
    if cancellation.cancel is not None:
        return POLL_SECONDS
    return None if cancellation.deadline is None else max(0.0, cancellation.deadline - time.monotonic()) + 0.001
