"""Lists files by globs, hidden names, .gitignore and links; opens no file except .gitignore."""

import os
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import re2
from pathspec import GitIgnoreSpec

from qwen3_rag.arguments import as_path, text_list
from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.index.database import FILE

__all__ = ["FileEntry", "Selection", "Walk"]

IGNORE = ".gitignore"
BROKEN = (ValueError, re.error, re2.error)  # what a line that makes no pattern raises
SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class FileEntry:
    """A file: its full path, its size in bytes, and its modification time in nanoseconds."""

    path: Path
    size: int
    changed: int


@dataclass(frozen=True)
class Selection:
    """Which files of a folder to read.

    Attributes:
        include: Globs in .gitignore syntax; a file must match one. Empty selects all files.
        exclude: Globs of files and folders to leave out.
        hidden: Whether to read files and folders whose names start with a dot.
        ignored: Whether to read files that a .gitignore excludes.
        follow_links: Whether to follow symbolic links.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    ignored: bool = False
    follow_links: bool = False

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            object.__setattr__(self, name, tuple(text_list(getattr(self, name), name)))
            try:
                _spec(getattr(self, name))
            except BROKEN as error:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}: {error}") from error


Rules = tuple[tuple[str, GitIgnoreSpec], ...]


@dataclass
class Walk:
    """A walk through files and folders, and a record of what it could not read.

    Attributes:
        roots: Full paths of the files and folders to walk.
        selection: Which files to read.
        unread: Folders that could not be read, so their contents are unknown.
        skipped: Paths that were skipped, and why.
    """

    roots: Sequence[Path]
    selection: Selection = field(default_factory=Selection)
    unread: list[Path] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @staticmethod
    def roots_of(paths: Sequence[str | Path]) -> list[Path]:
        """Resolve files and folders to full paths, without duplicates.

        Raises:
            IngestError: A path does not exist or is not accessible.
        """
        full = []
        for name in paths:
            path = as_path(name, "path").absolute()
            try:
                path = path.resolve(strict=True)
                path.stat()
            except (OSError, RuntimeError) as error:
                why = "no such file or folder" if isinstance(error, FileNotFoundError) else str(error)
                raise IngestError(f"{name}: {why}") from error
            full.append(path)
        return list(dict.fromkeys(full))

    def __iter__(self) -> Iterator[FileEntry]:
        """Yield each selected file once, folder by folder, sorted by name."""
        seen: set[str] = set()
        include, exclude = (_spec(getattr(self.selection, n)) for n in ("include", "exclude"))
        self._include, self._exclude = include if self.selection.include else None, exclude
        for root in self.roots:
            try:
                status = root.stat()
            except OSError as error:  # gone since its path was resolved
                self.unread.append(root)
                self.skipped.append((str(root), error.strerror or str(error)))
                continue
            if stat.S_ISDIR(status.st_mode):
                files = self._folder(str(root), str(root), _rules_above(root), ())
            else:
                files = self._file(os.fspath(root), status)
            for file in files:
                if str(file.path) not in seen:
                    seen.add(str(file.path))
                    yield file

    def _file(self, path: str, status: os.stat_result) -> Iterator[FileEntry]:
        try:
            path.encode()
        except UnicodeEncodeError:
            self.skipped.append((repr(os.fsencode(path)), "name is not valid UTF-8"))
            return
        if stat.S_ISREG(status.st_mode):
            yield FileEntry(Path(path), status.st_size, status.st_mtime_ns)
        else:
            self.skipped.append((path, f"not a regular file: {SPECIAL.get(stat.S_IFMT(status.st_mode), 'a device')}"))

    def _folder(self, root: str, folder: str, rules: Rules, above: tuple[tuple[int, int], ...]) -> Iterator[FileEntry]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.unread.append(Path(folder))
            self.skipped.append((os.fsencode(folder).decode(errors="replace"), f"folder: {error.strerror or error}"))
            return
        names = {entry.name for entry in entries}
        if FILE in names:  # an index folder, perhaps the one being written
            return
        if IGNORE in names and not self.selection.ignored:
            rules = (*rules, *_rules(folder))
        for entry in entries:
            try:
                yield from self._entry(root, entry, rules, above)
            except OSError as error:
                self.skipped.append((os.fsencode(entry.path).decode(errors="replace"), error.strerror or str(error)))

    def _entry(
        self, root: str, entry: os.DirEntry[str], rules: Rules, above: tuple[tuple[int, int], ...]
    ) -> Iterator[FileEntry]:
        if entry.name.startswith(".") and not self.selection.hidden:
            return
        links = self.selection.follow_links
        if entry.is_symlink() and not links:
            return
        folder = entry.is_dir(follow_symlinks=links)
        path = entry.path + "/" if folder else entry.path
        readable = path.encode(errors="replace").decode()  # a name may not be valid UTF-8
        relative = readable[len(root.rstrip("/")) + 1 :]
        if self._exclude.match_file(relative) or _ignored(readable, rules):
            return
        if not folder:
            if self._include is None or self._include.match_file(relative):
                yield from self._file(entry.path, entry.stat(follow_symlinks=links))
            return
        if links:
            status = entry.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                self.skipped.append((entry.path, "links to a folder that contains it"))
                return
            above = (*above, identity)
        yield from self._folder(root, entry.path, rules, above)


def _rules(folder: str) -> Rules:
    try:
        text = (Path(folder) / IGNORE).read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ()
    # As git reads it: only \n ends a line, and a line that makes no pattern matches nothing.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return ((folder + "/", _spec([line for line in lines if _makes_a_pattern(line)])),)


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    """Patterns in .gitignore syntax, matched in linear time: `a*a*…` would hang Python's own expressions."""
    with warnings.catch_warnings(action="ignore"):  # about brackets that mean something else in regular expressions
        return GitIgnoreSpec.from_lines(lines, backend="re2")


def _makes_a_pattern(line: str) -> bool:
    try:
        _spec([line])
    except BROKEN:
        return False
    return True


def _rules_above(root: Path) -> Rules:
    """.gitignore rules of the folder's repository, from the repository root to the folder's parent."""
    folders = [root, *root.parents]
    top = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    return tuple(rule for folder in reversed(folders[1 : top + 1]) for rule in _rules(str(folder)))


def _ignored(path: str, rules: Rules) -> bool:
    ignored = False
    for folder, spec in rules:
        if (decision := spec.check_file(path[len(folder) :]).include) is not None:
            ignored = decision
    return ignored
