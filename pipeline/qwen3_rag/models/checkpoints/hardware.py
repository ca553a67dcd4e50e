"""Which device and which number type a model runs on."""

import platform
from functools import cache
from pathlib import Path

import torch

from qwen3_rag.errors import InvalidArgumentError, UnknownNameError

__all__ = ["choose_device", "choose_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARE = 0.4  # of the free memory that weights in float32 may take
CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


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
    than float32, or if weights in float32 would take too much of the free memory.

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
    """Whether this CPU multiplies faster in bfloat16 than in float32.

    A rule rather than a measurement, which other work on the machine would change from run to run. Intel's processors
    have a fast unit for it, AMX, which virtual machines may hide; their AVX-512 instruction takes longer than two in
    float32 (`benchmarks/dtypes.py`).
    """
    return torch.cpu._is_amx_tile_supported() or "GenuineIntel" not in _vendor()


def _vendor() -> str:
    """A text with the name of the processor's vendor."""
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith("vendor_id")), "")


def _fits_in_float32(folder: Path | None) -> bool:
    """Whether weights that are stored in 16 bits may take twice as much of the free memory."""
    if folder is None:
        return True
    try:
        return 2 * sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= SHARE * _free_memory()
    except OSError:
        return False


def _free_memory() -> int:
    """Bytes that are free on this machine, and in this container; 0 if that is not known."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.is_file() else []
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for folder, limit, used in CGROUPS:
        if (folder / limit).is_file() and (text := (folder / limit).read_text().strip()).isdigit():
            free.append(int(text) - int((folder / used).read_text()))
    return min(free, default=0)
