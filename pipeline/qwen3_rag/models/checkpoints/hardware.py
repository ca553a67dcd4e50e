"""Which device and which number type a model runs on."""

import os
import time
from functools import cache
from pathlib import Path

import torch

from qwen3_rag.errors import InvalidArgumentError, UnknownNameError

__all__ = ["choose_device", "choose_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SLOWER = 1.2  # times as long a product in bfloat16 may take: it needs half of the memory
SHARE = 0.5  # of this machine's memory that weights in float32 may take
CGROUP = Path("/sys/fs/cgroup/memory.max")


def choose_device(name: str) -> torch.device:
    """The device with this name; "auto" is the first CUDA device, or the CPU if there is none.

    Raises:
        InvalidArgumentError: PyTorch does not know the device, or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidArgumentError(
            f"device={name!r} cannot be used; expected 'auto', 'cpu', 'cuda', …: {reason}"
        ) from None
    return device


def choose_dtype(name: str, device: torch.device, folder: Path | None = None, int8: bool = False) -> torch.dtype:
    """The type to compute in.

    "auto" is bfloat16 on GPUs since Ampere and float16 on older ones. On a CPU it is bfloat16 if this is faster there
    than float32, which is measured, or if weights in float32 would take more than half of the memory.

    Args:
        name: A type's name, or "auto".
        device: Device to compute on.
        folder: The checkpoint, if it is there.
        int8: Whether the runtime supports int8, which needs a CPU.

    Raises:
        UnknownNameError: The name is not "auto", "float32", "bfloat16" or "float16", nor "int8" where available.
    """
    if name == "int8" and int8 and device.type == "cpu":
        return torch.int8
    if name != "auto":
        if name not in DTYPES:
            hint = "int8 is for the native runtime on a CPU." if name == "int8" else ""
            raise UnknownNameError("dtype", name, ["auto", *DTYPES], hint)
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    # Without these instructions, which CPUs with AMX have too, bfloat16 is emulated.
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16 if _bfloat16_pays() or not _fits_in_float32(folder) else torch.float32
    return torch.float32


@cache
def _bfloat16_pays() -> bool:
    """Whether this CPU multiplies in bfloat16 about as fast as in float32; some without AMX take twice as long."""
    if torch.cpu._is_amx_tile_supported():
        return True
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        for _ in range(6):  # of which the first also prepares
            for dtype, least in seconds.items():
                rows, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
                began = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                seconds[dtype] = min(least, time.perf_counter() - began)
    return seconds[torch.bfloat16] <= SLOWER * seconds[torch.float32]


def _fits_in_float32(folder: Path | None) -> bool:
    """Whether weights that are stored in 16 bits may take twice as much memory."""
    if folder is None:
        return True
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return 2 * size <= SHARE * _memory()


def _memory() -> float:
    """Bytes of memory that this process may have at most."""
    try:
        machine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return float("inf")
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else "max"
    return min(machine, float(limit)) if limit.isdigit() else machine
