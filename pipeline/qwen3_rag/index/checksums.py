"""Mapped derived files whose blocks are checked against their digests on first read, so that opening is cheap."""

from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index.folder import Folder, Mapped

__all__ = ["Checksums", "DerivedFileError", "digest_of", "digests_of", "mapped"]

Int64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class DerivedFileError(IndexCorruptedError):
    """A derived file is missing or damaged; search continues without it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.file = path.name


def digest_of(*parts: Bytes) -> int:
    """XXH3 of concatenated byte arrays, as the signed 64-bit integer that SQLite and JSON store."""
    hasher = xxhash.xxh3_64()
    for part in parts:
        hasher.update(part.data)
    digest = hasher.intdigest()
    return digest - (1 << 64) if digest >> 63 else digest


def digests_of(raw: Bytes, starts: Int64) -> NDArray[np.uint64]:
    """XXH3 of each block; `starts` ends with the end of the last block."""
    pairs = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    return np.array([xxhash.xxh3_64_intdigest(raw[a:b].data) for a, b in pairs], dtype="<u8")


def mapped(folder: Folder, name: str, size: int) -> Mapped:
    """Map a derived file.

    Raises:
        DerivedFileError: It is missing, or has another size.
    """
    path = folder.path / name
    try:
        length = folder.size(name)
        file_map = folder.map(name, size)
    except FileNotFoundError as error:
        raise DerivedFileError(path, "is missing") from error
    except IndexCorruptedError as error:
        if isinstance(error, DerivedFileError) or not str(error).startswith(f"{path} "):
            raise
        raise DerivedFileError(path, f"has {length} bytes; expected {size}") from error
    if length != size:
        raise DerivedFileError(path, f"has {length} bytes; expected {size}")
    return file_map


class Checksums:
    """Digests of the consecutive blocks of a mapped file.

    Args:
        path: The file.
        raw: Its bytes.
        starts: First byte of each block, and the end of the last.
        digests: XXH3 of each block.
    """

    def __init__(self, path: Path, raw: Bytes, starts: Int64, digests: NDArray[np.uint64]) -> None:
        self.path, self._raw, self._starts, self._digests = path, raw, starts, digests
        self._checked = np.zeros(len(digests), dtype=bool)

    def check(self, numbers: Int64) -> None:
        """Check those of the blocks `numbers` that were not checked before.

        Raises:
            DerivedFileError: A block does not match its digest.
        """
        for number in numbers[~self._checked[numbers]].tolist():
            start, stop = int(self._starts[number]), int(self._starts[number + 1])
            if xxhash.xxh3_64_intdigest(self._raw[start:stop].data) != int(self._digests[number]):
                raise DerivedFileError(self.path, "does not match its checksum")
            self._checked[number] = True

    def check_bytes(self, start: int, stop: int) -> None:
        """Check the blocks that overlap bytes `start` to `stop`. Raises as `check` does."""
        if start < stop:
            first, last = np.searchsorted(self._starts, [start, stop - 1], side="right") - 1
            self.check(np.arange(first, last + 1))

    def check_all(self) -> None:
        """Check every block again. Raises as `check` does."""
        self._checked[:] = False
        self.check(np.arange(len(self._digests)))
