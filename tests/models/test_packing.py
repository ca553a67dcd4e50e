from hypothesis import given
from hypothesis import strategies as st

from qwen3_rag.models.packing import WINDOW, Layout, batches


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 500))
def test_every_sequence_once_and_no_batch_over_budget(lengths: list[int], budget: int) -> None:
    found = list(batches(lengths, budget))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


def test_the_best_candidates_come_in_the_first_window() -> None:
    lengths = [10] * WINDOW + [500] * WINDOW
    order = [i for batch in batches(lengths, 10_000) for i in batch]
    assert set(order[:WINDOW]) == set(range(WINDOW))


def test_like_lengths_lie_side_by_side() -> None:
    (batch,) = batches([5, 9, 5, 9], 100)
    assert [[5, 9, 5, 9][i] for i in batch] == [9, 9, 5, 5]
    layout = Layout((9, 9, 5, 5), prefix=3)
    assert layout.groups == [(2, 9), (2, 5)]
    assert layout.last_rows == [8, 17, 22, 27]
    assert layout.positions[:2] == [3, 4]
    assert layout.positions[9] == 3
