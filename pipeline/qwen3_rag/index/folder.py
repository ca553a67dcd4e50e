"""What binds an open store to its files: the folder, held open, and the store's identity in the file `commit`.

A path may lead to another store a moment later: after `chdir`, a swap of two folders, a rebuild in place. So every file
is opened inside the folder that was opened, and the identity is compared after each file that is opened by name.

The file `commit` also holds the number of the last acknowledged commit, which notices what SQLite drops silently.
"""

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
SLOT = 4096  # the two places of the counter lie in different sectors: a torn write damages one
FORM = struct.Struct("<16sQQ")  # identity, commit, digest of both
DIRECTORY_HANDLES = os.open in os.supports_dir_fd  # not on Windows, where an open folder cannot be renamed either
BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Mapped:
    """The first bytes of a file, mapped read-only and shared between processes.

    Reading past the end of a file that was cut short under the map ends the process with SIGBUS, so searches compare
    the length first. A file that is cut short during a search is beyond that check.

    Attributes:
        bytes: uint8 (size,).
    """

    def __init__(self, handle: int, size: int, path: Path) -> None:
        self.path, self.size = path, size
        self._map = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)

    def check_length(self) -> None:
        """Compare the file's length with the mapped one.

        Raises:
            IndexCorruptedError: The file has become shorter.
        """
        if (length := self._map.size()) < self.size:
            raise IndexCorruptedError(f"{self.path} was cut short: it has {length} bytes; expected {self.size}")


class Folder:
    """A store's folder. Thread-safe; survives a fork.

    Args:
        path: The folder; `~` and links are resolved now, once.
        identity: The store's own random 16 bytes; None compares nothing.

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
        """A folder as it is, or of a path."""
        return folder if isinstance(folder, Folder) else cls(folder)

    def close(self) -> None:
        """Close it; nothing is opened in it from then on."""
        with self._lock:
            self._closed = True
            self._closing()

    def after_fork(self) -> None:
        """Go on in a forked process: the handle is shared, the lock may be held by a thread that is not there."""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Make sure that the path still leads to this folder, and the folder holds this store.

        Raises:
            StoreNotFoundError: Nothing is there.
            StoreMovedError: Another folder or another store is there.
        """
        self.check_path()
        if self.identity is not None:
            self.acknowledged()

    def check_path(self) -> None:
        """Make sure that the path still leads to this folder. Errors as of `check`."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise StoreNotFoundError(f"{self.path} has vanished: {error.strerror}") from error
        if (status.st_dev, status.st_ino) != self._inode:
            raise StoreMovedError(self.path)

    def open(self, name: str, flags: int) -> int:
        """A handle of a file of this store, as of `os.open`. Errors as of `check`, and OSError."""
        handle = self._opened(name, flags)
        try:
            # After opening: a store that is rebuilt in place has its new identity before it has any other file.
            self.check()
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _opened(self, name: str, flags: int) -> int:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} was closed; open it again")
            if self._handle is None:
                return os.open(self.path / name, flags | BINARY, 0o666)
            return os.open(name, flags | BINARY, 0o666, dir_fd=self._handle)

    def create(self, name: str) -> BinaryIO:
        """A new, empty file to be written and read. Errors as of `open`."""
        return cast("BinaryIO", os.fdopen(self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b"))

    def map(self, name: str, size: int | None = None) -> Mapped:
        """The first `size` bytes of a file, or all of it. Errors as of `open`.

        Raises:
            FileNotFoundError: There is no such file.
            IndexCorruptedError: It is shorter.
        """
        handle = self.open(name, os.O_RDONLY)
        try:
            length = os.fstat(handle).st_size
            if length < (size or 1):
                raise IndexCorruptedError(f"{self.path / name} has {length} bytes; expected at least {size or 1}")
            return Mapped(handle, size or length, self.path / name)
        finally:
            os.close(handle)

    @contextmanager
    def named(self, name: str) -> Iterator[str]:
        """A path, for libraries that want one, that leads to the file of this store whatever is renamed meanwhile."""
        handle = self.open(name, os.O_RDONLY)
        try:
            link = Path(f"/proc/self/fd/{handle}")
            yield str(link if link.exists() else self.path / name)
        finally:
            os.close(handle)

    def names(self) -> list[str]:
        """Names of the files. Errors as of `check`."""
        self.check()
        return os.listdir(self.path if self._handle is None else self._handle)  # noqa: PTH208

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if it is not there, as a derived file may be gone by now."""
        try:
            if self._handle is None:
                return (self.path / name).stat().st_size
            return os.stat(name, dir_fd=self._handle).st_size
        except OSError:
            return 0

    def unlink(self, name: str) -> None:
        """Delete a file; one that is not there is passed over. Errors as of `check`."""
        self.check()
        with suppress(FileNotFoundError):
            if self._handle is None:
                (self.path / name).unlink()
            else:
                os.unlink(name, dir_fd=self._handle)

    def sync(self) -> None:
        """Make names that are new in the folder survive a power cut."""
        if self._handle is not None:
            os.fsync(self._handle)

    def begin(self, identity: bytes) -> None:
        """Write the counter of a new store, whose identity this is; no commit is acknowledged yet."""
        self.identity = identity
        slot = _slot(identity, 0).ljust(SLOT, b"\0")
        handle = self._opened(COUNTER, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(handle, "wb") as file:
            file.write(slot + slot)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> tuple[bytes, int]:
        """Identity of the store and number of the last acknowledged commit, as they are now.

        Raises:
            StoreNotFoundError: The folder has vanished.
            IndexCorruptedError: The counter is missing or damaged.
        """
        try:
            handle = self._opened(COUNTER, os.O_RDONLY)
        except OSError as error:
            self.check_path()
            raise IndexCorruptedError(f"{self.path / COUNTER} cannot be read: {error}") from error
        with os.fdopen(handle, "rb") as file:
            raw = file.read(2 * SLOT)
        whole = []
        for start in (0, SLOT):
            slot = raw[start : start + FORM.size]
            if len(slot) == FORM.size:
                identity, commit, _ = FORM.unpack(slot)
                if _slot(identity, commit) == slot:
                    whole.append((commit, identity))
        if not whole:
            raise IndexCorruptedError(f"{self.path / COUNTER} is damaged: neither of its two places is whole")
        commit, identity = max(whole)
        return identity, commit

    def acknowledged(self) -> int:
        """The last acknowledged commit. Errors as of `read`.

        Raises:
            StoreMovedError: Another store has taken the place of this one.
        """
        identity, commit = self.read()
        if self.identity is not None and identity != self.identity:
            raise StoreMovedError(self.path)
        return commit

    def acknowledge(self, commit: int) -> None:
        """Note a commit as acknowledged, synced. Errors as of `open`."""
        if self.identity is None:
            raise StoreError(f"{self.path}: no store was opened or begun in this folder")
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
