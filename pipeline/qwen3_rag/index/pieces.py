"""Derived files, mapped: pieces compared with their digests when they are first read, so that opening is cheap."""

from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index.folder import Folder, Mapped

__all__ = ["DerivedFileError", "Pieces", "digest_of", "digests_of", "mapped"]

Int64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class DerivedFileError(IndexCorruptedError):
    """A derived file is missing, or not as it was written: searching goes on without it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}")
        self.file = path.name


def digest_of(*parts: Bytes) -> int:
    """XXH3 of several stretches of bytes, as SQLite and JSON keep it: 64 bits with a sign."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part.data)
    found = digest.intdigest()
    return found - (1 << 64) if found >> 63 else found


def digests_of(raw: Bytes, starts: Int64) -> NDArray[np.uint64]:
    """XXH3 of each piece; `starts` has the end of the last one too."""
    pairs = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    return np.array([xxhash.xxh3_64_intdigest(raw[a:b].data) for a, b in pairs], dtype="<u8")


def mapped(folder: Folder, name: str, size: int) -> Mapped:
    """A derived file, mapped.

    Raises:
        DerivedFileError: It is missing, or has another size.
    """
    path = folder.path / name
    try:
        length = folder.size(name)
        whole = folder.map(name, size)
    except FileNotFoundError as error:
        raise DerivedFileError(path, "is missing") from error
    except IndexCorruptedError as error:
        if isinstance(error, DerivedFileError) or not str(error).startswith(f"{path} "):
            raise
        raise DerivedFileError(path, f"has {length} bytes; expected {size}") from error
    if length != size:
        raise DerivedFileError(path, f"has {length} bytes; expected {size}")
    return whole


class Pieces:
    """Consecutive pieces of a mapped file.

    Args:
        path: The file.
        raw: Its bytes.
        starts: First byte of each piece, and the end of the last.
        digests: XXH3 of each.
    """

    def __init__(self, path: Path, raw: Bytes, starts: Int64, digests: NDArray[np.uint64]) -> None:
        self.path, self._raw, self._starts, self._digests = path, raw, starts, digests
        self._seen = np.zeros(len(digests), dtype=bool)

    def check(self, numbers: Int64) -> None:
        """Compare the pieces that were not looked at before.

        Raises:
            DerivedFileError: One is not as it was written.
        """
        for number in numbers[~self._seen[numbers]].tolist():
            start, stop = int(self._starts[number]), int(self._starts[number + 1])
            if xxhash.xxh3_64_intdigest(self._raw[start:stop].data) != int(self._digests[number]):
                raise DerivedFileError(self.path, "is not as it was written")
            self._seen[number] = True

    def check_bytes(self, start: int, stop: int) -> None:
        """Compare the pieces that a stretch of bytes touches. Errors as of `check`."""
        if start < stop:
            first, last = np.searchsorted(self._starts, [start, stop - 1], side="right") - 1
            self.check(np.arange(first, last + 1))

    def check_all(self) -> None:
        """Compare every piece, looked at before or not. Errors as of `check`."""
        self._seen[:] = False
        self.check(np.arange(len(self._digests)))
