import numpy as np
import pytest

from qwen3_rag.index import vectors
from qwen3_rag.index.vectors import FlatIndex


@pytest.fixture
def rows() -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def brute(rows: np.ndarray, numbers: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    return numbers[np.argsort(-(rows[numbers - 1] @ query))[:k]].tolist()


def test_search_is_exact_with_additions_removals_and_filters(rows: np.ndarray) -> None:
    index, query = FlatIndex(16), rows[7] + 0.1 * rows[9]
    index.add(np.arange(1, 121), rows[:120])
    index.remove(np.array([8, 50, 999]))
    index.add(np.arange(121, 201), rows[120:])
    left = np.setdiff1d(np.arange(1, 201), [8, 50])
    assert index.search(query, 30)[0].tolist() == brute(rows, left, query, 30)
    allowed = np.array([3, 8, 60, 130, 5000])
    assert index.search(query, 30, allowed)[0].tolist() == brute(rows, np.array([3, 60, 130]), query, 30)
    assert len(index.search(query, 1000)[0]) == len(index) == 198
    assert index.search(query, 5, np.array([], dtype=np.int64))[0].tolist() == []


def test_an_empty_index_finds_nothing() -> None:
    numbers, scores = FlatIndex(4).search(np.ones(4, dtype=np.float32), 5)
    assert (len(numbers), len(scores)) == (0, 0)


class GpuStandIn:
    """The GPU half of FAISS' interface over a CPU index: no removal, no selector, a fresh copy for every clone."""

    def __init__(self, faiss: object) -> None:
        self.faiss, self.clones = faiss, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.faiss, name)

    def get_num_gpus(self) -> int:
        return 1

    class StandardGpuResources:
        def setTempMemory(self, size: int) -> None:  # noqa: N802
            assert size == vectors.GPU_TEMPORARY

    def index_cpu_to_gpu(self, resources: object, device: int, index: object) -> object:
        self.clones += 1
        copy = self.faiss.clone_index(index)  # type: ignore[attr-defined]

        class Clone:
            def search(self, query: np.ndarray, k: int) -> object:
                assert k <= 2048
                return copy.search(query, k)

        return Clone()


def test_the_gpu_copy_follows_the_cpu_and_filters_never_reach_it(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss = GpuStandIn(vectors._faiss())
    monkeypatch.setattr(vectors, "_faiss", lambda: faiss)
    index = FlatIndex(16)
    assert index.device == "gpu"
    index.add(np.arange(1, 101), rows[:100])
    assert index.search(rows[3], 1)[0].tolist() == [4]
    index.search(rows[3], 1)
    assert faiss.clones == 1
    index.remove(np.array([4]))
    assert index.search(rows[3], 1)[0].tolist() != [4]
    assert faiss.clones == 2
    assert index.search(rows[3], 1, np.array([9]))[0].tolist() == [9]
    assert faiss.clones == 2


def test_more_than_the_gpu_can_give_comes_from_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = GpuStandIn(vectors._faiss())
    monkeypatch.setattr(vectors, "_faiss", lambda: faiss)
    index = FlatIndex(2)
    index.add(np.arange(1, 3001), np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32))
    assert len(set(index.search(np.ones(2, dtype=np.float32), 2500)[0].tolist())) == 2500
    assert faiss.clones == 0


@pytest.mark.gpu
@pytest.mark.skipif(vectors.search_device() != "gpu", reason="needs faiss-gpu and a CUDA device")
def test_the_gpu_finds_what_the_cpu_finds(rows: np.ndarray) -> None:
    index = FlatIndex(16)
    index.add(np.arange(1, 201), rows)
    on_gpu = index.search(rows[5], 20)[0].tolist()
    index.device = "cpu"
    assert on_gpu == index.search(rows[5], 20)[0].tolist()
