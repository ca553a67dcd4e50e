"""Binds an open store to its files: a handle of the folder, and the store's identity in the file `commit`.

A path may lead to another store later: after `chdir`, a swap of two folders, or a rebuild in place. So every file is
opened relative to the folder's handle, and the identity is compared after each file that is opened by name.

The file `commit` also stores the number of the last acknowledged commit, which detects commits that SQLite dropped.
"""

import errno
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from qwen3_rag.errors import IndexCorruptedError, StoreError, StoreMovedError, StoreNotFoundError

__all__ = ["COUNTER", "Folder", "Mapped"]

COUNTER = "commit"
SLOT = 4096  # bytes; the counter's two slots are in different sectors, so a torn write damages only one
FORM = struct.Struct("<16sQQ")  # identity, commit, digest of both
DIRECTORY_HANDLES = os.open in os.supports_dir_fd  # not on Windows, where an open folder cannot be renamed either
BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Mapped:
    """The first bytes of a file, mapped read-only and shared between processes.

    If the file is truncated while mapped, reading past its end kills the process with SIGBUS, so searches check the
    length first. Truncation during a search is not detected.

    Attributes:
        bytes: uint8 (size,).
    """

    def __init__(self, handle: int, size: int, path: Path) -> None:
        self.path, self.size = path, size
        self._map = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)

    def check_length(self) -> None:
        """Check that the file is at least as long as the map.

        Raises:
            IndexCorruptedError: The file was truncated.
        """
        if (length := self._map.size()) < self.size:
            raise IndexCorruptedError(f"{self.path} was truncated: it has {length} bytes; expected {self.size}")


