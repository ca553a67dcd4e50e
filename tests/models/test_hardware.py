"""Which number type "auto" is on a CPU."""

import itertools
from pathlib import Path

import pytest
import torch

from qwen3_rag import Reranker
from qwen3_rag.models.checkpoints import hardware
from qwen3_rag.models.checkpoints.hardware import choose_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def with_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.parametrize(("pays", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_the_faster_type_on_a_cpu(monkeypatch: pytest.MonkeyPatch, pays: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(hardware, "_bfloat16_pays", lambda: pays)
    assert choose_dtype("auto", CPU) == dtype
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16, "a type that is named is taken"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_dtype("auto", CPU) == torch.float32


def test_the_faster_type_is_measured_with_amx_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for lengths, pays in (([1, 1], True), ([2, 1], True), ([1, 2], False)):  # of a product in float32 and in bfloat16
        stretches = itertools.chain.from_iterable([0, length] for length in itertools.cycle(lengths))
        clock = itertools.accumulate(stretches)
        monkeypatch.setattr("time.perf_counter", lambda clock=clock: next(clock))
        assert hardware._bfloat16_pays.__wrapped__() == pays
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert hardware._bfloat16_pays.__wrapped__()


def test_weights_that_would_take_most_of_the_memory_stay_in_16_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_bfloat16_pays", lambda: False)
    monkeypatch.setattr(hardware, "_memory", lambda: 4e9)
    for size, dtype in ((0.9e9, torch.float32), (1.1e9, torch.bfloat16)):
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(int(size))
        assert choose_dtype("auto", CPU, tmp_path) == dtype


def test_a_container_has_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hardware._memory()
    monkeypatch.setattr(hardware, "CGROUP", tmp_path / "memory.max")
    for text, memory in (("1000000\n", 1e6), ("max\n", None)):
        (tmp_path / "memory.max").write_text(text)
        expected = hardware._memory() if memory is None else memory
        assert hardware._memory() == expected
    assert hardware._memory() >= whole


def test_a_model_says_before_loading_what_it_will_run_in(tiny_reranker: Path) -> None:
    reranker = Reranker(str(tiny_reranker))
    planned = reranker.runs_on["dtype"]
    reranker.score("a", ["b"])
    assert reranker.runs_on["dtype"] == planned
