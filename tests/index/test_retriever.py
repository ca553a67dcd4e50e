"""Several queries searched together get the results that each gets alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.test_dense import clustered, fill
from qwen3_rag import Document
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.index.lists import Lists
from qwen3_rag.index.retriever import MODES, Candidate, Mode, Retriever
from qwen3_rag.index.store import PassageRow, Store
from qwen3_rag.index.upkeep import Upkeep

ROWS = 3000
QUERIES = [f"text {i * 97 % ROWS} {i}" for i in range(23)]
VECTORS = clustered(len(QUERIES), seed=1)
FILTERS = {"all": None, "half": {"n": {"$lt": 5}}, "narrow": {"n": {"$in": [3]}}, "nothing": {"n": 99}}


@pytest.fixture(scope="module", params=["flat", "ivf"])
def retriever(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    """A store with removed passages and a tail, of which every search finds the same k passages."""
    store = Store.create(tmp_path_factory.mktemp("retriever") / "store", {}, dimensions=32)
    rows = clustered(ROWS)
    fill(store, rows[:2500])
    Upkeep(store).optimize(request.param, 0.9, None)
    fill(store, rows[2500:], 2500)
    store.write([], remove=[str(i) for i in range(0, ROWS, 7)])
    retriever = Retriever(store)
    assert (retriever.view().dense.lists is not None) == (request.param == "ivf")
    yield retriever
    store.close()


def assert_same(together: list[Candidate], alone: list[Candidate]) -> None:
    assert [passage.number for passage, _ in together] == [passage.number for passage, _ in alone]
    assert [s for _, s in together] == pytest.approx([s for _, s in alone], abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filter", FILTERS)
def test_search_many_equals_single_searches(retriever: Retriever, mode: Mode, filter: str) -> None:
    options: tuple[Any, ...] = 50, mode, FILTERS[filter]
    together = retriever.search_many(QUERIES, VECTORS, *options)
    assert len(together) == len(QUERIES)
    for query, vector, candidates in zip(QUERIES, VECTORS, together, strict=True):
        assert_same(candidates, retriever.search(query, vector, *options))


def test_search_many_equals_single_searches_where_more_passages_are_asked_for_than_there_are(
    retriever: Retriever,
) -> None:
    together = retriever.search_many(QUERIES[:3], VECTORS[:3], 5000, "dense", None)
    for query, vector, candidates in zip(QUERIES, VECTORS, together, strict=False):
        assert len(candidates) == retriever.view().commit.live
        assert_same(candidates, retriever.search(query, vector, 5000, "dense", None))


def test_search_many_makes_one_dense_search_of_all_queries(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    dense = retriever.view().dense
    real = dense.search
    monkeypatch.setattr(dense, "search", lambda queries, *rest: calls.append(len(queries)) or real(queries, *rest))
    retriever.search_many(QUERIES, VECTORS, 10, "hybrid", None)
    assert calls == [len(QUERIES)]


def test_a_query_that_the_lists_cannot_answer_is_searched_exactly_beside_the_others(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = retriever.search_many(QUERIES, VECTORS, 20, "dense", None)
    real = Lists.nearest

    def nearest(self: Lists, queries: np.ndarray, *rest: Any) -> list[np.ndarray]:
        candidates = real(self, queries, *rest)
        return [rows if i else rows[:5] for i, rows in enumerate(candidates)]

    monkeypatch.setattr(Lists, "nearest", nearest)
    together = retriever.search_many(QUERIES, VECTORS, 2600, "dense", None)
    assert [len(candidates) for candidates in together] == [retriever.view().commit.live] * len(QUERIES)
    for few, many in zip(expected, together, strict=True):
        assert len({p.number for p, _ in few} & {p.number for p, _ in many[:25]}) >= 18


def test_search_many_of_no_queries_returns_no_results(retriever: Retriever) -> None:
    for mode in MODES:
        assert retriever.search_many([], np.empty((0, 32), np.float32), 5, mode, None) == []


def test_search_many_without_a_vector_for_each_query_is_an_error(retriever: Retriever) -> None:
    with pytest.raises(InvalidArgumentError, match="vectors is None; expected one for each query, for mode 'hybrid'"):
        retriever.search_many(["a"], None, 5, "hybrid", None)
    with pytest.raises(InvalidArgumentError, match=r"have shape \(1, 32\); expected \(2, 32\)"):
        retriever.search_many(["a", "b"], VECTORS[:1], 5, "dense", None)


def test_search_many_sees_what_was_written_before_it(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", {}, dimensions=32)
    retriever, rows = Retriever(store), clustered(3)
    assert retriever.search_many(["new", "old"], rows[:2], 5, "hybrid", None) == [[], []]
    store.write([(Document("new", "new"), [PassageRow(0, 3, b"n", rows[2])])])
    together = retriever.search_many(["new", "old"], rows[:2], 5, "hybrid", None)
    assert [[p.document_id for p, _ in candidates] for candidates in together] == [["new"], ["new"]]
    store.close()
