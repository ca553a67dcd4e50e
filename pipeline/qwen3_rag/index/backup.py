"""Copies a store as of one commit, while others read and write it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import apsw

from qwen3_rag.errors import StoreError
from qwen3_rag.index.checksums import DerivedFileError
from qwen3_rag.index.commit import Commit
from qwen3_rag.index.connections import FILE, VFS
from qwen3_rag.index.database import Database
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.opening import check_free
from qwen3_rag.index.vectors import Rows, file_name

__all__ = ["copy_commit", "into_free_folder"]

PAGES = 1000  # pages of SQLite copied at a time


@contextmanager
def into_free_folder(to: Path) -> Iterator[Path]:
    """Yield a new folder beside `to`, which takes the place of `to` if the block succeeds and is removed if not.

    Raises:
        StoreExistsError: `to` is a store or not empty.
        StoreError: The folder cannot be written.
    """
    to = Path(os.path.realpath(to.expanduser()))
    check_free(to)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    except OSError as error:
        raise StoreError(f"{to} cannot be written: {error}") from error
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())
        draft.rename(to)  # also over an empty folder
    except OSError as error:
        raise StoreError(f"{to} cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def copy_commit(database: Database, rows: Rows, commit: Commit, folder: Path) -> None:
    """Copy a snapshot's commit into a folder: tables, vectors, derived files and counter; synced.

    Args:
        database: The store's database, in a snapshot of the commit.
        rows: The commit's rows; they are compared with their checksums.
        commit: The commit.
        folder: An empty folder.

    Raises:
        IndexCorruptedError: A row or a page does not match its checksum, or a file is missing.
        OSError: The folder cannot be written.
    """
    with ExitStack() as opened:
        # Opened before anything is copied: a file that another process deletes meanwhile stays readable.
        derived = [(name, opened.enter_context(_opened(database.files, name))) for name in sorted(commit.derived)]
        _copy_tables(database.connection, folder / FILE)
        rows.check_all()
        with (folder / file_name(commit.generation)).open("wb") as out:
            rows.values.tofile(out)
            _sync(out)
        for name, source in derived:
            with (folder / name).open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                _sync(out)
    copy = Folder(folder)
    try:
        copy.begin(database.files.identity or b"")
        copy.acknowledge(commit.number)
        copy.sync()
    finally:
        copy.close()


def _opened(folder: Folder, name: str) -> BinaryIO:
    try:
        return os.fdopen(folder.open(name, os.O_RDONLY), "rb")
    except FileNotFoundError as error:
        raise DerivedFileError(folder.path / name, "is missing") from error


def _copy_tables(source: apsw.Connection, to: Path) -> None:
    target = apsw.Connection(str(to), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs=VFS)
    try:
        with target.backup("main", source, "main") as copying:
            while not copying.done:
                copying.step(PAGES)
    finally:
        target.close()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
