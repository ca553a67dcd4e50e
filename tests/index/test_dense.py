"""Exact dense search is exact, and approximate search reaches the recall it reports."""

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_rag import Document
from qwen3_rag.errors import UnknownNameError
from qwen3_rag.index import bitmap, exact, upkeep
from qwen3_rag.index.approximate import build
from qwen3_rag.index.commit import IndexPolicy
from qwen3_rag.index.exact import faiss, scan
from qwen3_rag.index.lists import Lists
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import PassageRow, Store
from qwen3_rag.index.upkeep import Upkeep


def clustered(count: int, dimensions: int = 32, seed: int = 0) -> np.ndarray:
    """Unit vectors in clusters, as those of texts are."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, dimensions))
    rows = centres[generator.integers(0, 40, count)] + 0.6 * generator.normal(size=(count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fill(store: Store, rows: np.ndarray, start: int = 0) -> None:
    store.write(
        (Document(f"text {i}", str(i), metadata={"n": i % 10}), [PassageRow(0, 20, i.to_bytes(8, "big"), row)])
        for i, row in enumerate(rows, start=start)
    )


def nearest(rows: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[int]:
    scores = rows.astype(np.float32) @ query
    if allowed is not None:
        scores[~allowed] = -np.inf
    return np.argsort(-scores, kind="stable")[: k if allowed is None else min(k, int(allowed.sum()))].tolist()


def scanned(rows: np.ndarray, start: int, stop: int, query: np.ndarray, k: int, allowed: Any) -> Any:
    (result,) = scan(rows, start, stop, query[None], k, allowed)
    return result


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_scanning_is_exact(dtype: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "THREADS", threads)
    monkeypatch.setattr(exact, "WORTH_A_THREAD", 1)
    rows, query = clustered(1003).astype(dtype), clustered(1, seed=1)[0]
    assert scanned(rows, 0, 1003, query, 50, None)[0].tolist() == nearest(rows, query, 50)
    allowed = np.random.default_rng(3).random(1003) < 0.3
    packed = bitmap.from_rows(np.flatnonzero(allowed), 1003)
    numbers, scores = scanned(rows, 0, 1003, query, 2000, packed)
    assert numbers.tolist() == nearest(rows, query, 2000, allowed)
    np.testing.assert_allclose(scores, rows[numbers].astype(np.float32) @ query, atol=1e-5)
    tail = allowed & (np.arange(1003) >= 504)
    assert scanned(rows, 504, 1003, query, 20, packed)[0].tolist() == nearest(rows, query, 20, tail)
    assert scanned(rows, 1003, 1003, query, 5, None)[0].tolist() == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", {}, dimensions=32)


def ids(retriever: Retriever, query: np.ndarray, k: int, filter: dict[str, object] | None = None) -> list[int]:
    return [int(p.document_id) for p, _ in retriever.search("", query, k, "dense", filter)]


def test_additions_removals_and_filters_are_exact(store: Store) -> None:
    rows, query = clustered(300), clustered(1, seed=1)[0]
    retriever, live = Retriever(store), np.zeros(300, dtype=bool)
    half = rows.astype(np.float16)
    for start in range(0, 300, 75):
        fill(store, rows[start : start + 75], start)
        live[start : start + 75] = True
        store.write([], remove=[str(i) for i in range(start, start + 75, 7)])
        live[start : start + 75 : 7] = False
        assert ids(retriever, query, 40) == nearest(half, query, 40, live)
        allowed = live & (np.arange(300) % 10 == 3)
        assert ids(retriever, query, 40, {"n": 3}) == nearest(half, query, 40, allowed)
    assert ids(retriever, query, 1000) == nearest(half, query, 1000, live)
    assert ids(retriever, query, 5, {"n": 99}) == []
    store.close()


def test_an_approximate_index_reaches_its_recall_and_the_tail_is_searched_exactly(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows, queries = np.split(clustered(6030), [6000])
    fill(store, rows[:5000])
    retriever = Retriever(store)
    Upkeep(store).optimize("ivf", 0.95, None)
    described = retriever.describe()
    assert "inverted lists" in described["type"]
    assert described["recall@100"] >= 0.95
    assert f"recall@100 {described['recall@100']:.4f}" in caplog.text
    fill(store, rows[5000:], 5000)
    store.write([], remove=[str(i) for i in range(0, 6000, 3)])
    live = np.arange(6000) % 3 > 0
    half = rows.astype(np.float16)
    recalls, filtered_recalls = [], []
    for query in queries:
        for filter, allowed, measured in (
            (None, live, recalls),
            ({"n": {"$in": [1, 2, 3, 4, 5]}}, live & np.isin(np.arange(6000) % 10, [1, 2, 3, 4, 5]), filtered_recalls),
        ):
            hits = ids(retriever, query, 100, filter)
            assert len(hits) == len(set(hits)) == 100
            measured.append(len(set(hits) & set(nearest(half, query, 100, allowed))) / 100)
            assert allowed[hits].all()
        # The tail is searched exactly.
        assert ids(retriever, rows[5500], 1) == [5500]
        # With few allowed passages search is exact, because the index would miss some.
        allowed = live & (np.arange(6000) % 10 == 7)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lists, "nearest", None)
            assert ids(retriever, query, 50, {"n": 7}) == nearest(half, query, 50, allowed)
        few = live & (np.arange(6000) % 10 == 7) & (np.arange(6000) < 100)
        narrow = {"$and": [{"n": 7}, {"n": {"$gte": 7}}]}
        assert len(ids(retriever, query, 5000, narrow)) == (live & (np.arange(6000) % 10 == 7)).sum() >= few.sum()
    assert np.mean(recalls) >= 0.93, np.mean(recalls)
    assert np.mean(filtered_recalls) >= 0.93, np.mean(filtered_recalls)
    Upkeep(store).optimize("flat", 0.99, None)
    assert ids(retriever, rows[1], 100) == nearest(half, rows[1], 100, live)
    store.close()


def test_search_stays_exact_if_the_index_cannot_reach_the_recall(store: Store) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 32)).astype(np.float32)
    fill(store, rows)
    Upkeep(store).optimize("ivf", 0.999, None)
    assert "exact" in Retriever(store).describe()["type"]
    assert not list(store.folder.glob("dense-*"))
    with pytest.raises(UnknownNameError, match="unknown index 'annoy'; expected one of: auto, flat, ivf"):
        Upkeep(store).optimize("annoy", 0.9, None)
    store.close()


def test_an_index_that_missed_its_recall_is_built_again_only_at_twice_as_many_passages(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(1300, 32)).astype(np.float32)
    fill(store, rows[:400])
    Upkeep(store).optimize("ivf", 0.999, None)
    builds: list[int] = []
    monkeypatch.setattr(upkeep, "build", lambda folder, vectors, *_: builds.append(len(vectors)))
    monkeypatch.setattr(upkeep, "TAIL", 50)
    maintenance = Upkeep(store)
    for start in range(400, 1300, 100):
        fill(store, rows[start : start + 100], start)
        maintenance.after_write()
        maintenance._thread.join()
    assert builds == [800]
    maintenance.close()
    store.close()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, 16, 17, 40])
def test_an_approximate_index_of_few_passages_raises_no_error(store: Store, count: int) -> None:
    rows = clustered(count + 1)
    fill(store, rows[:count])
    Upkeep(store).optimize("ivf", 0.5, None)
    assert ids(Retriever(store), rows[count], 50) == nearest(rows[:count].astype(np.float16), rows[count], 50)
    store.close()


@pytest.mark.parametrize("rows", range(801, 808))
def test_an_index_is_built_over_removed_rows_and_a_tail_of_any_length(tmp_path: Path, rows: int) -> None:
    live = bitmap.full(rows) & ~bitmap.from_rows(np.array([3]), rows)
    checkpoint = build(tmp_path, clustered(rows)[: rows // 8 * 8], 1, live, 0.5)
    assert checkpoint is not None
    assert checkpoint.rows == 800


def test_building_an_index_can_be_stopped_and_respects_its_memory_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, stop, sizes = clustered(3000), threading.Event(), []
    real = faiss().Clustering.train

    def train(self: Any, sample: np.ndarray, index: Any) -> None:
        sizes.append(len(sample))
        real(self, sample, index)
        if len(sizes) == 2:
            stop.set()

    monkeypatch.setattr(faiss().Clustering, "train", train)
    assert build(tmp_path, rows, 1, None, 0.5, stop=stop, memory=1000 * 2 * 4 * 32) is None
    assert sizes == [1000, 1000]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_logged_and_search_continues_exactly(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    rows = clustered(2000)
    fill(store, rows)
    Upkeep(store).optimize("ivf", 0.9, None)
    (path,) = store.folder.glob("dense-*")
    original = path.read_bytes()
    checkpoint = store.last_commit().dense
    assert checkpoint is not None
    header = checkpoint.header
    half = rows.astype(np.float16)
    for offset in (header // 3, header - 5, header + 7, len(raw := bytearray(original)) * 2 // 3, len(raw) - 1):
        raw = bytearray(original)
        raw[offset] ^= 16
        path.write_bytes(raw)
        caplog.clear()
        retriever = Retriever(store)
        # A list is checked when it is first visited; after one of these queries visits it, results are exact.
        for row in rows[::7]:
            hits = ids(retriever, row, 50)
            assert retriever.damaged == set() or hits == nearest(half, row, 50)
        assert retriever.damaged == {path.name}
        assert caplog.text.count("does not match its checksum; searching without it") == 1
        assert Upkeep(store).verify() == [f"{path} does not match its checksum"]
    Upkeep(store, lambda: retriever.damaged).optimize("ivf", 0.9, None)
    assert Upkeep(store).verify() == []
    store.close()


def test_indexes_are_rebuilt_in_the_background_while_writing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TAIL", 200), ("SEGMENT", 300), ("APPROXIMATE_FROM", 1000), ("SMALL", 8)):
        monkeypatch.setattr(upkeep, name, value)
    with store.transaction() as transaction:
        transaction.commit = replace(transaction.commit, policy=IndexPolicy("auto", 0.5))
    rows, query, retriever, maintenance = clustered(2500), clustered(1, seed=1)[0], Retriever(store), Upkeep(store)
    half = rows.astype(np.float16)
    for start in range(0, 2500, 100):
        fill(store, rows[start : start + 100], start)
        maintenance.after_write()
        assert ids(retriever, rows[start + 50], 1) == [start + 50]
        assert retriever.search(f"{start + 7}", None, 1, "lexical", None)[0][0].document_id == str(start + 7)
    maintenance.close()
    described = Retriever(store).describe()
    assert described["covers"] >= 1000
    assert described["words"]["covers"] > 2500 - 8
    names = {Path(p).name for p in store.folder.iterdir()}
    assert len([n for n in names if n.startswith("dense-")]) == 1
    assert len([n for n in names if n.startswith("words-")]) == described["words"]["segments"]
    hits = ids(retriever, query, 100)
    assert len(set(hits) & set(nearest(half, query, 100))) >= 50
    store.close()


def test_readers_in_another_process_go_on_while_a_store_is_optimized(store: Store) -> None:
    rows = clustered(3000)
    fill(store, rows)
    code = (
        "import sys, time\nsys.path[:0] = sys.argv[2:]\nfrom pathlib import Path\nimport numpy as np\n"
        "from index.test_dense import clustered, ids, Retriever, Store\n"
        "retriever = Retriever(Store.open(Path(sys.argv[1])))\nrows = clustered(3000)\nend = time.time() + 6\nn = 0\n"
        "print('ready', flush=True)\n"
        "while time.time() < end:\n"
        "    assert ids(retriever, rows[1 + 2 * (n % 1000)], 1) == [1 + 2 * (n % 1000)]; n += 1\nprint(n)"
    )
    arguments = [sys.executable, "-c", code, str(store.folder), str(Path(__file__).parents[1])]
    reader = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for start in range(0, 1000, 200):
        store.write([], remove=[str(i) for i in range(start, start + 200, 2)])
        Upkeep(store).optimize("auto", 0.9, None)
    out, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert int(out) > 20
    store.close()
