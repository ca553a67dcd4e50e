"""Plan a sync: compare the files on disk with what the store recorded when it read them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from qwen3_rag.errors import IngestError
from qwen3_rag.index.sources import DIGEST, SHARED, SourceRow
from qwen3_rag.ingest.files import open_file
from qwen3_rag.ingest.readers import has_reader
from qwen3_rag.ingest.walking import FileEntry, Selection, Walk
from qwen3_rag.records import IndexReport

__all__ = ["NOTHING_TO_READ", "Plan", "digest_of", "look", "row_of", "still"]

NOTHING_TO_READ = b"-"  # stored as the digest of a file that no reader supports
AT_ONCE = 1 << 20  # bytes hashed at once
# Two changes within one tick of the file system's clock get the same time, so a time this recent is not trusted.
TICK = 2_000_000_000  # nanoseconds


@dataclass
class Plan:
    """The work of a sync.

    Attributes:
        new: Files not read yet.
        changed: Files to read again because their content changed.
        moved: Previous paths of moved files, by current path.
        touched: Unchanged files whose recorded modification time is out of date.
        unchanged: Number of unchanged files.
        gone: Paths of files that no longer exist.
        withheld: Of each root of which most files are gone, how many are and how many there were; not in `gone`.
        waiting: Number of files left for a later run, because they are being written.
        skipped: Paths that could not be read, each with the reason.
    """

    new: list[FileEntry] = field(default_factory=list)
    changed: list[FileEntry] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    touched: list[SourceRow] = field(default_factory=list)
    unchanged: int = 0
    gone: list[str] = field(default_factory=list)
    withheld: dict[Path, tuple[int, int]] = field(default_factory=dict)
    waiting: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def wait(self, quiet: float) -> None:
        """Leave files for a later run that changed less than so many seconds ago; moved ones are not being written."""
        now = time.time_ns()
        young = {e.path for e in self.to_read if 0 <= now - e.changed < quiet * 1e9 and str(e.path) not in self.moved}
        self.waiting = len(young)
        self.new = [entry for entry in self.new if entry.path not in young]
        self.changed = [entry for entry in self.changed if entry.path not in young]

    def report(self) -> IndexReport:
        """The plan as a report, before any file is read."""
        actions = [("new", str(f.path)) for f in self.new if str(f.path) not in self.moved]
        actions += [("changed", str(entry.path)) for entry in self.changed]
        actions += [("moved", f"{before} -> {path}") for path, before in self.moved.items()]
        moved = set(self.moved.values())
        actions += [("removed", path) for path in self.gone if path not in moved]
        return IndexReport(
            files=len(self.to_read),
            files_unchanged=self.unchanged,
            moved=len(self.moved),
            skipped=tuple(self.skipped),
            withheld=sum(gone for gone, _ in self.withheld.values()),
            actions=tuple(actions),
        )

    @property
    def to_read(self) -> list[FileEntry]:
        """The files to read."""
        return [*self.changed, *self.new]


def look(
    roots: Sequence[Path],
    selection: Selection,
    known: Mapping[str, SourceRow],
    remove: bool,
    *,
    force: bool = False,
    reread: bool = False,
    retry: bool = False,
) -> Plan:
    """Compare the files at some paths with what the store recorded.

    Args:
        roots: Absolute paths of files and folders.
        selection: Which files to read.
        known: Recorded state of the files at and below the roots, by path.
        remove: Whether to look for deleted and moved files.
        force: Whether to remove the files of a root of which most are gone; by default its drive may be missing.
        reread: Whether unchanged files count as changed.
        retry: Whether files whose content could not be read count as changed.
    """
    plan = Plan()
    walk = Walk(roots, selection)
    seen: set[str] = set()
    unchanged: list[FileEntry] = []
    for entry in walk:
        path = str(entry.path)
        seen.add(path)
        row = known.get(path)
        if row is None:
            plan.new.append(entry)
        elif reread or (retry and row.reason):
            plan.changed.append(entry)
        elif (row.size, row.changed) == (entry.size, entry.changed):
            if row.digest == NOTHING_TO_READ and has_reader(entry.path):
                plan.new.append(entry)
            else:
                unchanged.append(entry)
                _unchanged(plan, row)
        elif row.size != entry.size:
            plan.changed.append(entry)
        else:
            _compare(plan, entry, row)
    plan.skipped += walk.skipped
    if remove:
        skipped = [path for path, _ in walk.skipped]
        unread = tuple(f"{path}/" for path in [*walk.unread, *skipped])  # what is below it is not known either
        seen.update(skipped)
        plan.gone = [path for path in known if path not in seen and not path.startswith(unread or "\0")]
        _find_moved(plan, known)
        if not force:
            _withhold(plan, roots, known)
    if plan.gone or plan.changed:
        # A document that goes now may stand in one of these files too.
        again = [entry for entry in unchanged if known[str(entry.path)].reason == SHARED]
        plan.changed += again
        plan.unchanged -= len(again)
    return plan


def _withhold(plan: Plan, roots: Sequence[Path], known: Mapping[str, SourceRow]) -> None:
    """Take back the removal of a root's files where more than half of them are gone and did not move."""
    moved = set(plan.moved.values())
    for root in roots:
        below = [path for path in known if path == str(root) or path.startswith(f"{str(root).rstrip('/')}/")]
        gone = {path for path in plan.gone if path not in moved}.intersection(below)
        if len(gone) * 2 > len(below):
            plan.withheld[root] = len(gone), len(below)
            plan.gone = [path for path in plan.gone if path not in gone]
            count = f"{len(gone)} of {len(below)} files read from it"
            reason = f"{count} are gone or left out now, so nothing of it was removed; force removes"
            plan.skipped.append((str(root), reason))


