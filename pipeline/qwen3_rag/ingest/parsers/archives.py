"""Word and EPUB: zip archives that are converted to or contain HTML."""

import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import unquote
from xml.etree import ElementTree

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import imported
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.html import Parts, read_html

__all__ = ["epub", "word"]

UNPACKED = 256 << 20  # bytes of text in an archive
TEXT_PARTS = (".xml", ".html", ".xhtml", ".htm", ".opf", ".ncx", ".rels")
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
ENCRYPTED = 1  # bit of a member's flags


@contextmanager
def _archive(content: bytes, kind: str) -> Iterator[zipfile.ZipFile]:
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
            yield archive
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, NotImplementedError, RuntimeError, EOFError) as error:
        if isinstance(error, IngestError | RecursionError):
            raise
        raise IngestError(f"damaged {kind}: {error}") from error


def word(content: bytes) -> Iterator[list[Event]]:
    """Parse a Word document (.docx) with Mammoth; headings come from paragraph styles."""
    mammoth = imported(lambda: __import__("mammoth"), "mammoth", "Word documents")
    parts = Parts()
    with _archive(content, "Word document") as archive:
        if "docProps/core.xml" in archive.namelist():
            element = ElementTree.fromstring(archive.read("docProps/core.xml")).find(DUBLIN_CORE + "title")
            parts.title(((element.text if element is not None else "") or "")[:200])
        # Mammoth would inline every image as base64.
        no_pictures = mammoth.images.img_element(lambda _: {"src": ""})
        page = mammoth.convert_to_html(BytesIO(content), convert_image=no_pictures).value
    read_html(page, parts, chapter=True)
    yield parts.events


def epub(content: bytes) -> Iterator[list[Event]]:
    """Parse an EPUB book, chapter by chapter in reading order."""
    with _archive(content, "EPUB") as archive:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        root = container.find(".//{*}rootfile")
        if root is None:
            raise IngestError("damaged EPUB: META-INF/container.xml has no rootfile")
        place = root.get("full-path", "")
        package = ElementTree.fromstring(archive.read(place))
        title = package.find(f".//{DUBLIN_CORE}title")
        parts = Parts()
        parts.title(((title.text if title is not None else "") or "")[:200])
        yield parts.events
        items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
        for reference in package.iterfind(".//{*}spine/{*}itemref"):
            item = items.get(reference.get("idref"))
            if item is None or "nav" in item.get("properties", "").split():
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(place), unquote(item.get("href", ""))))
            chapter = Parts()
            read_html(archive.read(name).decode("utf-8-sig", errors="replace"), chapter, chapter=True)
            yield chapter.events
