"""BM25 scores equal a direct evaluation on all passages, for any split of them into segments and tail."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_rag import Document
from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index import bitmap, lexical
from qwen3_rag.index.lexical import Bm25, Tail
from qwen3_rag.index.protocols import Norm
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.segment_worker import write_in_process
from qwen3_rag.index.segments import Segment, hash_of, merge, write_segment
from qwen3_rag.index.store import PassageRow, Store
from qwen3_rag.index.text import query_terms, terms_of
from qwen3_rag.index.upkeep import Upkeep

WORDS = ["tide", "moon", "sea", "getUserName", "user", "潮汐", "潮", "été", "القمر", "the"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def bm25(texts: dict[int, str], query: str, allowed: set[int]) -> list[tuple[int, float]]:
    """Reference BM25: K1 = 1.2, B = 0.75, the weight of a term ln(1 + (N − n + 1/2) / (n + 1/2))."""
    counts: dict[int, Counter[str]] = {number: terms_of(text) for number, text in texts.items()}
    lengths = {number: sum(c.values()) for number, c in counts.items()}
    mean = max(1.0, sum(lengths.values()) / max(1, len(lengths)))
    scores = []
    for number, c in counts.items():
        score = 0.0
        for term in query_terms(query):
            n = sum(term in other for other in counts.values())
            weight = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            score += weight * 2.2 * c[term] / (c[term] + 1.2 * (0.25 + 0.75 * lengths[number] / mean))
        if score > 0 and number in allowed:
            scores.append((number, score))
    return sorted(scores, key=lambda entry: (-entry[1], entry[0]))


def tail_of(texts: list[tuple[int, str]], first: int, rows: int, step: int, block_size: int, max_merged: int) -> Tail:
    """A tail with `step` passages added at a time, and these limits on its blocks."""
    tail = Tail(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexical, "BLOCK_SIZE", block_size)
        patch.setattr(lexical, "MAX_MERGED", max_merged)
        for start in range(first, rows, step):
            stop = min(start + step, rows)
            tail.add([entry for entry in texts if start <= entry[0] < stop], stop)
    return tail


@given(
    texts=st.lists(TEXT, min_size=1, max_size=24),
    query=TEXT,
    cuts=st.tuples(*[st.integers(0, 24)] * 3),
    sizes=st.tuples(st.integers(1, 24), st.sampled_from((1, 8, 65_536)), st.sampled_from((2, 16, 65_536))),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_ranking_is_bm25_over_any_split(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    query: str,
    cuts: tuple[int, ...],
    sizes: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("words")
    one, two, three = sorted(min(cut, len(texts)) for cut in cuts)
    numbered = list(enumerate(texts))
    parts = [
        Segment(folder, write_segment(folder, 1, start, stop - start, numbered[start:stop]))
        for start, stop in ((0, one), (one, two), (two, three))
        if stop > start
    ]
    tail = tail_of(numbered, three, len(texts), *sizes)
    allowed = data.draw(st.sets(st.integers(0, len(texts) - 1)))
    packed = bitmap.from_rows(np.array(sorted(allowed), dtype=np.int64), len(texts))
    merged = [Segment(folder, merge(folder, 1, parts))] if parts else []
    for segments in (parts, merged):
        for searched, filter in ((set(range(len(texts))), None), (allowed, packed)):
            expected = bm25(dict(numbered), query, searched)
            rows, scores = Bm25([*segments, tail], len(texts), len(texts)).search(query, 50, filter)
            assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(dict(expected), rel=1e-5)
            assert (np.diff(scores) <= 0).all()
            for many, k in itertools.product((0, 2, 4096), (1, 3)):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(lexical, "MANY", many)
                    best = Bm25([*segments, tail], len(texts), len(texts)).search(query, k, filter)
                assert best[0].tolist() == rows[:k].tolist()
                assert best[1].tolist() == scores[:k].tolist()


@pytest.mark.parametrize("block_size", [1, 50, 65_536])
def test_a_search_sees_only_the_rows_of_its_commit(block_size: int) -> None:
    generator = np.random.default_rng(1)
    texts = [(i, " ".join(generator.choice(WORDS, 9))) for i in range(90)]
    for rows in (0, 1, 40, 89):
        commit = tail_of(texts[:rows], 0, rows, 7, block_size, 65_536)
        more = tail_of(texts, 0, 90, 7, block_size, 65_536)
        expected = Bm25([commit], rows, rows).search("tide moon the 潮汐", 20, None)
        numbers, scores = Bm25([more], rows, rows).search("tide moon the 潮汐", 20, None)
        assert numbers.tolist() == expected[0].tolist()
        assert scores.tolist() == expected[1].tolist()


class GrowingTail:
    """A tail that gains passages whenever postings are looked up."""

    norm: Norm | None = None

    def __init__(self, tail: Tail) -> None:
        self.tail, self.first = tail, tail.first

    @property
    def lengths(self) -> np.ndarray:
        return self.tail.lengths

    def postings(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.tail)
        self.tail.add([(count, "tide tide"), (count + 1, "moon")], count + 2)
        return self.tail.postings(term)


def test_a_search_beside_adding_gives_the_scores_of_its_commit() -> None:
    texts = [(0, "tide moon"), (1, "moon"), (2, "the sea"), (3, "tide")]
    part = GrowingTail(tail_of(texts, 0, 4, 4, 65_536, 65_536))
    rows, scores = Bm25([part], 4, 4).search("tide moon sea", 9, None)
    expected = bm25(dict(texts), "tide moon sea", {0, 1, 2, 3})
    assert len(part.tail) == 10
    assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(dict(expected), rel=1e-5)


def test_a_tail_has_few_blocks_however_passages_are_added() -> None:
    texts = [(i, f"word{i} other{i}") for i in range(600)]
    tail = tail_of(texts, 0, 600, 1, 64, 65_536)
    sizes = [block.size for block in tail._blocks]
    assert sum(sizes) == sum(len(terms_of(text)) for _, text in texts)
    assert all(size >= 2 * later for size, later in itertools.pairwise(sizes))
    assert len(sizes) < 12
    assert tail.postings(hash_of("word7"))[0].tolist() == [7]
    large = tail_of(texts, 0, 600, 1, 64, 100)
    assert max(block.size for block in large._blocks) < 300, "large blocks are not merged"


def test_passages_can_be_added_to_a_tail_after_reading_their_texts_failed() -> None:
    def failing() -> Iterator[tuple[int, str]]:
        yield 0, "tide"
        yield 1, "moon"
        raise OSError("the disk fails")

    tail = Tail(0)
    with pytest.raises(OSError, match="the disk fails"):
        tail.add(failing(), 3)
    size = len(tail)
    tail.add([(0, "tide"), (1, "moon"), (2, "tide")][size:], 3)
    assert tail.lengths.tolist() == [1, 1, 1]
    assert tail.postings(hash_of("tide"))[0].tolist() == [0, 2]


def test_optimize_excludes_removed_passages_from_bm25_statistics(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", {}, dimensions=2)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 8)) for _ in range(60)]
    row = np.zeros(2, dtype=np.float32)
    store.write((Document(t, str(i)), [PassageRow(0, len(t), bytes([i]), row)]) for i, t in enumerate(texts))
    upkeep = Upkeep(store)
    upkeep.optimize("auto", 0.99, None)
    store.write([], remove=[str(i) for i in range(0, 60, 3)])
    retriever = Retriever(store)
    remaining = {i: t for i, t in enumerate(texts) if i % 3}

    def ranked() -> list[tuple[str, float]]:
        return [(p.document_id, s) for p, s in retriever.search("moon getUserName", None, 60, "lexical", None)]

    expected = bm25(remaining, "moon getUserName", set(remaining))
    assert {name for name, _ in ranked()} == {str(i) for i, _ in expected}
    upkeep.optimize("auto", 0.99, None)
    assert dict(ranked()) == pytest.approx({str(i): s for i, s in expected}, rel=1e-5)
    assert store.last_commit().removed == 0
    assert len(retriever.view().words) == 1
    store.close()


def test_a_segment_written_in_another_process_is_the_same(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", {}, dimensions=8)
    texts = ["the tide rises", "", "潮汐 getUserName", "tide tide"]
    rows = [PassageRow(0, 99, bytes([i]), np.ones(8, dtype=np.float32)) for i in range(4)]
    store.write([(Document(text or "x", str(i)), [row]) for i, (text, row) in enumerate(zip(texts, rows, strict=True))])
    by_worker = write_in_process(store.folder, 1, 1, 3)
    assert by_worker is not None
    with store.snapshot():
        local = write_segment(store.folder, 1, 1, 3, store.searched(1, 4))
    assert (by_worker.first, by_worker.rows, by_worker.digest) == (1, 3, local.digest)
    assert write_in_process(store.folder, 1, 1, 4) is None  # no such passage
    assert write_in_process(store.folder, 2, 1, 3) is None  # no such generation
    store.close()


def test_a_truncated_or_missing_segment_is_an_error(tmp_path: Path) -> None:
    name = write_segment(tmp_path, 1, 0, 2, [(0, "tide"), (1, "moon")])
    path = tmp_path / name.file
    assert [p.name for p in tmp_path.iterdir()] == [name.file]
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(IndexCorruptedError, match=f"has {len(raw) - 1} bytes; expected {len(raw)}"):
        Segment(tmp_path, name)
    path.unlink()
    with pytest.raises(IndexCorruptedError, match="is missing"):
        Segment(tmp_path, name)
