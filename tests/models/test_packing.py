from hypothesis import given
from hypothesis import strategies as st

from qwen3_rag.models.engine.packing import WINDOW, Layout, PackedSequence, Prefix, reading_order


@given(st.lists(st.integers(1, 300), max_size=200))
def test_every_sequence_is_read_once(lengths: list[int]) -> None:
    assert sorted(reading_order(lengths)) == list(range(len(lengths)))


def test_the_best_candidates_come_in_the_first_window() -> None:
    lengths = [10] * WINDOW + [500] * WINDOW
    assert set(reading_order(lengths)[:WINDOW]) == set(range(WINDOW))


def test_reading_order_puts_similar_lengths_together() -> None:
    assert reading_order([5, 9, 5, 9]) == [1, 3, 0, 2]


def test_positions_restart_after_the_prefix_and_rows_are_end_to_end() -> None:
    prefix = Prefix((7, 8, 9))
    layout = Layout(
        [
            PackedSequence(prefix.ids, computes=prefix),
            PackedSequence((1, 2), prefix=prefix),
            PackedSequence((3,)),
            PackedSequence((4,), prefix=prefix),
        ]
    )
    assert layout.ids == [7, 8, 9, 1, 2, 3, 4]
    assert layout.positions == [0, 1, 2, 3, 4, 0, 3]
    assert layout.results == [1, 2, 3], "a prefix has no result"
    assert layout.last_rows == [4, 5, 6]
