"""The file a reader gets: its bytes, its decoded text and its detected type, each computed at most once."""

import codecs
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from qwen3_rag.errors import IngestError, MissingDependencyError

__all__ = ["COMMAND", "ContentError", "File", "NotInstalledError", "imported", "open_file"]

LARGEST = 64 << 20  # bytes; larger files are not read into memory
SECONDS = 60.0  # that a parser may take for a file
HEAD = 8192  # bytes used to detect the file type
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
OFFICE = {"word/document": ".docx", "ppt/presentation": ".pptx", "xl/workbook.xml": ".xlsx"}
TAIL = 1 << 16  # bytes at whose end a zip archive says where its list of names is
LONGEST_LIST = 4 << 20  # bytes of that list
HTML = re.compile(rb"(?is)\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype html|html)\b")
CONTROLS = bytes(set(range(32)) - {8, 9, 10, 12, 13, 27})
COMMAND = 'pip install "qwen3-rag[ingest]"'
T = TypeVar("T")


class ContentError(IngestError):
    """A file's content cannot be read, and reading the same bytes again would fail again.

    Attributes:
        reason: The message without the path.
    """

    def __init__(self, place: str | Path, reason: str) -> None:
        """`place` is the path, or the path with the number of a line."""
        super().__init__(f"{place}: {reason}")
        self.reason = reason


class NotInstalledError(IngestError):
    """A file cannot be read because an optional package is not installed; the message has the pip command."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; a named pipe or a socket would wait for ever.

    Raises:
        IngestError: It is not a regular file.
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IngestError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb")


@dataclass
class File:
    """A file to read; gzip is decompressed transparently.

    Attributes:
        path: Full path.
        largest: Maximum size in bytes, decompressed; a larger file is an error unless its reader streams.
        seconds: Maximum time that parsing a file in another process may take.
    """

    path: Path
    largest: int = LARGEST
    seconds: float = SECONDS

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD` bytes, decompressed."""
        with self.open() as file:
            return file.read(HEAD)

    @cached_property
    def packed(self) -> bool:
        """Whether the file is gzip-compressed."""
        with open_file(self.path) as file:
            return file.read(2) == b"\x1f\x8b"

    @property
    def name(self) -> str:
        """The file name, without .gz if compressed: guide.md for guide.md.gz."""
        name = self.path.name
        return name[:-3] if self.packed and name.lower().endswith(".gz") else name

    @property
    def suffix(self) -> str:
        """The suffix of `name`, in lower case."""
        return Path(self.name.lower()).suffix

    @property
    def stem(self) -> str:
        """`name` without its suffix: the title of a document that has no other."""
        return Path(self.name).stem

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading bytes, decompressed if it is gzip."""
        try:
            with open_file(self.path) as raw:
                if self.packed:
                    with gzip.GzipFile(fileobj=raw) as file:
                        yield cast("BinaryIO", file)
                else:
                    yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ContentError(self.path, f"broken gzip: {error}") from error

    @cached_property
    def bytes(self) -> bytes:
        """The whole content, decompressed.

        Raises:
            IngestError: The content is larger than `largest`.
        """
        with self.open() as file:
            content = file.read(self.largest + 1)
        if len(content) > self.largest:
            raise ContentError(
                self.path, f"more than {self.largest / 2**20:.0f} MiB, the maximum for a file that is not streamed"
            )
        return content

    @cached_property
    def encoding(self) -> str:
        """The encoding: from the byte-order mark, else UTF-8 if it is valid, else guessed from the content.

        Raises:
            IngestError: The file is not text, or no encoding fits.
        """
        for mark, name in MARKS.items():
            if self.bytes.startswith(mark):
                return name
        if self.binary:
            raise ContentError(self.path, f"not text: control characters in its first {HEAD} bytes")
        try:
            self.bytes.decode()
        except UnicodeDecodeError as error:
            from charset_normalizer import from_bytes

            match = from_bytes(self.bytes[: 1 << 18]).best()
            if match is None:
                raise ContentError(self.path, f"invalid UTF-8 at byte {error.start}; no other encoding fits") from None
            return match.encoding
        return "utf-8"

    @property
    def binary(self) -> bool:
        """Whether `head` has control characters and no byte-order mark."""
        return not self.head.startswith(tuple(MARKS)) and any(byte in CONTROLS for byte in self.head)

    @cached_property
    def text(self) -> str:
        """The whole content, decoded; line endings are kept.

        Raises:
            IngestError: The file is not text, or is invalid in its detected encoding.
        """
        try:
            return self.bytes.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise ContentError(self.path, f"invalid {self.encoding} at byte {error.start}") from error

    @cached_property
    def kind(self) -> str | None:
        """The file type detected from the content, as a suffix such as ".pdf"; None if not detected."""
        head = self.head
        for mark, suffix in ((b"%PDF-", ".pdf"), (b"PAR1", ".parquet")):
            if mark in head[:1024] if suffix == ".pdf" else head.startswith(mark):
                return suffix
        if head.startswith(b"PK\x03\x04"):
            if b"application/epub+zip" in head[:100]:
                return ".epub"
            with BytesIO(self.bytes) if self.packed else open_file(self.path) as archive:
                return _zipped(archive, self.suffix)
        if self.binary:
            return None
        return ".html" if HTML.match(head) else None


def _zipped(archive: BinaryIO, suffix: str) -> str | None:
    """The type of a zip archive by the names in it; a damaged one is what its own name says."""
    archive.seek(-min(TAIL, archive.seek(0, os.SEEK_END)), os.SEEK_END)
    _, mark, end = archive.read().rpartition(b"PK\x05\x06")
    # Where the end says that the list of names is long, it is no Office file.
    if mark and int.from_bytes(end[8:12], "little") > LONGEST_LIST:
        return None
    import zipfile

    try:
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return suffix if suffix in (*OFFICE.values(), ".epub") else None
    # The standard wants an EPUB's type before everything else, but many packers do without.
    if "META-INF/container.xml" in names:
        return ".epub"
    return next((kind for folder, kind in OFFICE.items() if any(name.startswith(folder) for name in names)), None)


def imported(load: Callable[[], T], package: str, kind: str) -> T:
    """Import an optional package that a reader needs.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        return load()
    except ImportError as error:
        raise MissingDependencyError(package, f"reading {kind}", COMMAND) from error
