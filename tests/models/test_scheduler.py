"""The scheduler shares batches fairly, bounds its length, and never leaves a call behind."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen3_rag.models.engine import scheduler
from qwen3_rag.models.engine.scheduler import BatchItem, Call, Scheduler
from qwen3_rag.scores import NEVER, Cancellation


class Model:
    """Doubles numbers, records its batches, and can be paused at the start of a batch."""

    def __init__(self, budget: int = 10, **options: Any) -> None:
        self.batches: list[list[int]] = []
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()
        self.errors: list[BaseException] = []
        self.scheduler: Scheduler[int, int] = Scheduler(self.run, budget, **options)

    def run(self, batch: list[BatchItem]) -> list[int]:
        items = [call.items[index] for call, index in batch]
        self.batches.append(items)
        self.begun.set()
        assert self.free.wait(10)
        if self.errors:
            raise self.errors.pop()
        return [2 * item for item in items]

    def double(self, items: list[int], cancellation: Cancellation = NEVER, kv_tokens: int = 0) -> dict[int, int]:
        call: Call[int, int] = Call(items, [1] * len(items), range(len(items)), kv_tokens)
        return {items[i]: result for part in self.scheduler.results(call, cancellation) for i, result in part}


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    assert len(model.scheduler) == 0, "every call has left the queue"


def together(model: Model, calls: list[Callable[[], Any]], expected: int | None = None) -> list[Any]:
    """Run each call in a thread, with `expected` calls in the queue before the first batch ends."""
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
    while len(model.scheduler) < min(expected or len(calls), scheduler.MAX_CALLS) and time.monotonic() < deadline:
        time.sleep(0.005)
    model.free.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return results


def test_small_calls_share_batches_and_each_gets_its_own(model: Model) -> None:
    calls = [lambda i=i: model.double([i, 100 + i]) for i in range(6)]
    assert together(model, calls) == [{i: 2 * i, 100 + i: 200 + 2 * i} for i in range(6)]
    assert sorted(map(len, model.batches)) == [2, 10], "the first alone, then the five that arrived meanwhile"


def test_a_long_call_does_not_keep_a_short_one_waiting(model: Model) -> None:
    long, short = list(range(1000, 1200)), [1, 2]
    together(model, [lambda: model.double(long), lambda: model.double(short)])
    first = next(place for place, batch in enumerate(model.batches) if 1 in batch)
    assert first <= 2, "at the latest the batch after next"


def test_two_long_calls_take_turns(model: Model) -> None:
    together(model, [lambda: model.double(list(range(1000, 1050))), lambda: model.double(list(range(50)))])
    owners = ["a" if batch[0] >= 1000 else "b" for batch in model.batches]
    assert owners[:8] == ["a", "b"] * 4 or owners[1:9] == ["a", "b"] * 4 or owners[1:9] == ["b", "a"] * 4


def test_a_cancelled_call_leaves_the_queue_immediately(model: Model) -> None:
    cancel = threading.Event()

    def cancelled() -> tuple[dict[int, int], float]:
        cancel.set()
        started = time.monotonic()
        return model.double([7] * 500, Cancellation(cancel=cancel)), time.monotonic() - started

    (_, (results, seconds)) = together(model, [lambda: model.double([1]), cancelled], expected=1)
    assert results == {}
    assert seconds < 5
    assert not any(7 in batch for batch in model.batches)


def test_a_deadline_passes_while_another_callers_batch_runs(model: Model) -> None:
    waited = []

    def with_deadline() -> dict[int, int]:
        started = time.monotonic()
        results = model.double([7], Cancellation(deadline=started + 0.1))
        waited.append(time.monotonic() - started)
        model.free.set()
        return results

    model.free.clear()
    leader = threading.Thread(target=lambda: model.double([1]))
    leader.start()
    assert model.begun.wait(5)
    assert with_deadline() == {}
    leader.join(5)
    assert 0.1 <= waited[0] < 2


def test_results_before_a_cancellation_are_kept(model: Model) -> None:
    cancel = threading.Event()
    call: Call[int, int] = Call(list(range(40)), [1] * 40, range(40))
    results = []
    for part in model.scheduler.results(call, Cancellation(cancel=cancel)):
        results += part
        cancel.set()
    assert [index for index, _ in results] == list(range(10))


def test_an_error_reaches_the_callers_of_its_batch_only(model: Model) -> None:
    model.errors.append(RuntimeError("broken"))
    first, second = together(model, [lambda: model.double([1]), lambda: model.double([2])])
    assert isinstance(first, RuntimeError)
    assert second == {2: 4}


def test_an_error_as_a_result_reaches_only_its_caller() -> None:
    model = Model()
    model.scheduler._run = lambda batch: [ValueError("no") if c.items[i] == 1 else 0 for c, i in batch]
    with pytest.raises(ValueError, match="no"):
        model.double([1])
    assert model.double([2]) == {2: 0}


def test_interrupting_the_thread_that_runs_a_batch_loses_no_items(model: Model) -> None:
    model.errors.append(KeyboardInterrupt())
    interrupts: list[Any] = []

    def interrupted() -> None:
        try:
            model.double([1])
        except KeyboardInterrupt as error:
            interrupts.append(error)

    _, second = together(model, [interrupted, lambda: model.double([2])])
    assert len(interrupts) == 1
    assert second == {2: 4}


def test_closing_the_iterator_removes_its_call(model: Model) -> None:
    call: Call[int, int] = Call(list(range(40)), [1] * 40, range(40))
    iterator = model.scheduler.results(call)
    next(iterator)
    assert len(model.scheduler) == 1
    iterator.close()
    assert len(model.scheduler) == 0


def test_running_out_of_memory_halves_the_budget_and_loses_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LEAST_BUDGET", 1)
    model = Model(budget=8, out_of_memory=lambda error: isinstance(error, MemoryError))
    model.errors += [MemoryError(), MemoryError()]
    assert model.double(list(range(8))) == {i: 2 * i for i in range(8)}
    assert list(map(len, model.batches)) == [8, 4, 2, 2, 2, 2]


def test_callers_beyond_max_calls_wait_for_a_slot(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MAX_CALLS", 3)
    queue_lengths = []
    model.scheduler._run = lambda batch: (queue_lengths.append(len(model.scheduler)), model.run(batch))[1]
    results = together(model, [lambda i=i: model.double([i]) for i in range(12)])
    assert results == [{i: 2 * i} for i in range(12)]
    assert max(queue_lengths) <= 3


def test_prefixes_kept_in_memory_are_bounded(model: Model) -> None:
    kv_tokens_in_memory: list[int] = []

    def run(batch: list[BatchItem]) -> list[int]:
        kv_tokens_in_memory.append(
            sum(call.kv_tokens for call in model.scheduler._calls if call.begun and not call.finished)
        )
        return model.run(batch)

    model.scheduler._run = run
    results = together(model, [lambda i=i: model.double(list(range(i, i + 30)), kv_tokens=6) for i in range(5)])
    assert all(len(result) == 30 for result in results)
    assert max(kv_tokens_in_memory) <= 10


def test_an_item_longer_than_the_budget_is_a_batch_by_itself(model: Model) -> None:
    call: Call[int, int] = Call([1, 2], [50, 1], [0, 1])
    assert [index for part in model.scheduler.results(call) for index, _ in part] == [0, 1]
    assert model.batches == [[1], [2]]


def test_a_call_without_items_runs_no_batch(model: Model) -> None:
    assert model.double([]) == {}
    assert model.batches == []
