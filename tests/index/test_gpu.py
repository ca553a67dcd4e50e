"""Dense search on GPUs, against a fake FAISS with a GPU's limits, and on a real GPU where available."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.test_dense import clustered, fill, ids, nearest
from qwen3_rag.index import bitmap, gpu
from qwen3_rag.index.exact import faiss
from qwen3_rag.index.gpu import GpuRows, search_device
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import Store
from qwen3_rag.index.upkeep import Upkeep


class FakeFaiss:
    """FAISS with `cards` GPUs, whose indexes have no selector and no removal, and return at most 2,048 results."""

    def __init__(self, cards: int) -> None:
        self.real, self.cards, self.searches = faiss(), cards, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_num_gpus(self) -> int:
        return self.cards

    class StandardGpuResources:
        def setTempMemory(self, size: int) -> None:  # noqa: N802
            assert size == gpu.TEMPORARY

    def GpuIndexFlatConfig(self) -> Any:  # noqa: N802
        return SimpleNamespace(useFloat16=False, device=0)

    def GpuIndexFlatIP(self, resources: object, dimensions: int, config: Any) -> Any:  # noqa: N802
        assert config.useFloat16
        assert config.device < self.cards
        index = self.real.IndexScalarQuantizer(
            dimensions, self.real.ScalarQuantizer.QT_fp16, self.real.METRIC_INNER_PRODUCT
        )
        outer = self

        class Card:
            ntotal = property(lambda self: index.ntotal)

            def add(self, rows: np.ndarray) -> None:
                assert rows.dtype == np.float32
                index.add(rows)

            def search(self, query: np.ndarray, k: int) -> Any:
                assert k <= 2048
                outer.searches += 1
                return index.search(query, k)

        return Card()

    INDICES_64_BIT = 7

    def GpuMultipleClonerOptions(self) -> Any:  # noqa: N802
        return SimpleNamespace(shard=False, indicesOptions=0)

    def index_cpu_to_gpu_multiple_py(self, resources: list[Any], index: Any, co: Any) -> Any:
        assert len(resources) == self.cards
        assert (co.shard, co.indicesOptions) == (True, self.INDICES_64_BIT)
        outer = self

        class Cards:
            def search(self, query: np.ndarray, k: int, params: Any) -> Any:
                assert k <= 2048 >= params.nprobe
                outer.searches += 1
                # A GPU index ignores selectors.
                return index.search(query, k, params=outer.real.SearchParametersIVF(nprobe=params.nprobe))

        return Cards()


@pytest.fixture(params=[1, 3])
def cards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeFaiss:
    module = FakeFaiss(request.param)
    monkeypatch.setattr(gpu, "faiss", lambda: module)
    monkeypatch.setattr(gpu, "CHUNK", 100)
    return module


def test_search_device_is_gpu_only_with_the_gpu_wheel_and_a_device(cards: FakeFaiss) -> None:
    assert search_device() == "gpu"
    cards.cards = 0
    assert search_device() == "cpu"


def test_gpu_rows_return_the_stores_row_numbers_from_every_card(cards: FakeFaiss) -> None:
    rows, query = clustered(1010), clustered(1, seed=1)[0]
    gpu_rows = GpuRows(32, 1)
    for start in range(0, 1010, 330):
        gpu_rows.add(rows[start : start + 330])
    half = rows.astype(np.float16)
    (hits,) = gpu_rows.search(query[None], 60, None, 1010)
    assert hits[0].tolist() == nearest(half, query, 60)
    # A commit with fewer rows than the GPU already holds.
    (hits,) = gpu_rows.search(query[None], 60, None, 500)
    assert hits[0].tolist() == nearest(half[:500], query, 60)


def test_gpu_rows_leave_out_rows_that_are_not_allowed_or_defer_to_the_cpu(cards: FakeFaiss) -> None:
    rows, query = clustered(5000), clustered(1, seed=1)[0]
    gpu_rows = GpuRows(32, 1)
    gpu_rows.add(rows)
    allowed = np.arange(5000) % 3 > 0
    (hits,) = gpu_rows.search(query[None], 50, bitmap.from_rows(np.flatnonzero(allowed), 5000), 5000)
    assert hits[0].tolist() == nearest(rows.astype(np.float16), query, 50, allowed)
    assert len(gpu_rows.search(query[None], 50, bitmap.from_rows(np.arange(60), 5000), 5000)[0][0]) < 50
    assert len(gpu_rows.search(query[None], 2049, None, 5000)[0][0]) == 0


def test_searches_on_a_gpu_follow_writes_removals_and_filters(
    cards: FakeFaiss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "store", {}, dimensions=32)
    rows, query = clustered(900), clustered(1, seed=1)[0]
    half, live = rows.astype(np.float16), np.zeros(900, dtype=bool)
    on_gpu = Retriever(store)
    assert on_gpu.gpus.device == "gpu"
    for start in range(0, 900, 300):
        fill(store, rows[start : start + 300], start)
        live[start : start + 300] = True
        store.write([], remove=[str(i) for i in range(start, start + 300, 4)])
        live[start : start + 300 : 4] = False
        before = cards.searches
        assert ids(on_gpu, query, 30) == nearest(half, query, 30, live)
        assert cards.searches > before
        allowed = live & (np.arange(900) % 10 == 3)
        assert ids(on_gpu, query, 30, {"n": 3}) == nearest(half, query, 30, allowed)
    store.close()


def test_inverted_lists_are_searched_on_the_gpu_after_optimize_ivf(
    cards: FakeFaiss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "store", {}, dimensions=32)
    rows = clustered(6000)
    fill(store, rows)
    Upkeep(store).optimize("ivf", 0.95, None)
    store.write([], remove=["5"])
    on_gpu, on_cpu = Retriever(store), Retriever(store)
    on_cpu.gpus.device = "cpu"
    monkeypatch.setattr(GpuRows, "search", None)
    for query in clustered(5, seed=1):
        before = cards.searches
        assert ids(on_gpu, query, 50) == ids(on_cpu, query, 50)
        assert cards.searches == before + 1
        few = {"n": {"$in": [1, 2]}}
        assert set(ids(on_gpu, query, 50, few)) == set(ids(on_cpu, query, 50, few))
    store.close()


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_several_queries_on_a_gpu_get_the_results_that_each_gets_alone(
    cards: FakeFaiss, tmp_path: Path, index: str
) -> None:
    store = Store.create(tmp_path / "store", {}, dimensions=32)
    fill(store, clustered(2000))
    Upkeep(store).optimize(index, 0.9, None)
    store.write([], remove=[str(i) for i in range(0, 2000, 3)])
    on_gpu, queries = Retriever(store), clustered(7, seed=1)
    for k in (10, 400, 600):  # with 600 the cards fall short, and the CPU searches
        before = cards.searches
        together = on_gpu.search_many([""] * 7, queries, k, "dense", {"n": {"$gte": 2}})
        assert cards.searches - before <= cards.cards
        for query, candidates in zip(queries, together, strict=True):
            assert [int(p.document_id) for p, _ in candidates] == ids(on_gpu, query, k, {"n": {"$gte": 2}})
            assert len(candidates) == k
    store.close()


def test_an_index_that_does_not_fit_on_the_gpu_is_searched_on_the_cpu(
    cards: FakeFaiss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("CUDA error 2 out of memory")

    store = Store.create(tmp_path / "store", {}, dimensions=32)
    rows, query = clustered(300), clustered(1, seed=1)[0]
    fill(store, rows)
    on_gpu = Retriever(store)
    monkeypatch.setattr(GpuRows, "add", full)
    assert ids(on_gpu, query, 30) == nearest(rows.astype(np.float16), query, 30)
    assert "searching on the CPU: CUDA error 2 out of memory" in caplog.text
    assert on_gpu.describe()["device"] == "cpu"
    store.close()


@pytest.mark.gpu
@pytest.mark.skipif(search_device() != "gpu", reason="needs faiss-gpu and a CUDA device")
def test_gpu_and_cpu_return_the_same_passages(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", {}, dimensions=32)
    rows = clustered(20_000)
    fill(store, rows)
    on_gpu, on_cpu = Retriever(store), Retriever(store)
    on_cpu.gpus.device = "cpu"
    for query in clustered(20, seed=1):
        assert ids(on_gpu, query, 100)[:50] == ids(on_cpu, query, 100)[:50]
        assert ids(on_gpu, query, 20, {"n": 3}) == ids(on_cpu, query, 20, {"n": 3})
    assert on_gpu.gpus.device == "gpu"
    Upkeep(store).optimize("ivf", 0.95, None)
    for query in clustered(20, seed=1):
        assert len(set(ids(on_gpu, query, 100)) & set(ids(on_cpu, query, 100))) >= 95
    assert on_gpu.gpus.device == "gpu"
    store.close()
