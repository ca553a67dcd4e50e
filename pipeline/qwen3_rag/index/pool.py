"""The connections of a process to one database: each snapshot or transaction in progress has its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw

from qwen3_rag.errors import StoreError
from qwen3_rag.forking import Forked
from qwen3_rag.index.connections import Opener, translated

__all__ = ["ConnectionPool"]

QUIESCE = 5.0  # seconds that a fork waits for reads and writes of other threads to end
_ABANDONED: list[apsw.Connection] = []
_IN_USE_AT_FORK: set[tuple[int, int]] = set()  # database files, by device and inode


class _Thread(threading.local):
    """What a thread is doing."""

    connection: apsw.Connection | None = None


class ConnectionPool(Forked):
    """Lends open connections to threads, and opens more as needed.

    Args:
        opener: Opens connections to the database file.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener, self._folder = opener, opener.folder
        self._changed = threading.Condition()
        self._idle: list[apsw.Connection] = []
        self._active: list[apsw.Connection] = []
        self._closed = self._forking = False
        self._thread = _Thread()
        super().__init__()

    @staticmethod
    def check_forks(opener: Opener) -> None:
        """Raise StoreError if the file was in use when this process was forked."""
        if _IN_USE_AT_FORK and opener.inode in _IN_USE_AT_FORK:
            raise StoreError(
                f"{opener.folder.path} was in use by another thread when this process was forked, and cannot be used "
                "here; fork while no call is running, or start the process with spawn"
            )

    def add(self, connection: apsw.Connection) -> None:
        """Add an open connection."""
        with self._changed:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the connections. Reads already running in other threads still complete; closing twice does nothing."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            last = not self._active
        for connection in idle:
            self._opener.close(connection)
        if last:
            self._folder.close()

    def before_fork(self) -> None:
        """Close the connections, because SQLite's locks do not survive a fork, and open none until it is over."""
        self._forking = True
        end = time.monotonic() + QUIESCE
        self._changed.acquire()
        waits = self._thread.connection is None
        while self._active and waits and self._changed.wait(end - time.monotonic()):
            pass
        for connection in self._idle:
            with suppress(apsw.Error):
                self._opener.close(connection)
        self._idle = []

    def after_fork_in_parent(self) -> None:
        """Allow connections again."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Start with new locks and no connection; one that was in use belongs to the parent."""
        self._changed, self._thread = threading.Condition(), _Thread()
        self._forking = False
        self._folder.after_fork()
        if self._active:
            # Never closed: closing them here would change files that the parent uses.
            _ABANDONED.extend(self._active)
            _IN_USE_AT_FORK.add(self._opener.inode)
            self._active = []

    @property
    def connection(self) -> apsw.Connection:
        """The connection of the thread's snapshot or transaction."""
        if self._thread.connection is None:
            raise RuntimeError(f"{self._opener.path} was read or written outside a snapshot and a transaction")
        return self._thread.connection

    @contextmanager
    def connected(self) -> Iterator[apsw.Connection]:
        """Lend the thread a connection for the block; a transaction that it leaves open is rolled back.

        Raises:
            StoreError: The store was closed or cannot be opened, or one of SQLite's errors.
        """
        with self._translating():
            connection = self._take()
            outer, self._thread.connection = self._thread.connection, connection
            try:
                yield connection
            finally:
                self._thread.connection = outer
                if connection not in _ABANDONED:  # after a fork, these belong to the parent
                    if connection.in_transaction:
                        with suppress(apsw.Error):
                            connection.execute("ROLLBACK")
                    self._give(connection)

    def _take(self) -> apsw.Connection:
        with self._changed:
            while self._forking:
                self._changed.wait()
            if self._closed:
                raise StoreError(f"{self._folder.path} was closed; open it again")
            self.check_forks(self._opener)
            connection = self._idle.pop() if self._idle else None
            if connection is None or self._opener.outdated(connection):
                if connection is not None:
                    self._opener.close(connection)
                self._folder.check_path()
                connection = self._opener.connect()
            self._active.append(connection)
            return connection

    def _give(self, connection: apsw.Connection) -> None:
        with self._changed:
            if connection in self._active:
                self._active.remove(connection)
            self._changed.notify_all()
            if not self._closed:
                self._idle.append(connection)
                return
            last = not self._active
        self._opener.close(connection)
        if last:
            self._folder.close()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            ours = translated(error, self._opener.path)
            if ours is error:
                raise
            raise ours from error
