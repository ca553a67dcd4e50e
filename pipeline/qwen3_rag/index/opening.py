"""Creates the database of a new store, and opens that of an existing one."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from qwen3_rag.errors import StoreError, StoreExistsError, StoreLockedError, StoreNotFoundError
from qwen3_rag.index.connections import FILE, Opener, translated
from qwen3_rag.index.database import Database
from qwen3_rag.index.folder import COUNTER, Folder
from qwen3_rag.index.pool import ConnectionPool

__all__ = ["check_free", "create_database", "open_database"]


def check_free(folder: Path) -> None:
    """Raise StoreExistsError unless the folder is empty or does not exist."""
    if (folder / FILE).exists():
        raise StoreExistsError(f"{folder} is already a store; use Pipeline.open, or another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreExistsError(f"{folder} is not empty and not a store; expected a new or empty folder")


def create_database(path: Path, meta: Mapping[str, Any]) -> Database:
    """Create the database of a new store in a folder that is empty or does not exist yet.

    Raises:
        StoreExistsError: The folder is a store or is not empty.
        StoreError: The folder cannot be written, or its file system has no locks.
    """
    path = path.expanduser()
    check_free(path)
    database = _new(path)
    try:
        database.initialize(meta)
    except (StoreExistsError, StoreLockedError):
        database.close()
        raise
    except BaseException as error:
        database.close()
        _remove_files(database.files)
        if isinstance(error, OSError):
            raise StoreError(f"{path} cannot be written: {error}") from error
        raise
    return database


def _new(path: Path) -> Database:
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = Folder(path)
        opener = Opener(folder, new=True)
        connection = opener.connect()
    except OSError as error:
        raise StoreError(f"{path} cannot be created: {error}") from error
    except StoreError:
        # Without locks no other process can be using the file, so it can be removed.
        (path / FILE).unlink(missing_ok=True)
        raise
    except apsw.Error as error:
        raise translated(error, path / FILE) from error
    opener.new = False
    return Database(folder, opener, connection)


def _remove_files(folder: Folder) -> None:
    with suppress(StoreError):
        folder.check_path()
        for file in [*folder.path.glob(f"{FILE}*"), folder.path / COUNTER]:
            file.unlink(missing_ok=True)


def open_database(path: Path) -> Database:
    """Open the database of the store in a folder, read-only if this process may not write it.

    Raises:
        StoreNotFoundError: The folder does not exist, or is not a store.
        StoreVersionError: The store has a format that this version cannot read.
        IndexCorruptedError: The database is damaged, or has lost commits.
        StoreError: This process may not read it, or was forked while the store was in use.
    """
    path = path.expanduser()
    try:
        if not (path / FILE).is_file():
            reason = f"no {FILE} in it" if path.exists() else "no such folder"
            raise StoreNotFoundError(f"{path} is not a store ({reason}); create one with Pipeline.create")
        folder = Folder(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}; expected read permission") from error
    opener = Opener(folder)
    ConnectionPool.check_forks(opener)
    try:
        connection = opener.connect()
    except apsw.Error as error:
        raise translated(error, path / FILE) from error
    database = Database(folder, opener, connection)
    try:
        folder.identity, _ = folder.read()
        with database.snapshot():
            pass
    except BaseException:
        database.close()
        raise
    return database
