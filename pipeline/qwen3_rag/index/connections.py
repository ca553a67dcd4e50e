"""How connections to a store's database are opened: to write, to read beside a writer, or on read-only media."""

import functools
import os
import urllib.parse
from pathlib import Path

import apsw
import apsw.sqlite_extra

from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from qwen3_rag.index.folder import Folder

__all__ = ["APPLICATION_ID", "FILE", "READS", "Opener", "translated"]

APPLICATION_ID = 0x51335247  # "Q3RG", so that `file` and we can tell a store from any other database
READS = (2, 3)  # formats; a store of format 2 becomes one of format 3 at its first write
FILE = "store.sqlite3"
LOG, SHARED = f"{FILE}-wal", f"{FILE}-shm"
BUSY = 5_000  # milliseconds that SQLite waits for a lock at a time
PAGE = 16_384
CACHE = 16 << 20  # bytes of pages that a connection keeps
CHECKSUM = 8  # bytes of each page that cksumvfs takes
VFS = "cksmvfs"
Stamp = tuple[int, int, int]


class Opener:
    """Opens connections to the database of one folder.

    A process that may not write the folder reads it nevertheless. Where a writer is at work, its shared memory file is
    there and gives readers whole commits, as ever. Where none is, nothing may be created beside the database, so it is
    read as a file that does not change, and read again once it has changed.

    Args:
        folder: The store's.
        new: Whether to create the database.

    Attributes:
        read_only: Why this process may not write, or None.
        inode: Device and inode of the database file.
    """

    def __init__(self, folder: Folder, *, new: bool = False) -> None:
        self.folder, self.path, self.new = folder, folder.path / FILE, new
        self.read_only = None if new else _why_read_only(folder.path)
        self._stamps: dict[int, Stamp] = {}  # of connections that take no locks, by id

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode of the database file."""
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def connect(self) -> apsw.Connection:
        """A new connection.

        Raises:
            StoreError: The file system has no locks, or this process may not read what it needs.
            apsw.Error: SQLite cannot open it.
        """
        _checksums()
        if self.read_only:
            return self._connect_to_read()
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if self.new else 0)
        connection = apsw.Connection(str(self.path), flags=flags, vfs=VFS)
        try:
            self.reset_timeout(connection)
            if self.new:
                connection.reserve_bytes(None, CHECKSUM)
                connection.execute(f"PRAGMA page_size = {PAGE}")
            else:
                _check_header(connection, self.folder.path)
            mode = connection.execute("PRAGMA journal_mode = WAL").get
            if mode != "wal":
                raise StoreError(f"{self.path}: the file system offers no shared memory or locks (journal mode {mode})")
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_to_read(self) -> apsw.Connection:
        log = self.folder.size(LOG)
        if log or self.folder.size(SHARED):
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY, vfs=VFS)
            try:
                self.reset_timeout(connection)
                _check_header(connection, self.folder.path)
                _prepare(connection)
                return connection
            except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
                connection.close()
                if log:
                    raise StoreError(
                        f"{self.folder.path} holds commits that are only in its write-ahead log, which this process "
                        f"cannot read ({error}); expected read permission on {LOG} and {SHARED}, or that the store is "
                        "opened and closed once by a process that may write it"
                    ) from error
            except BaseException:
                connection.close()
                raise
        uri = f"file:{urllib.parse.quote(str(self.path))}?immutable=1"
        stamp = self._stamp()
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(uri, flags=flags, vfs=VFS)
        try:
            _check_header(connection, self.folder.path)
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._stamps[id(connection)] = stamp
        return connection

    def _stamp(self) -> Stamp:
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_size, self.folder.size(LOG)

    def outdated(self, connection: apsw.Connection) -> bool:
        """Whether a connection that takes no locks was opened before the last change."""
        stamp = self._stamps.get(id(connection))
        return stamp is not None and stamp != self._stamp()

    def check_unchanged(self, connection: apsw.Connection) -> None:
        """Make sure that the file is as it was when a connection that takes no locks was opened.

        Raises:
            StoreError: It was written while it was read: what was read may be of two commits.
        """
        stamp = self._stamps.get(id(connection))
        if stamp is not None and stamp[:2] != self._stamp()[:2]:
            raise StoreError(f"{self.folder.path} was written while it was read, and {self.read_only}; try again")

    def close(self, connection: apsw.Connection) -> None:
        """Close a connection.

        The last one of a database to be closed deletes the write-ahead log by its name, which may be another store's
        by now: then the log stays.
        """
        self._stamps.pop(id(connection), None)
        try:
            self.folder.check()
        except (StoreError, OSError):
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close()

    @staticmethod
    def reset_timeout(connection: apsw.Connection) -> None:
        """Let a connection wait for locks as long as it does by default."""
        connection.set_busy_timeout(BUSY)


def _prepare(connection: apsw.Connection) -> None:
    for pragma in ("synchronous = FULL", "trusted_schema = OFF", f"cache_size = {-CACHE // 1024}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)


def _why_read_only(folder: Path) -> str | None:
    """What this process has no permission to write, in words, or None."""
    names = [name for name in (FILE, LOG, SHARED, "commit") if (folder / name).exists()]
    for path in (folder, *(folder / name for name in names)):
        if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return f"{path} is not writable for this process; expected write permission on the folder and its files"
    return None


@functools.cache
def _checksums() -> None:
    """Make the checksumming file layer known to this process; the connection keeps it loaded."""
    keeper = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(keeper, "cksumvfs")
    _KEEPERS.append(keeper)


_KEEPERS: list[apsw.Connection] = []


def _check_header(connection: apsw.Connection, folder: Path) -> None:
    """Refuse a database that is not a store, or in a format that this version does not read; nothing is changed."""
    if connection.execute("PRAGMA application_id").get != APPLICATION_ID:
        raise StoreNotFoundError(f"{folder / FILE} is not a store of this package")
    if (version := connection.execute("PRAGMA user_version").get) not in READS:
        raise StoreVersionError(f"{folder} is in format {version}; this version reads formats 2 and 3")


def translated(error: apsw.Error, path: Path) -> Exception:
    """Our error for one of SQLite's; the same error if it is a mistake of ours."""
    text = f"{path}: {error}"
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreLockedError(f"{path.parent}: another writer holds the store ({error})")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return IndexCorruptedError(text)
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return IndexCorruptedError(f"{path}: a page does not match its checksum")
    if isinstance(error, apsw.FullError):
        return StoreError(f"{path}: no room left on the disk")
    known = apsw.IOError | apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError | apsw.NoLFSError
    return StoreError(text) if isinstance(error, known) else error
