"""Renumbers the passages of a store without gaps, which frees the rows of removed ones."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import StoreError
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.commit import SegmentName
from qwen3_rag.index.database import Database, Transaction
from qwen3_rag.index.vectors import Rows, VectorFile

__all__ = ["SegmentWriter", "compact"]

CHUNK = 65_536  # rows copied at a time
Int64 = NDArray[np.int64]
SegmentWriter = Callable[[int, Int64], Sequence[SegmentName]]


def compact(
    database: Database, transaction: Transaction, rows: Rows, live: Bitmap, file: VectorFile, write: SegmentWriter
) -> None:
    """Start a new generation with the live passages only, within a transaction.

    Args:
        database: The store's database.
        transaction: The transaction; its commit will name the new files.
        rows: Rows of the generation before.
        live: Those that were not removed.
        file: The new generation's file of vectors.
        write: Called with the new generation and the new number of each passage, -1 for removed ones; writes segments.

    Raises:
        IndexCorruptedError: A row does not match its checksum.
        StoreError: The disk is full or fails. As after any error, the new files are deleted.
    """
    new_files = [file.name]
    rows.check_all()
    remaining = bitmap.to_rows(live)
    numbers = np.full(len(rows.values), -1, dtype=np.int64)
    numbers[remaining] = np.arange(len(remaining))
    try:
        _copy(database, rows.values, remaining, file)
        words = tuple(write(file.generation, numbers))
        new_files += [name.file for name in words]
        _renumber(database, numbers)
    except BaseException:
        with suppress(StoreError, OSError):
            for name in new_files:
                file.folder.unlink(name)
        raise
    transaction.commit = replace(
        transaction.commit,
        generation=file.generation,
        rows=len(remaining),
        removed=0,
        last_removal=0,
        words=words,
        dense=None,
    )


def _copy(database: Database, vectors: NDArray[Any], remaining: Int64, file: VectorFile) -> None:
    database.run("DELETE FROM blocks")
    with file.appending(0, database) as append:
        for start in range(0, len(remaining), CHUNK):
            append(vectors[remaining[start : start + CHUNK]])


def _renumber(database: Database, numbers: Int64) -> None:
    """Give the passages their new numbers in every table."""
    run, connection = database.run, database.connection
    lookup: Callable[..., int] = numbers.tolist().__getitem__
    connection.create_scalar_function("renumbered", lookup, 1, deterministic=True)
    try:
        # Ascending, and no number ever grows, so that two rows never have the same number.
        run("UPDATE passages SET number = renumbered(number)")
        run("UPDATE documents SET first = CASE passages WHEN 0 THEN 0 ELSE renumbered(first) END")
        run("UPDATE fields SET first = renumbered(first)")
        run("DELETE FROM removed")
    finally:
        connection.create_scalar_function("renumbered", None, 1)
