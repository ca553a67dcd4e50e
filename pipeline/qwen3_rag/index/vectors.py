"""The vectors of a store: an append-only file of rows, mapped by every process, with a digest for each block of rows.

The file has only the rows, little endian. The number of rows and the digests are part of the commit: bytes after its
last row belong to no commit, and the next writer overwrites them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, InvalidArgumentError, StoreError
from qwen3_rag.index.database import Database, Run
from qwen3_rag.index.folder import Folder, Mapped

__all__ = ["DTYPES", "ROWS", "Rows", "VectorFile", "as_rows", "file_name"]

ROWS = 32  # of a block: small enough to check for one row, large enough to need few digests
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
Int64 = NDArray[np.int64]
THREADS = max(1, min(8, os.cpu_count() or 1))


def file_name(generation: int) -> str:
    """Name of a generation's file; `optimize` starts a new generation."""
    return f"vectors-{generation}.bin"


def as_rows(vectors: Sequence[NDArray[Any]], dimensions: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Vectors as rows (n, dimensions) to write.

    Raises:
        InvalidArgumentError: A vector has another length, NaN or infinity.
    """
    try:
        rows = np.asarray(vectors)
        with np.errstate(over="ignore"):
            converted = rows.astype(dtype)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the vectors are not rows of numbers of one length: {error}") from None
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise InvalidArgumentError(f"a vector has shape {rows.shape[1:]}; expected ({dimensions},)")
    if not _finite(converted):
        raise InvalidArgumentError(f"a vector has NaN or infinity as {dtype}; expected finite numbers")
    return converted


def _finite(rows: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    if rows.dtype != np.float16:
        return bool(np.isfinite(rows).all())
    # Ten times as fast as isfinite: in float16, NaN and infinity are the values with all exponent bits set.
    return not rows.size or int((rows.view(np.uint16) & 0x7FFF).max()) < 0x7C00


def _checked(blocks: Int64 | None) -> None:
    """Nothing to do: the rows were checked before."""


@dataclass(frozen=True)
class Rows:
    """Rows to search, of which a search checks the blocks that it reads.

    Attributes:
        values: The rows (n, dimensions).
        map: The map that they are read from.
        check_blocks: Checks some blocks of ROWS rows, or with None all; by default the rows count as checked.
    """

    values: NDArray[Any]
    map: Mapped | None = None
    check_blocks: Callable[[Int64 | None], None] = _checked

    def check_all(self) -> None:
        """Check every row. Raises as `VectorFile.check` does."""
        self.check_blocks(None)

    def check(self, numbers: Int64) -> None:
        """Check the rows `numbers`. Raises as `VectorFile.check` does."""
        self.check_blocks(np.unique(numbers // ROWS))

    def check_range(self, start: int, stop: int) -> None:
        """Check the rows from `start` to `stop`. Raises as `VectorFile.check` does."""
        if start < stop:
            self.check_blocks(np.arange(start // ROWS, (stop - 1) // ROWS + 1))


class VectorFile:
    """One generation's file of rows.

    Args:
        folder: The store's folder.
        generation: Generation of the rows.
        dimensions: Values in a row.
        dtype: Type of a value, one of DTYPES.
    """

    def __init__(self, folder: Folder, generation: int, dimensions: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.generation, self.dimensions, self.dtype = folder, generation, dimensions, dtype
        self.name = file_name(generation)
        self.path = folder.path / self.name
        self.width = dimensions * dtype.itemsize
        # A full block never changes once it is committed, so a process checks it only once.
        self._checked: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._partial: tuple[int, int] = (0, 0)  # rows of the file and digest, of the partial block checked last

    @contextmanager
    def appending(self, before: int, database: Database) -> Iterator[Callable[[NDArray[Any]], None]]:
        """Yield a function that writes rows (n, dimensions) after the first `before`, within a transaction.

        On exit the rows are synced, and their blocks' digests are part of the transaction.

        Raises:
            StoreError: The disk is full or fails. Rows of earlier commits are unchanged.
        """
        size = ROWS * self.width
        block, inside = divmod(before, ROWS)
        digests: list[tuple[int, int]] = []
        try:
            handle = self.folder.open(self.name, os.O_RDWR | (0 if before else os.O_CREAT))
            with os.fdopen(handle, "r+b") as file:
                if not before:
                    file.truncate()
                pending = b""
                if inside:
                    file.seek(block * size)
                    pending = file.read(inside * self.width)
                    self._compare(block, pending, database.run)
                file.seek(before * self.width)

                def write(vectors: NDArray[Any]) -> None:
                    nonlocal pending, block
                    raw = np.ascontiguousarray(vectors, dtype=self.dtype).tobytes()
                    file.write(raw)
                    data = memoryview(pending + raw)
                    full = len(data) // size * size
                    for start in range(0, full, size):
                        digests.append((block, _signed(xxhash.xxh3_64_intdigest(data[start : start + size]))))
                        block += 1
                    pending = bytes(data[full:])

                yield write
                if pending:
                    digests.append((block, _signed(xxhash.xxh3_64_intdigest(pending))))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error}") from error
        database.many("INSERT OR REPLACE INTO blocks VALUES (?, ?)", digests)
        if not before:
            self.folder.sync()

    def _compare(self, block: int, raw: bytes, run: Run) -> None:
        digest = run("SELECT digest FROM blocks WHERE block = ?", (block,)).get
        if digest != _signed(xxhash.xxh3_64_intdigest(raw)):
            raise self._damaged(block)

    def _damaged(self, block: int) -> IndexCorruptedError:
        first, last = block * ROWS, block * ROWS + ROWS - 1
        return IndexCorruptedError(f"{self.path}: rows {first} to {last} do not match their checksum")

    def map(self, rows: int) -> tuple[NDArray[Any], Mapped | None]:
        """The first `rows` rows, mapped and not yet checked, (rows, dimensions), and their map.

        Raises:
            IndexCorruptedError: The file is missing or too short.
        """
        if rows == 0:
            return np.empty((0, self.dimensions), dtype=self.dtype), None
        try:
            file_map = self.folder.map(self.name, rows * self.width)
        except FileNotFoundError as error:
            raise IndexCorruptedError(f"{self.path} has 0 bytes; expected at least {rows * self.width}") from error
        return file_map.bytes.view(self.dtype).reshape(rows, self.dimensions), file_map

    def check(self, vectors: NDArray[Any], blocks: Int64 | None, run: Run) -> None:
        """Check mapped rows against the snapshot's digests, skipping blocks already checked; `blocks` None is all.

        Raises:
            IndexCorruptedError: A block does not match its digest.
        """
        rows = len(vectors)
        last = (rows - 1) // ROWS if rows else -1
        self._reserve(last + 1)
        pending = np.flatnonzero(~self._checked[: last + 1]) if blocks is None else blocks[~self._checked[blocks]]
        if not len(pending):
            return
        digests = self._digests(pending, run)
        partial = self._partial
        if rows % ROWS and pending[-1] == last and partial == (rows, digests.get(last)):
            pending = pending[:-1]
        flat = vectors.reshape(-1).view(np.uint8)
        step = -(-len(pending) // THREADS)
        if len(pending) > 64 and THREADS > 1:
            with ThreadPoolExecutor(THREADS) as pool:
                parts = [pending[start : start + step] for start in range(0, len(pending), step)]
                first_damaged = pool.map(lambda part: self._first_damaged(flat, part, digests), parts)
                damaged = [block for block in first_damaged if block is not None]
        else:
            damaged = [block for block in [self._first_damaged(flat, pending, digests)] if block is not None]
        if damaged:
            raise self._damaged(min(damaged))
        self._checked[pending] = True
        if rows % ROWS and len(pending) and pending[-1] == last:
            self._checked[last] = False
            self._partial = (rows, digests[last])

    def faults(self, vectors: NDArray[Any], run: Run) -> list[str]:
        """A message for every damaged block of mapped rows; checks all of them again."""
        blocks = np.arange(-(-len(vectors) // ROWS))
        if not len(blocks):
            return []
        digests = self._digests(blocks, run)
        flat = vectors.reshape(-1).view(np.uint8)
        return [str(self._damaged(int(b))) for b in blocks if self._first_damaged(flat, [int(b)], digests) is not None]

    def _reserve(self, blocks: int) -> None:
        if blocks > len(self._checked):
            grown = np.zeros(max(blocks, 2 * len(self._checked)), dtype=bool)
            grown[: len(self._checked)] = self._checked
            self._checked = grown

    @staticmethod
    def _digests(blocks: Int64, run: Run) -> dict[int, int]:
        if len(blocks) > 2000:
            rows = run(
                "SELECT block, digest FROM blocks WHERE block BETWEEN ? AND ?", (int(blocks[0]), int(blocks[-1]))
            )
            return dict(rows.fetchall())
        digests: dict[int, int] = {}
        for start in range(0, len(blocks), 500):
            part = blocks[start : start + 500].tolist()
            marks = ",".join("?" * len(part))
            digests.update(run(f"SELECT block, digest FROM blocks WHERE block IN ({marks})", part).fetchall())
        return digests

    def _first_damaged(
        self, flat: NDArray[np.uint8], blocks: Sequence[int] | Int64, digests: dict[int, int]
    ) -> int | None:
        size = ROWS * self.width
        for number in map(int, blocks):
            part = flat[number * size : (number + 1) * size]
            if _signed(xxhash.xxh3_64_intdigest(part.data)) != digests.get(number):
                return number
        return None


def _signed(digest: int) -> int:
    return digest - (1 << 64) if digest >> 63 else digest
