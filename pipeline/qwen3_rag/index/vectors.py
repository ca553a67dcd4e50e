"""The vectors of a store: one append-only file of rows, mapped by every process, with a digest for each block of rows.

The file is nothing but the rows, little endian. How many of them belong to a commit, and the digests, are named by the
commit: bytes past its rows are nobody's, and the next writer overwrites them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, StoreError
from qwen3_rag.index.database import Database, Run
from qwen3_rag.index.folder import Folder, Mapped

__all__ = ["DTYPES", "ROWS", "VectorFile", "file_name"]

ROWS = 32  # of a block: small enough to check one for a single row, large enough for few digests
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
Int64 = NDArray[np.int64]
THREADS = max(1, min(8, os.cpu_count() or 1))


def file_name(generation: int) -> str:
    """Name of the file of a generation; `optimize` begins a new one."""
    return f"vectors-{generation}.bin"


class VectorFile:
    """One generation's file of rows.

    Args:
        folder: The store's.
        generation: Which file of it.
        dimensions: Values in a row.
        dtype: Type of a value, one of DTYPES.
    """

    def __init__(self, folder: Folder, generation: int, dimensions: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.generation, self.dimensions, self.dtype = folder, generation, dimensions, dtype
        self.name = file_name(generation)
        self.path = folder.path / self.name
        self.width = dimensions * dtype.itemsize
        # Full blocks never change once they are named, so one look at each is enough for a process.
        self._seen: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._last: tuple[int, int] = (0, 0)  # rows and digest of the part of a block checked last

    @contextmanager
    def appending(self, before: int, database: Database) -> Iterator[Callable[[NDArray[Any]], None]]:
        """Yield a function that writes rows (n, dimensions) after the first `before`, within a transaction.

        At the end they are synced, and their blocks' digests are in the transaction.

        Raises:
            StoreError: The disk is full or fails. Nothing that a commit names has changed.
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
                    whole = memoryview(pending + raw)
                    full = len(whole) // size * size
                    for start in range(0, full, size):
                        digests.append((block, _signed(xxhash.xxh3_64_intdigest(whole[start : start + size]))))
                        block += 1
                    pending = bytes(whole[full:])

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
        return IndexCorruptedError(f"{self.path}: rows {block * ROWS} to {block * ROWS + ROWS - 1} are not as written")

    def map(self, rows: int) -> tuple[NDArray[Any], Mapped | None]:
        """The first `rows` rows, (rows, dimensions), mapped and not yet checked, and the map they lie in.

        Raises:
            IndexCorruptedError: The file is missing or too short.
        """
        if rows == 0:
            return np.empty((0, self.dimensions), dtype=self.dtype), None
        try:
            whole = self.folder.map(self.name, rows * self.width)
        except FileNotFoundError as error:
            raise IndexCorruptedError(f"{self.path} has 0 bytes; expected at least {rows * self.width}") from error
        return whole.bytes.view(self.dtype).reshape(rows, self.dimensions), whole

    def check(self, vectors: NDArray[Any], blocks: Int64 | None, run: Run) -> None:
        """Compare blocks of mapped rows with their digests as of the snapshot, those not seen before; None is all.

        Raises:
            IndexCorruptedError: A block is not as it was written.
        """
        rows = len(vectors)
        last = (rows - 1) // ROWS if rows else -1
        self._reserve(last + 1)
        wanted = np.flatnonzero(~self._seen[: last + 1]) if blocks is None else blocks[~self._seen[blocks]]
        if not len(wanted):
            return
        digests = self._digests(wanted, run)
        known = self._last
        if rows % ROWS and wanted[-1] == last and known == (rows, digests.get(last)):
            wanted = wanted[:-1]
        flat = vectors.reshape(-1).view(np.uint8)
        step = -(-len(wanted) // THREADS)
        if len(wanted) > 64 and THREADS > 1:
            with ThreadPoolExecutor(THREADS) as pool:
                parts = [wanted[start : start + step] for start in range(0, len(wanted), step)]
                wrong = [x for x in pool.map(lambda part: self._wrong(flat, part, digests), parts) if x is not None]
        else:
            wrong = [x for x in [self._wrong(flat, wanted, digests)] if x is not None]
        if wrong:
            raise self._damaged(min(wrong))
        self._seen[wanted] = True
        if rows % ROWS and len(wanted) and wanted[-1] == last:
            self._seen[last] = False
            self._last = (rows, digests[last])

    def faults(self, vectors: NDArray[Any], run: Run) -> list[str]:
        """Every damaged block of mapped rows, in words; nothing is taken as seen."""
        blocks = np.arange(-(-len(vectors) // ROWS))
        if not len(blocks):
            return []
        digests = self._digests(blocks, run)
        flat = vectors.reshape(-1).view(np.uint8)
        return [str(self._damaged(int(b))) for b in blocks if self._wrong(flat, [int(b)], digests) is not None]

    def _reserve(self, blocks: int) -> None:
        if blocks > len(self._seen):
            grown = np.zeros(max(blocks, 2 * len(self._seen)), dtype=bool)
            grown[: len(self._seen)] = self._seen
            self._seen = grown

    @staticmethod
    def _digests(wanted: Int64, run: Run) -> dict[int, int]:
        if len(wanted) > 2000:
            rows = run(
                "SELECT block, digest FROM blocks WHERE block BETWEEN ? AND ?", (int(wanted[0]), int(wanted[-1]))
            )
            return dict(rows.fetchall())
        found: dict[int, int] = {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500].tolist()
            marks = ",".join("?" * len(part))
            found.update(run(f"SELECT block, digest FROM blocks WHERE block IN ({marks})", part).fetchall())
        return found

    def _wrong(self, flat: NDArray[np.uint8], blocks: Sequence[int] | Int64, digests: dict[int, int]) -> int | None:
        size = ROWS * self.width
        for block in blocks:
            place = int(block)
            part = flat[place * size : (place + 1) * size]
            if _signed(xxhash.xxh3_64_intdigest(part.data)) != digests.get(place):
                return place
        return None


def _signed(digest: int) -> int:
    return digest - (1 << 64) if digest >> 63 else digest
