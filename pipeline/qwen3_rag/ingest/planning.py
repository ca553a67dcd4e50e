"""What a sync has to do: files as they are now beside files as they were when they were read."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from qwen3_rag.errors import IngestError
from qwen3_rag.index.sources import SourceRow
from qwen3_rag.ingest.readers import has_reader
from qwen3_rag.ingest.walking import FileEntry, Selection, Walk
from qwen3_rag.records import IndexReport

__all__ = ["NOTHING_TO_READ", "Plan", "digest_of", "look", "row_of"]

NOTHING_TO_READ = b"-"  # in place of the digest of a file that no reader knows
AT_ONCE = 1 << 20  # bytes hashed at once
# A change within the tick of a file system's clock leaves the time as it is; so a time is relied on once it has passed.
TICK = 2_000_000_000  # nanoseconds


@dataclass
class Plan:
    """What a sync would do.

    Attributes:
        new: Files not read yet.
        changed: Files whose content is another.
        moved: Files that were read under another path, by their path now.
        touched: Files whose content is the same, though size or time is not as noted.
        unchanged: How many are as they were.
        gone: Paths of files that are no more.
        skipped: Paths that could not be looked at, and why.
    """

    new: list[FileEntry] = field(default_factory=list)
    changed: list[FileEntry] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    touched: list[SourceRow] = field(default_factory=list)
    unchanged: int = 0
    gone: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def report(self) -> IndexReport:
        """What it comes to, before anything is read."""
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
            actions=tuple(actions),
        )

    @property
    def to_read(self) -> list[FileEntry]:
        """The files that have to be opened."""
        return [*self.changed, *self.new]


def look(
    roots: Sequence[Path],
    selection: Selection,
    known: Mapping[str, SourceRow],
    remove: bool,
    emptied: bool = False,
    reread: bool = False,
) -> Plan:
    """Compare what lies at some paths with what was noted.

    Args:
        roots: Files and folders, full paths.
        selection: Which files to read.
        known: What was noted of files at and below the roots, by path.
        remove: Whether files that are no more count as gone.
        emptied: Whether they do even where a root has no entry left; else that counts as a drive that is not there.
        reread: Whether files count as changed that are as they were.
    """
    plan = Plan()
    walk = Walk(roots, selection)
    here: set[str] = set()
    for entry in walk:
        path = str(entry.path)
        here.add(path)
        row = known.get(path)
        if row is None:
            plan.new.append(entry)
        elif reread:
            plan.changed.append(entry)
        elif (row.size, row.changed) == (entry.size, entry.changed):
            if row.digest == NOTHING_TO_READ and has_reader(entry.path):
                plan.new.append(entry)
            else:
                plan.unchanged += 1
        elif row.size != entry.size:
            plan.changed.append(entry)
        else:
            _compare(plan, entry, row)
    plan.skipped += walk.skipped
    if remove:
        unread = tuple(
            str(folder) + "/" for folder in [*walk.unread, *([] if emptied else _missing(plan, walk, known))]
        )
        passed = {path for path, _ in walk.skipped}
        plan.gone = [path for path in known if path not in here | passed and not path.startswith(unread or "\0")]
        _find_moved(plan, known)
    return plan


def _missing(plan: Plan, walk: Walk, known: Mapping[str, SourceRow]) -> list[Path]:
    """Roots that are empty though files were read from them."""
    missing = []
    for root in walk.empty:
        before = sum(path.startswith(f"{root}/") for path in known)
        if before:
            missing.append(root)
            reason = f"folder: empty, though {before} files were read from it; they stay unless you say `emptied`"
            plan.skipped.append((str(root), reason))
    return missing


def _compare(plan: Plan, entry: FileEntry, row: SourceRow) -> None:
    try:
        same = row.digest != NOTHING_TO_READ and digest_of(entry.path) == row.digest
    except OSError as error:
        plan.skipped.append((str(entry.path), f"cannot be read: {error.strerror or error}"))
        return
    if same:
        plan.touched.append(row_of(entry, row.digest))
        plan.unchanged += 1
    else:
        plan.changed.append(entry)


def _find_moved(plan: Plan, known: Mapping[str, SourceRow]) -> None:
    """Among new files those whose content a file had that is gone."""
    gone: dict[tuple[int, bytes], list[str]] = {}
    for path in plan.gone:
        gone.setdefault((known[path].size, known[path].digest), []).append(path)
    sizes = {size for size, _ in gone}
    for entry in plan.new:
        if entry.size in sizes and entry.size:
            try:
                before = gone.get((entry.size, digest_of(entry.path)))
            except OSError:
                continue  # reading it will say so
            if before:
                plan.moved[str(entry.path)] = before.pop()


def digest_of(path: Path) -> bytes:
    """XXH3 (128 bits) of a file's content.

    Raises:
        OSError: It cannot be read.
    """
    hashed = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(AT_ONCE):
            hashed.update(part)
    return hashed.digest()


def row_of(entry: FileEntry, digest: bytes) -> SourceRow:
    """What is noted of a file."""
    settled = time.time_ns() - entry.changed > TICK
    return SourceRow(str(entry.path), entry.size, entry.changed if settled else 0, digest)


def still(entry: FileEntry) -> bool:
    """Whether a file looks as it did.

    Raises:
        IngestError: It is not there any more.
    """
    try:
        status = entry.path.stat()
    except OSError as error:
        raise IngestError(f"{entry.path}: {error.strerror or error}") from error
    return (status.st_size, status.st_mtime_ns) == (entry.size, entry.changed)