def _compare(plan: Plan, entry: FileEntry, row: SourceRow) -> None:
    try:
        same = row.digest != NOTHING_TO_READ and digest_of(entry.path) == row.digest[:DIGEST]
    except (OSError, IngestError) as error:
        reason = getattr(error, "strerror", None) or error
        plan.skipped.append((str(entry.path), f"cannot be read: {reason}"))
        return
    if same:
        plan.touched.append(row_of(entry, row.digest))
        _unchanged(plan, row)
    else:
        plan.changed.append(entry)


def _unchanged(plan: Plan, row: SourceRow) -> None:
    """Count a file that is not read again, and repeat why it could not be read."""
    plan.unchanged += 1
    if row.reason and row.reason != SHARED:
        plan.skipped.append((row.path, row.reason))


def _find_moved(plan: Plan, known: Mapping[str, SourceRow]) -> None:
    """Record as moved each new file whose content equals that of a deleted file."""
    deleted: dict[tuple[int, bytes], list[str]] = {}
    for path in plan.gone:
        deleted.setdefault((known[path].size, known[path].digest[:DIGEST]), []).append(path)
    sizes = {size for size, _ in deleted}
    for entry in plan.new:
        if entry.size in sizes and entry.size:
            try:
                before = deleted.get((entry.size, digest_of(entry.path)))
            except (OSError, IngestError):
                continue  # reported when the file is read
            if before:
                plan.moved[str(entry.path)] = before.pop()


def digest_of(path: Path) -> bytes:
    """XXH3 (128 bits) of a file's content.

    Raises:
        IngestError: It is not a regular file.
        OSError: The file cannot be read.
    """
    hashed = xxhash.xxh3_128()
    with open_file(path) as file:
        while part := file.read(AT_ONCE):
            hashed.update(part)
    return hashed.digest()


def row_of(entry: FileEntry, digest: bytes, reason: str = "") -> SourceRow:
    """The row recorded for a file; a time too recent to trust is stored as 0.

    With a `reason` why its content cannot be read, it is not read again until its content changes.
    """
    settled = time.time_ns() - entry.changed > TICK
    return SourceRow(str(entry.path), entry.size, entry.changed if settled else 0, digest + reason.encode())


def still(entry: FileEntry) -> bool:
    """Whether a file still has the size and modification time of `entry`.

    Raises:
        IngestError: The file cannot be accessed.
    """
    try:
        status = entry.path.stat()
    except OSError as error:
        raise IngestError(f"{entry.path}: {error.strerror or error}") from error
    return (status.st_size, status.st_mtime_ns) == (entry.size, entry.changed)
