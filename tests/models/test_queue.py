"""The queue's promises: common batches, fair shares, a bound, and nobody left behind."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen3_rag.models import queue
from qwen3_rag.models.queue import Call, Piece, Queue
from qwen3_rag.models.runtimes import NEVER, Until


class Model:
    """Doubles numbers, remembers its batches, and can be held at the start of one."""

    def __init__(self, budget: int = 10, **options: Any) -> None:
        self.batches: list[list[int]] = []
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()
        self.errors: list[BaseException] = []
        self.queue: Queue[int, int] = Queue(self.run, budget, **options)

    def run(self, pieces: list[Piece]) -> list[int]:
        items = [call.items[index] for call, index in pieces]
        self.batches.append(items)
        self.begun.set()
        assert self.free.wait(10)
        if self.errors:
            raise self.errors.pop()
        return [2 * item for item in items]

    def double(self, items: list[int], until: Until = NEVER, holds: int = 0) -> dict[int, int]:
        call: Call[int, int] = Call(items, [1] * len(items), range(len(items)), holds)
        return {items[i]: result for part in self.queue.results(call, until) for i, result in part}


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    yield made
    assert len(made.queue) == 0, "every call has left the queue"


def together(model: Model, calls: list[Callable[[], Any]], expected: int | None = None) -> list[Any]:
    """Run calls in threads of their own, `expected` of them in line before the first batch ends."""
    results: list[Any] = [None] * len(calls)

    def one(place: int) -> None:
        try:
            results[place] = calls[place]()
        except Exception as error:  # noqa: BLE001
            results[place] = error

    model.free.clear()
    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(calls))]
    threads[0].start()
    assert model.begun.wait(5)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 5
    while len(model.queue) < min(expected or len(calls), queue.PLACES) and time.monotonic() < deadline:
        time.sleep(0.005)
    model.free.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return results


def test_small_calls_share_batches_and_each_gets_its_own(model: Model) -> None:
    calls = [lambda i=i: model.double([i, 100 + i]) for i in range(6)]
    assert together(model, calls) == [{i: 2 * i, 100 + i: 200 + 2 * i} for i in range(6)]
    assert sorted(map(len, model.batches)) == [2, 10], "the first alone, then the five that had come meanwhile"


def test_a_long_call_does_not_keep_a_short_one_waiting(model: Model) -> None:
    long, short = list(range(1000, 1200)), [1, 2]
    together(model, [lambda: model.double(long), lambda: model.double(short)])
    first = next(place for place, batch in enumerate(model.batches) if 1 in batch)
    assert first <= 2, "at the latest the batch after next"


def test_two_long_calls_take_turns(model: Model) -> None:
    together(model, [lambda: model.double(list(range(1000, 1050))), lambda: model.double(list(range(50)))])
    owners = ["a" if batch[0] >= 1000 else "b" for batch in model.batches]
    assert owners[:8] == ["a", "b"] * 4 or owners[1:9] == ["a", "b"] * 4 or owners[1:9] == ["b", "a"] * 4


def test_a_cancelled_call_leaves_at_once_with_what_it_has(model: Model) -> None:
    cancel = threading.Event()

    def cancelled() -> tuple[dict[int, int], float]:
        cancel.set()
        started = time.monotonic()
        return model.double([7] * 500, Until(cancel=cancel)), time.monotonic() - started

    (_, (found, seconds)) = together(model, [lambda: model.double([1]), cancelled], expected=1)
    assert found == {}
    assert seconds < 5
    assert not any(7 in batch for batch in model.batches)


def test_a_deadline_passes_while_another_callers_batch_runs(model: Model) -> None:
    waited = []

    def hurried() -> dict[int, int]:
        started = time.monotonic()
        found = model.double([7], Until(deadline=started + 0.1))
        waited.append(time.monotonic() - started)
        model.free.set()
        return found

    model.free.clear()
    leader = threading.Thread(target=lambda: model.double([1]))
    leader.start()
    assert model.begun.wait(5)
    assert hurried() == {}
    leader.join(5)
    assert 0.1 <= waited[0] < 2


def test_what_was_read_before_the_end_is_kept(model: Model) -> None:
    cancel = threading.Event()
    call: Call[int, int] = Call(list(range(40)), [1] * 40, range(40))
    found = []
    for part in model.queue.results(call, Until(cancel=cancel)):
        found += part
        cancel.set()
    assert [index for index, _ in found] == list(range(10))


def test_an_error_reaches_the_callers_of_its_batch_only(model: Model) -> None:
    model.errors.append(RuntimeError("broken"))
    first, second = together(model, [lambda: model.double([1]), lambda: model.double([2])])
    assert isinstance(first, RuntimeError)
    assert second == {2: 4}


def test_an_error_as_a_result_is_its_callers_alone() -> None:
    made = Model()
    made.queue._run = lambda pieces: [ValueError("no") if c.items[i] == 1 else 0 for c, i in pieces]
    with pytest.raises(ValueError, match="no"):
        made.double([1])
    assert made.double([2]) == {2: 0}


def test_interrupting_the_thread_that_runs_a_batch_loses_nobodys_items(model: Model) -> None:
    model.errors.append(KeyboardInterrupt())
    kept: list[Any] = []

    def interrupted() -> None:
        try:
            model.double([1])
        except KeyboardInterrupt as error:
            kept.append(error)

    _, second = together(model, [interrupted, lambda: model.double([2])])
    assert len(kept) == 1
    assert second == {2: 4}


def test_an_iterator_that_is_left_takes_its_call_out(model: Model) -> None:
    call: Call[int, int] = Call(list(range(40)), [1] * 40, range(40))
    iterator = model.queue.results(call)
    next(iterator)
    assert len(model.queue) == 1
    iterator.close()
    assert len(model.queue) == 0


def test_running_out_of_memory_halves_the_budget_and_loses_nothing() -> None:
    shrink = lambda error, budget: budget // 2 if isinstance(error, MemoryError) else None  # noqa: E731
    made = Model(budget=8, shrink=shrink)
    made.errors += [MemoryError(), MemoryError()]
    assert made.double(list(range(8))) == {i: 2 * i for i in range(8)}
    assert list(map(len, made.batches)) == [8, 4, 2, 2, 2, 2]


def test_more_callers_than_places_wait_outside(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PLACES", 3)
    most = []
    model.queue._run = lambda pieces: (most.append(len(model.queue)), model.run(pieces))[1]
    results = together(model, [lambda i=i: model.double([i]) for i in range(12)])
    assert results == [{i: 2 * i} for i in range(12)]
    assert max(most) <= 3


def test_prefixes_kept_in_memory_are_bounded(model: Model) -> None:
    alive: list[int] = []

    def run(pieces: list[Piece]) -> list[int]:
        alive.append(sum(call.holds for call in model.queue._calls if call.begun and not call.finished))
        return model.run(pieces)

    model.queue._run = run
    results = together(model, [lambda i=i: model.double(list(range(i, i + 30)), holds=6) for i in range(5)])
    assert all(len(found) == 30 for found in results)
    assert max(alive) <= 10


def test_an_item_longer_than_the_budget_is_a_batch_by_itself(model: Model) -> None:
    call: Call[int, int] = Call([1, 2], [50, 1], [0, 1])
    assert [index for part in model.queue.results(call) for index, _ in part] == [0, 1]
    assert model.batches == [[1], [2]]


def test_nothing_to_read_is_nothing(model: Model) -> None:
    assert model.double([]) == {}
    assert model.batches == []
