"""A file as readers see it: its bytes, once, its text in whatever encoding, and what kind of file it is."""

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from qwen3_rag.errors import IngestError, MissingDependencyError

__all__ = ["File", "imported"]

LARGEST = 64 << 20  # bytes of a file that is read as a whole
HEAD = 8192  # bytes by which the kind of a file is told
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
HTML = re.compile(rb"(?is)\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype html|html)\b")
CONTROLS = bytes(set(range(32)) - {8, 9, 10, 12, 13, 27})
T = TypeVar("T")


@dataclass
class File:
    """A file that is being read.

    Attributes:
        path: Its full path.
        largest: Bytes, unpacked, that are read as a whole; a larger file is an error, unless its reader streams.
    """

    path: Path
    largest: int = LARGEST

    @cached_property
    def head(self) -> bytes:
        """Its first bytes, unpacked."""
        with self.open() as file:
            return file.read(HEAD)

    @cached_property
    def packed(self) -> bool:
        """Whether it is compressed by gzip."""
        with self.path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"

    @property
    def name(self) -> str:
        """Its name, of what is inside where it is compressed: guide.md of guide.md.gz."""
        name = self.path.name
        return name[:-3] if self.packed and name.lower().endswith(".gz") else name

    @property
    def suffix(self) -> str:
        """Lower-case suffix of its name."""
        return Path(self.name.lower()).suffix

    @property
    def stem(self) -> str:
        """Its name without suffix: a title for what has none."""
        return Path(self.name).stem

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it for reading bytes, unpacked if it is compressed."""
        try:
            with self.path.open("rb") as raw:
                if self.packed:
                    with gzip.GzipFile(fileobj=raw) as file:
                        yield cast("BinaryIO", file)
                else:
                    yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise IngestError(f"{self.path}: broken gzip: {error}") from error

    @cached_property
    def bytes(self) -> bytes:
        """All of it, unpacked.

        Raises:
            IngestError: It is larger than `largest`.
        """
        with self.open() as file:
            content = file.read(self.largest + 1)
        if len(content) > self.largest:
            raise IngestError(
                f"{self.path}: more than {self.largest / 2**20:.0f} MiB; files are read whole up to there"
            )
        return content

    @cached_property
    def encoding(self) -> str:
        """Encoding by its mark; else UTF-8 if that fits; else a guess by its letters.

        Raises:
            IngestError: It is not text.
        """
        for mark, name in MARKS.items():
            if self.bytes.startswith(mark):
                return name
        if self.binary:
            raise IngestError(f"{self.path}: not text: its first {HEAD} bytes hold control characters")
        try:
            self.bytes.decode()
        except UnicodeDecodeError as error:
            from charset_normalizer import from_bytes

            match = from_bytes(self.bytes[: 1 << 18]).best()
            if match is None:
                raise IngestError(f"{self.path}: not UTF-8 at byte {error.start}, and no other encoding fits") from None
            return match.encoding
        return "utf-8"

    @property
    def binary(self) -> bool:
        """Whether its beginning holds what no text does."""
        return not self.head.startswith(tuple(MARKS)) and any(byte in CONTROLS for byte in self.head)

    @cached_property
    def text(self) -> str:
        """All of it, decoded; line ends as they are.

        Raises:
            IngestError: It is not text, or not in the encoding that it seemed to be in.
        """
        try:
            return self.bytes.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise IngestError(f"{self.path}: not {self.encoding} at byte {error.start}") from error

    @cached_property
    def kind(self) -> str | None:
        """The suffix of the kind that its content shows it to be, such as ".pdf"; None if it shows none."""
        head = self.head
        for mark, suffix in ((b"%PDF-", ".pdf"), (b"PAR1", ".parquet")):
            if mark in head[:1024] if suffix == ".pdf" else head.startswith(mark):
                return suffix
        if head.startswith(b"PK\x03\x04"):
            return ".epub" if b"application/epub+zip" in head[:100] else _zipped(self.path)
        if self.binary:
            return None
        return ".html" if HTML.match(head) else None


def _zipped(path: Path) -> str | None:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return ".docx" if "word/document.xml" in archive.namelist() else None
    except (zipfile.BadZipFile, OSError):
        return None


def imported(load: Callable[[], T], package: str, kind: str) -> T:
    """A package that some readers need.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return load()
    except ImportError as error:
        raise MissingDependencyError(package, f"reading {kind}", 'pip install "qwen3-rag[ingest]"') from error
