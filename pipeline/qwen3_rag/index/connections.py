"""Opens connections to a store's database: to write, to read beside a writer, or to read read-only media."""

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

APPLICATION_ID = 0x51335247  # "Q3RG"; tells a store from any other SQLite database
READS = (2, 3)  # formats; the first write upgrades a store of format 2 to format 3
FILE = "store.sqlite3"
LOG, SHARED = f"{FILE}-wal", f"{FILE}-shm"
BUSY = 5_000  # milliseconds that SQLite waits for a lock before it reports BUSY
PAGE = 16_384
CACHE = 16 << 20  # bytes of page cache for each connection
CHECKSUM = 8  # bytes of each page that cksumvfs uses
VFS = "cksmvfs"
Stamp = tuple[int, int, int]


class Opener:
    """Opens connections to the database of one folder.

    A process without write permission can still read the store. While a writer has it open, the writer's shared-memory
    file exists and readers get whole commits as usual. Otherwise SQLite cannot create that file, so the database is
    opened as immutable, and opened again once it has changed.

    Args:
        folder: The store's folder.
        new: Whether to create the database.

    Attributes:
        read_only: Why this process may not write, or None.
        inode: Device and inode of the database file.
    """

    def __init__(self, folder: Folder, *, new: bool = False) -> None:
        self.folder, self.path, self.new = folder, folder.path / FILE, new
        self.read_only = None if new else _why_read_only(folder.path)
        self._stamps: dict[int, Stamp] = {}  # of connections opened as immutable, by id

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode of the database file."""
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def connect(self) -> apsw.Connection:
        """Open a connection.

        Raises:
            StoreError: The file system has no locks, or this process may not read the write-ahead log.
            apsw.Error: SQLite cannot open it.
        """
        _register_checksums()
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
                        f"{self.folder.path} has commits that are only in its write-ahead log, which this process "
                        f"cannot read ({error}); expected read permission on {LOG} and {SHARED}; or open and "
                        "close the store once in a process that may write it"
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
        """Whether the database has changed since an immutable connection was opened."""
        stamp = self._stamps.get(id(connection))
        return stamp is not None and stamp != self._stamp()

    def check_unchanged(self, connection: apsw.Connection) -> None:
        """Check that the file has not changed since an immutable connection was opened.

        Raises:
            StoreError: It was written meanwhile, so what was read may mix two commits.
        """
        stamp = self._stamps.get(id(connection))
        if stamp is not None and stamp[:2] != self._stamp()[:2]:
            raise StoreError(f"{self.folder.path} was written while it was read, and {self.read_only}; try again")

    def close(self, connection: apsw.Connection) -> None:
        """Close a connection.

        When the last connection closes, SQLite deletes the write-ahead log by path. If the path now leads to another
        store, the log is left in place.
        """
        self._stamps.pop(id(connection), None)
        try:
            self.folder.check()
        except (StoreError, OSError):
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close()

    @staticmethod
    def reset_timeout(connection: apsw.Connection) -> None:
        """Set the default time that a connection waits for a lock."""
        connection.set_busy_timeout(BUSY)


def _prepare(connection: apsw.Connection) -> None:
    for pragma in ("synchronous = FULL", "trusted_schema = OFF", f"cache_size = {-CACHE // 1024}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)


def _why_read_only(folder: Path) -> str | None:
    """Why this process may not write the store, naming the path; None if it may."""
    names = [name for name in (FILE, LOG, SHARED, "commit") if (folder / name).exists()]
    for path in (folder, *(folder / name for name in names)):
        if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return f"{path} is not writable for this process; expected write permission on the folder and its files"
    return None


@functools.cache
def _register_checksums() -> None:
    """Register the cksumvfs file layer in this process; it stays registered while the connection is open."""
    connection = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(connection, "cksumvfs")
    _VFS_CONNECTIONS.append(connection)


_VFS_CONNECTIONS: list[apsw.Connection] = []


def _check_header(connection: apsw.Connection, folder: Path) -> None:
    """Reject a database that is not a store, or in a format this version cannot read; changes nothing."""
    if connection.execute("PRAGMA application_id").get != APPLICATION_ID:
        raise StoreNotFoundError(f"{folder / FILE} is not a store of this package")
    if (version := connection.execute("PRAGMA user_version").get) not in READS:
        raise StoreVersionError(f"{folder} is in format {version}; this version reads formats 2 and 3")


def translated(error: apsw.Error, path: Path) -> Exception:
    """This package's error for one of SQLite's; the same error if it is a bug in this package."""
    text = f"{path}: {error}"
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreLockedError(f"{path.parent}: another writer holds the store ({error})")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return IndexCorruptedError(text)
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return IndexCorruptedError(f"{path}: a page does not match its checksum")
    if isinstance(error, apsw.FullError):
        return StoreError(f"{path}: the disk is full")
    file_errors = apsw.IOError | apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError | apsw.NoLFSError
    return StoreError(text) if isinstance(error, file_errors) else error
