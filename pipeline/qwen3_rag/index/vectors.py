"""Dense search by FAISS: exact inner product, on the GPU where there is one, on the CPU otherwise."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import MissingDependencyError

__all__ = ["FlatIndex", "VectorIndex", "load_checkpoint", "search_device", "write_checkpoint"]

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
GPU_MOST_K = 2048  # FAISS' limit on the GPU
GPU_TEMPORARY = 256 << 20  # bytes; FAISS would take 1.5 GiB, which the models need
MAGIC = b"qwen3-rag dense 1\n"
logger = logging.getLogger("qwen3_rag")


class VectorIndex(Protocol):
    """What the retriever needs of a dense index; passages are known by number."""

    def add(self, numbers: Int64, vectors: Float32) -> None:
        """Add vectors; numbers rise from call to call."""

    def remove(self, numbers: Int64) -> None:
        """Remove vectors; unknown numbers are passed over."""

    def search(self, vector: Float32, k: int, allowed: Int64 | None = None) -> tuple[Int64, Float32]:
        """Numbers and scores of the k best, best first; only `allowed` numbers, if given."""

    def __len__(self) -> int:
        """Vectors held."""


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "faiss", "the vector index", "pip install 'qwen3-rag[cpu]', or 'qwen3-rag[gpu]' on a CUDA machine"
        ) from error
    return faiss


def search_device() -> str:
    """Where dense search runs: "gpu" with faiss-gpu and a CUDA device, otherwise "cpu"."""
    faiss = _faiss()
    # The CPU wheel has get_num_gpus too; only the GPU wheel has resources.
    return "gpu" if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 else "cpu"


class FlatIndex:
    """Exact inner product over all vectors.

    Args:
        dimensions: Values in a vector.

    The CPU's copy is the truth. The GPU's is cloned from it when it has changed: GPU indexes can neither remove
    vectors nor heed a filter, so filtered searches run on the CPU.
    """

    def __init__(self, dimensions: int) -> None:
        self._faiss = _faiss()
        self._flat = self._faiss.IndexFlatIP(dimensions)
        self.numbers: Int64 = np.empty(0, dtype=np.int64)
        self.device = search_device()
        self._resources: Any = None
        self._clone: Any = None

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, numbers: Int64, vectors: Float32) -> None:
        """Add vectors (n, dimensions); numbers rise from call to call."""
        self._flat.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self.numbers = np.concatenate([self.numbers, numbers])
        self._clone = None

    def remove(self, numbers: Int64) -> None:
        """Remove vectors; unknown numbers are passed over."""
        places = np.flatnonzero(np.isin(self.numbers, numbers))
        if len(places):
            # A flat index closes the gaps, as np.delete does: places and numbers stay in step.
            self._flat.remove_ids(self._faiss.IDSelectorBatch(places))
            self.numbers = np.delete(self.numbers, places)
            self._clone = None

    def search(self, vector: Float32, k: int, allowed: Int64 | None = None) -> tuple[Int64, Float32]:
        """Numbers and inner products of the k best for one vector (dimensions,), best first."""
        if allowed is not None:
            allowed = np.flatnonzero(np.isin(self.numbers, allowed))
        k = min(k, len(self) if allowed is None else len(allowed))
        if k == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        row = np.ascontiguousarray(vector, dtype=np.float32)[None]
        if allowed is not None:
            chosen = self._faiss.SearchParameters(sel=self._faiss.IDSelectorBatch(allowed))
            scores, places = self._flat.search(row, k, params=chosen)
        elif self.device == "gpu" and k <= GPU_MOST_K:
            scores, places = self._on_gpu().search(row, k)
        else:
            scores, places = self._flat.search(row, k)
        return self.numbers[places[0]], scores[0]

    def _on_gpu(self) -> Any:
        if self._resources is None:
            self._resources = self._faiss.StandardGpuResources()
            self._resources.setTempMemory(GPU_TEMPORARY)
        if self._clone is None:
            self._clone = self._faiss.index_cpu_to_gpu(self._resources, 0, self._flat)
        return self._clone

    def to_bytes(self) -> bytes:
        """The index as FAISS writes it."""
        return self._faiss.serialize_index(self._flat).tobytes()  # type: ignore[no-any-return]

    def restore(self, written: bytes, numbers: Int64) -> bool:
        """Take over what `to_bytes` wrote; False if it does not fit."""
        flat = self._faiss.deserialize_index(np.frombuffer(written, dtype=np.uint8))
        if flat.d != self._flat.d or flat.ntotal != len(numbers):
            return False
        self._flat, self.numbers, self._clone = flat, numbers, None
        return True


def write_checkpoint(path: Path, index: FlatIndex, commit: int) -> None:
    """Write the index beside the store, whole or not at all: a temporary file, synced, renamed."""
    header = json.dumps({"commit": commit, "count": len(index)}).encode() + b"\n"
    body = header + index.numbers.tobytes() + index.to_bytes()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, index: FlatIndex) -> int | None:
    """Fill the index from a checkpoint; its commit, or None if it is missing or (which is logged) damaged.

    The checksum is compared before FAISS sees a byte: a flipped bit can make it hang or answer wrongly.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, _, body = raw.removeprefix(MAGIC).partition(b"\n")
    if raw.startswith(MAGIC) and hashlib.sha256(body).hexdigest().encode() == digest:
        line, _, rest = body.partition(b"\n")
        header = json.loads(line)
        split = 8 * header["count"]
        if index.restore(rest[split:], np.frombuffer(rest[:split], dtype=np.int64).copy()):
            return int(header["commit"])
    logger.warning("%s is damaged; rebuilding it from the store", path)
    return None
