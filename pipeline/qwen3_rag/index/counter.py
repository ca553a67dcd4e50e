"""The number of the last acknowledged commit, in a file of its own beside SQLite, which notices what SQLite drops."""

import os
import struct
from pathlib import Path

import xxhash

from qwen3_rag.errors import IndexCorruptedError, StoreNotFoundError

__all__ = ["CommitCounter", "sync_folder"]

SLOT = 4096  # the two places lie in different sectors: a torn write damages one


def sync_folder(folder: Path) -> None:
    """Make names just made in a folder survive a power cut."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class CommitCounter:
    """The number of the last acknowledged commit, kept outside SQLite: two places, written in turn and synced."""

    FORM = struct.Struct("<16sQQ")  # store, commit, digest of both

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, commit: int) -> None:
        """Make the file of a new store, which gets a random name here."""
        slot = self._slot(os.urandom(16), commit)
        with self.path.open("xb") as file:
            file.write(slot.ljust(SLOT, b"\0") + slot.ljust(SLOT, b"\0"))
            file.flush()
            os.fsync(file.fileno())

    def _slot(self, store: bytes, commit: int) -> bytes:
        return self.FORM.pack(store, commit, xxhash.xxh3_64_intdigest(self.FORM.pack(store, commit, 0)))

    def _read(self) -> tuple[bytes, int]:
        try:
            raw = self.path.read_bytes()
        except OSError as error:
            if not self.path.parent.is_dir():
                raise StoreNotFoundError(f"{self.path.parent} has vanished") from error
            raise IndexCorruptedError(f"{self.path} cannot be read: {error}") from error
        found = []
        for start in (0, SLOT):
            slot = raw[start : start + self.FORM.size]
            if len(slot) == self.FORM.size:
                store, commit, _ = self.FORM.unpack(slot)
                if self._slot(store, commit) == slot:
                    found.append((commit, store))
        if not found:
            raise IndexCorruptedError(f"{self.path} is damaged: neither of its two places is whole")
        commit, store = max(found)
        return store, commit

    def read(self) -> int:
        """The last commit acknowledged."""
        return self._read()[1]

    def write(self, commit: int) -> None:
        """Acknowledge a commit."""
        store, _ = self._read()
        handle = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(handle, self._slot(store, commit), SLOT * (commit % 2))
            os.fsync(handle)
        finally:
            os.close(handle)
