"""The files that documents were read from: size, time and digest of each, and its documents."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qwen3_rag.index.database import Database, Run

__all__ = ["BY_HAND", "DIGEST", "SHARED", "SourceRow", "Sources"]

DIGEST = 16  # bytes of a content's digest
BY_HAND = "were added by hand"  # part of the reason of a file whose documents another one takes the place of
SHARED = "some of its documents are in other files too; those read last are kept"
UNFINISHED = -1  # stored as the size of a file until all its documents are written


@dataclass(frozen=True)
class SourceRow:
    """A file as it was when it was read.

    Attributes:
        path: Full path.
        size: Bytes.
        changed: Time of its last change in nanoseconds; 0 if it is unreliable.
        digest: Digest of its content, followed by why it cannot be read or only in part.
    """

    path: str
    size: int
    changed: int
    digest: bytes

    @property
    def reason(self) -> str:
        """Why its content cannot be read, or only in part; "" if all of it was read."""
        return self.digest[DIGEST:].decode(errors="replace")


class Sources:
    """The table of files of a store.

    Args:
        database: Its open database.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.snapshot = database.snapshot

    @property
    def _run(self) -> Run:
        return self.database.run

    def all(self, roots: Sequence[str]) -> dict[str, SourceRow]:
        """Files at and below `roots`, by path; a file not yet read to its end has size -1."""
        with self.snapshot():
            files: dict[str, SourceRow] = {}
            for root in roots:
                below = root if root.endswith("/") else root + "/"
                # A path starts with `below` exactly if it sorts between `below` and `below` with "/" replaced by "0".
                sql = "SELECT path, size, changed, digest FROM sources WHERE path = ? OR (path >= ? AND path < ?)"
                rows = self._run(sql, (root, below, below[:-1] + chr(ord("/") + 1)))
                files |= {row[0]: SourceRow(*row) for row in rows}
            return files

    def documents(self, path: str) -> list[str]:
        """Ids of the documents of a file, in order."""
        with self.snapshot():
            if self.database.format == 2:
                return []
            sql = "SELECT id FROM documents WHERE origin = (SELECT number FROM sources WHERE path = ?) ORDER BY number"
            return [name for (name,) in self._run(sql, (path,))]

    def finished(self) -> list[SourceRow]:
        """All files that were read to their end."""
        with self.snapshot():
            if self.database.format == 2:
                return []
            rows = self._run("SELECT path, size, changed, digest FROM sources WHERE size != ?", (UNFINISHED,))
            return [SourceRow(*row) for row in rows]

    def origins(self, ids: Sequence[str]) -> dict[str, str]:
        """Path of the file that a document came from, by id; documents without a file are left out."""
        sql = "SELECT s.path FROM documents d JOIN sources s ON s.number = d.origin WHERE d.id = ?"
        with self.snapshot():
            if self.database.format == 2:
                return {}
            paths = {name: self._run(sql, (name,)).get for name in ids}
            return {name: path for name, path in paths.items() if path is not None}

    def by_hand(self, ids: Sequence[str]) -> list[str]:
        """Those of the documents that came from no file."""
        sql = "SELECT id FROM documents WHERE id = ? AND origin IS NULL"
        with self.snapshot():
            if self.database.format == 2:
                return []
            return [name for name in ids if self._run(sql, (name,)).get is not None]

    def unreadable(self) -> dict[str, str]:
        """Files whose content cannot be read, or only in part, each with the reason."""
        return {row.path: row.reason for row in self.finished() if row.reason not in ("", SHARED)}

    def unfinished(self) -> list[str]:
        """Files of which an interrupted run wrote only a part."""
        with self.snapshot():
            if self.database.format == 2:
                return []
            return [path for (path,) in self._run("SELECT path FROM sources WHERE size = ?", (UNFINISHED,))]

    def count(self) -> int:
        """Number of files that were read."""
        with self.snapshot():
            if self.database.format == 2:
                return 0
            return int(self._run("SELECT count(*) FROM sources WHERE size != ?", (UNFINISHED,)).get)

    def owned(self, files: Mapping[str, str]) -> list[str]:
        """Those of the documents that still belong to the file given for each id, within a transaction."""
        sql = "SELECT d.id FROM documents d JOIN sources s ON s.number = d.origin WHERE d.id = ? AND s.path = ?"
        return [name for name, path in files.items() if self._run(sql, (name, path)).get is not None]

    def displaced(self, origins: Mapping[str, int]) -> set[str]:
        """Paths of other files to which the documents belong so far, within a transaction."""
        sql = "SELECT s.path FROM documents d JOIN sources s ON s.number = d.origin WHERE d.id = ? AND d.origin != ?"
        paths = (self._run(sql, (name, number)).get for name, number in origins.items())
        return {path for path in paths if path is not None}

    def mark_shared(self, paths: Iterable[str]) -> None:
        """Note that documents of these files come from other files now, within a transaction."""
        sql = "UPDATE sources SET digest = CAST(digest || ? AS BLOB) WHERE path = ? AND length(digest) = ?"
        self.database.many(sql, [(SHARED.encode(), path, DIGEST) for path in paths])

    def unblock(self) -> None:
        """Have files read again that were kept from writing documents, within a transaction that removes some."""
        sql = "UPDATE sources SET changed = 0, digest = x'' WHERE CAST(substr(digest, ?) AS TEXT) LIKE ?"
        if self.database.format > 2:
            self._run(sql, (DIGEST + 1, f"%{BY_HAND}%"))

    def numbers(self, paths: Iterable[str]) -> dict[str, int]:
        """Numbers of files, within a transaction; new files get a number and are marked unfinished."""
        numbers = {}
        for path in dict.fromkeys(paths):
            self._run("INSERT OR IGNORE INTO sources VALUES (NULL, ?, ?, 0, x'')", (path, UNFINISHED))
            numbers[path] = int(self._run("SELECT number FROM sources WHERE path = ?", (path,)).get)
        return numbers

    def adopt(self, origins: Mapping[str, int]) -> None:
        """Set the files of documents, by id, within a transaction."""
        self.database.many("UPDATE documents SET origin = ? WHERE id = ?", [(n, name) for name, n in origins.items()])

    def finish(self, rows: Iterable[SourceRow]) -> None:
        """Record files that were read to their end, within a transaction."""
        sql = (
            "INSERT INTO sources VALUES (NULL, ?1, ?2, ?3, ?4) "
            "ON CONFLICT (path) DO UPDATE SET size = ?2, changed = ?3, digest = ?4"
        )
        self.database.many(sql, [(row.path, row.size, row.changed, row.digest) for row in rows])

    def forget(self, paths: Iterable[str]) -> None:
        """Delete files, within a transaction; their remaining documents are left without a file."""
        keys = [(path,) for path in paths]
        sql = "UPDATE documents SET origin = NULL WHERE origin = (SELECT number FROM sources WHERE path = ?)"
        self.database.many(sql, keys)
        self.database.many("DELETE FROM sources WHERE path = ?", keys)

    def faults(self) -> Iterator[str]:
        """Documents whose file is missing from the table, as messages."""
        if self.database.format == 2:
            return iter(())
        sql = "SELECT id FROM documents WHERE origin IS NOT NULL AND origin NOT IN (SELECT number FROM sources)"
        return (f"the file of document {name!r} is missing from the table of files" for (name,) in self._run(sql))
