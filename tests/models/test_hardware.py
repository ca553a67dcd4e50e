"""Which number type "auto" is on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qwen3_rag import Reranker
from qwen3_rag.models.checkpoints import hardware
from qwen3_rag.models.checkpoints.hardware import choose_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Intel processor with bfloat16, but without AMX; its description may be changed."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(hardware, "_bfloat16_pays", hardware._bfloat16_pays.__wrapped__)
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    hardware.CPUINFO.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\n")
    return hardware.CPUINFO


def test_auto_is_float32_on_intel_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16, "a type that is named is taken"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_dtype("auto", CPU) == torch.bfloat16


def test_auto_is_bfloat16_on_other_processors_that_have_it(processor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor.write_text("vendor_id\t: AuthenticAMD\n")
    assert choose_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_dtype("auto", CPU) == torch.float32


def test_the_vendor_is_known_without_proc_too(processor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor.unlink()
    monkeypatch.setattr("platform.processor", lambda: "Intel64 Family 6 Model 207 Stepping 2, GenuineIntel")
    assert choose_dtype("auto", CPU) == torch.float32


def test_weights_that_would_take_much_of_the_memory_stay_in_16_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_free_memory", lambda: 4_000_000_000)
    for size, dtype in ((700_000_000, torch.float32), (900_000_000, torch.bfloat16)):
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(size)
        assert choose_dtype("auto", CPU, tmp_path) == dtype
        assert Reranker(str(tmp_path)).runs_on["dtype"] == str(dtype).removeprefix("torch.")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    assert choose_dtype("auto", CPU, tmp_path) == torch.bfloat16


def test_free_memory_is_the_least_of_machine_and_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(hardware, "CGROUPS", ((tmp_path, "memory.max", "memory.current"),))
    assert hardware._free_memory() == 0, "unknown"
    hardware.MEMINFO.write_text("MemTotal:  100 kB\nMemAvailable:  50 kB\n")
    assert hardware._free_memory() == 51_200
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, free in (("max\n", 51_200), ("9000\n", 8000), ("90000\n", 51_200)):
        (tmp_path / "memory.max").write_text(limit)
        assert hardware._free_memory() == free


def test_a_model_says_before_loading_what_it_will_run_in(tiny_reranker: Path) -> None:
    reranker = Reranker(str(tiny_reranker))
    planned = reranker.runs_on["dtype"]
    reranker.score("a", ["b"])
    assert reranker.runs_on["dtype"] == planned


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_asking_what_a_model_runs_on_computes_nothing_that_a_fork_would_break(tiny_reranker: Path) -> None:
    code = (
        "import os, sys\n"
        "from qwen3_rag import Reranker\n"
        "reranker = Reranker(sys.argv[1])\n"
        "reranker.runs_on\n"
        "if not os.fork():\n"
        "    os._exit(int(reranker.score('a', ['b'])[0] > 1))\n"
        "print(os.wait()[1])\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tiny_reranker)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0"
