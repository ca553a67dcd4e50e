"""Zip archives of XML, such as Office files and EPUB, read within limits."""

import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from qwen3_rag.errors import IngestError

__all__ = ["Package", "Relationship", "XmlEvent", "opened"]

MEMBER = 64 << 20  # bytes of one unpacked member
UNPACKED = 256 << 20  # bytes of all that are read
DEEPEST = 2000  # elements within one another
CHUNK = 1 << 16  # bytes unpacked at once
TEXT_PARTS = (".xml", ".html", ".xhtml", ".htm", ".opf", ".ncx", ".rels")
ENCRYPTED = 1  # bit of a member's flags
BROKEN = (
    zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, NotImplementedError, RuntimeError, LookupError,
    ValueError,
)  # fmt: skip


class XmlEvent(NamedTuple):
    """A part of an XML document: ("start", element, attributes), ("end", element, {}) or ("text", characters, {}).

    Names are without namespace; attributes that name a relationship have the prefix "r:".
    """

    kind: str
    value: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Relationship:
    """What a part refers to: `kind`, such as "slide" or "styles", and the name of the other part."""

    kind: str
    target: str


class Package:
    """An open archive; counts what is unpacked from it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = frozenset(archive.namelist())
        self._unpacked = 0

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a member, unpacked little by little.

        Raises:
            IngestError: It is too large, or too much has been unpacked.
            KeyError: There is no such member.
        """
        length = 0
        with self._archive.open(name) as member:
            while chunk := member.read(CHUNK):
                length += len(chunk)
                self._unpacked += len(chunk)
                if length > MEMBER:
                    raise IngestError(f"too large: {name[:100]} unpacks to more than {MEMBER >> 20} MiB")
                if self._unpacked > UNPACKED:
                    raise IngestError(f"too large: unpacks to more than {UNPACKED >> 20} MiB of text")
                yield chunk

    def read(self, name: str) -> bytes:
        """The content of a member."""
        return b"".join(self.chunks(name))

    def events(self, name: str) -> Iterator[XmlEvent]:
        """The elements and texts of an XML member, in order.

        Raises:
            IngestError: It has a document type definition, or elements nested too deeply.
        """
        handler = _Handler()
        parser = handler.parser()
        for chunk in self.chunks(name):
            parser.Parse(chunk)
            yield from handler.take()
        parser.Parse(b"", True)
        yield from handler.take()

    def tree(self, name: str) -> ElementTree.Element:
        """An XML member as a tree of elements without namespaces."""
        builder = ElementTree.TreeBuilder()
        for kind, value, attributes in self.events(name):
            if kind == "start":
                builder.start(value, dict(attributes))
            elif kind == "end":
                builder.end(value)
            else:
                builder.data(value)
        return builder.close()

    def relationships(self, part: str) -> dict[str, Relationship]:
        """The relationships of an Office part by their ids; those of the whole file for "" ."""
        folder, base = posixpath.split(part)
        name = posixpath.join(folder, "_rels", f"{base}.rels")
        if name not in self.names:
            return {}
        elements = [e for e in self.tree(name).iter("Relationship") if e.get("TargetMode") != "External"]
        return {
            element.get("Id", ""): Relationship(
                element.get("Type", "").rpartition("/")[2], resolved(folder, element.get("Target", ""))
            )
            for element in elements
        }

    def main_part(self, fallback: str) -> str:
        """The part in which an Office file starts, such as "word/document.xml"."""
        kinds = self.relationships("").values()
        return next((each.target for each in kinds if each.kind == "officeDocument"), fallback)

    def title(self) -> str:
        """The title in an Office file's properties; "" if there is none, or only the program's own."""
        if "docProps/core.xml" not in self.names:
            return ""
        title = (self.tree("docProps/core.xml").findtext("title") or "").strip()[:200]
        return "" if len(title) < 40 and "powerpoint" in title.lower() else title


class _Handler:
    """Collects expat's events."""

    def __init__(self) -> None:
        self._events: list[XmlEvent] = []
        self._depth = 0

    def parser(self) -> expat.XMLParserType:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse
        return parser

    def take(self) -> list[XmlEvent]:
        events, self._events = self._events, []
        return events

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise IngestError(f"too large: elements nested more than {DEEPEST} deep")
        self._events.append(XmlEvent("start", _local(name), {_attribute(key): attributes[key] for key in attributes}))

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._events.append(XmlEvent("end", _local(name), {}))

    def _text(self, text: str) -> None:
        self._events.append(XmlEvent("text", text, {}))

    def _refuse(self, *_: object) -> None:
        raise IngestError("damaged: XML with a document type definition, which such a file never has")


@lru_cache(4096)
def _local(name: str) -> str:
    return name.rpartition(" ")[2]


@lru_cache(4096)
def _attribute(name: str) -> str:
    namespace, _, local = name.rpartition(" ")
    return f"r:{local}" if namespace.endswith("/relationships") else local


def resolved(folder: str, target: str) -> str:
    """The name of a member from a reference in a file of some folder."""
    return posixpath.normpath(posixpath.join("/", folder, unquote(target))).lstrip("/")


@contextmanager
def opened(content: bytes, kind: str) -> Iterator[Package]:
    """Open an archive; errors inside say that this `kind` of file is damaged.

    Raises:
        IngestError: It is damaged, encrypted or too large.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(TEXT_PARTS)]
            unpacked = sum(member.file_size for member in members)
            if unpacked > UNPACKED:
                raise IngestError(
                    f"too large: unpacks to {unpacked / 2**20:.0f} MiB of text; "
                    f"expected at most {UNPACKED / 2**20:.0f} MiB"
                )
            if any(member.flag_bits & ENCRYPTED for member in members):
                raise IngestError("encrypted: it needs a password")
            yield Package(archive)
    except IngestError:
        raise
    except BROKEN as error:
        raise IngestError(f"damaged {kind}: {str(error)[:200]}") from error