class Folder:
    """A store's folder. Thread-safe; survives a fork.

    Args:
        path: The folder; `~` and links are resolved once, here.
        identity: The store's random 16 bytes; None skips the comparison.

    Raises:
        OSError: The folder cannot be opened.
    """

    def __init__(self, path: Path, identity: bytes | None = None) -> None:
        self.path, self.identity = Path(os.path.realpath(path.expanduser())), identity
        self._lock = threading.Lock()
        self._handle: int | None = os.open(self.path, os.O_RDONLY | BINARY) if DIRECTORY_HANDLES else None
        status = self.path.stat() if self._handle is None else os.fstat(self._handle)
        self._inode = status.st_dev, status.st_ino
        self._closed = False
        self._closing = weakref.finalize(self, _close, self._handle)

    @classmethod
    def of(cls, folder: "Folder | Path") -> "Folder":
        """A `Folder` unchanged, or the one at a path."""
        return folder if isinstance(folder, Folder) else cls(folder)

    def close(self) -> None:
        """Close the folder; no file can be opened in it afterwards."""
        with self._lock:
            self._closed = True
            self._closing()

    def after_fork(self) -> None:
        """Replace the lock in a forked process: a thread of the parent may hold it. The handle is shared."""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check that the path still leads to this folder, and that the folder still contains this store.

        Raises:
            StoreNotFoundError: The path is no longer accessible.
            StoreMovedError: Another folder or another store is at the path.
        """
        self.check_path()
        if self.identity is not None:
            self.acknowledged()

    def check_path(self) -> None:
        """Check that the path still leads to this folder. Raises as `check` does."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise StoreNotFoundError(f"{self.path} is no longer accessible: {error.strerror}") from error
        if (status.st_dev, status.st_ino) != self._inode:
            raise StoreMovedError(self.path)

    def open(self, name: str, flags: int) -> int:
        """Open a file of this store with `os.open` and return its handle. Raises as `check` does, and OSError."""
        handle = self._opened(name, flags)
        try:
            # Checked after opening: a store rebuilt in place writes its identity before vectors and derived files.
            self.check()
        except BaseException:
            os.close(handle)
            raise
        return handle

    @contextmanager
    def _directory(self) -> Iterator[int | None]:
        """The open folder's handle, or None where there are none; it cannot be closed meanwhile."""
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} was closed; open it again")
            yield self._handle

    def _opened(self, name: str, flags: int) -> int:
        with self._directory() as handle:
            if handle is None:
                return os.open(self.path / name, flags | BINARY, 0o666)
            return os.open(name, flags | BINARY, 0o666, dir_fd=handle)

    def create(self, name: str) -> BinaryIO:
        """Create a file and open it for writing and reading. Raises as `open` does."""
        return cast("BinaryIO", os.fdopen(self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b"))

    def map(self, name: str, size: int | None = None) -> Mapped:
        """Map the first `size` bytes of a file, or all of it. Raises as `open` does.

        Raises:
            FileNotFoundError: There is no such file.
            IndexCorruptedError: The file is shorter than `size`.
        """
        handle = self.open(name, os.O_RDONLY)
        try:
            length = os.fstat(handle).st_size
            if length < (size or 1):  # an empty file cannot be mapped
                raise IndexCorruptedError(f"{self.path / name} has {length} bytes; expected at least {size or 1}")
            return Mapped(handle, size or length, self.path / name)
        finally:
            os.close(handle)

    @contextmanager
    def path_of(self, name: str) -> Iterator[str]:
        """A path for libraries that need one. On Linux it leads to this store's file even if folders are renamed."""
        handle = self.open(name, os.O_RDONLY)
        try:
            link = Path(f"/proc/self/fd/{handle}")
            yield str(link if link.exists() else self.path / name)
        finally:
            os.close(handle)

    def names(self) -> list[str]:
        """Names of the files. Raises as `check` does."""
        self.check()
        with self._directory() as handle:
            return os.listdir(self.path if handle is None else handle)  # noqa: PTH208

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if it does not exist, as when a derived file was replaced meanwhile."""
        with self._directory() as handle, suppress(FileNotFoundError):
            if handle is None:
                return (self.path / name).stat().st_size
            return os.stat(name, dir_fd=handle).st_size
        return 0

    def unlink(self, name: str) -> None:
        """Delete a file, if it exists. Raises as `check` does."""
        self.check()
        with self._directory() as handle, suppress(FileNotFoundError):
            if handle is None:
                (self.path / name).unlink()
            else:
                os.unlink(name, dir_fd=handle)

    def sync(self) -> None:
        """Sync the folder, so that new file names survive a power failure."""
        with self._directory() as handle:
            if handle is not None:
                os.fsync(handle)

    def begin(self, identity: bytes) -> None:
        """Write the counter of a new store: its identity, and no acknowledged commit."""
        self.identity = identity
        slot = _slot(identity, 0).ljust(SLOT, b"\0")
        handle = self._opened(COUNTER, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(handle, "wb") as file:
            file.write(slot + slot)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> tuple[bytes, int]:
        """The store's identity and the number of the last acknowledged commit, read from the file.

        Raises:
            StoreNotFoundError: The folder is no longer accessible.
            IndexCorruptedError: The counter is missing or damaged.
        """
        try:
            handle = self._opened(COUNTER, os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # says nothing about the store
            self.check_path()
            raise IndexCorruptedError(f"{self.path / COUNTER} cannot be read: {error}") from error
        with os.fdopen(handle, "rb") as file:
            raw = file.read(2 * SLOT)
        valid = []
        for start in (0, SLOT):
            slot = raw[start : start + FORM.size]
            if len(slot) == FORM.size:
                identity, commit, _ = FORM.unpack(slot)
                if _slot(identity, commit) == slot:
                    valid.append((commit, identity))
        if not valid:
            raise IndexCorruptedError(
                f"{self.path / COUNTER} is damaged: neither of its two slots matches its checksum"
            )
        commit, identity = max(valid)
        return identity, commit

    def acknowledged(self) -> int:
        """Number of the last acknowledged commit. Raises as `read` does.

        Raises:
            StoreMovedError: Another store is at the path.
        """
        identity, commit = self.read()
        if self.identity is not None and identity != self.identity:
            raise StoreMovedError(self.path)
        return commit

    def acknowledge(self, commit: int) -> None:
        """Write a commit's number to the counter and sync it. Raises as `open` does."""
        if self.identity is None:
            raise StoreError(f"{self.path}: no store was opened or created in this folder")
        handle = self.open(COUNTER, os.O_WRONLY)
        try:
            os.lseek(handle, SLOT * (commit % 2), os.SEEK_SET)
            os.write(handle, _slot(self.identity, commit))
            os.fsync(handle)
        finally:
            os.close(handle)


def _slot(identity: bytes, commit: int) -> bytes:
    return FORM.pack(identity, commit, xxhash.xxh3_64_intdigest(FORM.pack(identity, commit, 0)))


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
