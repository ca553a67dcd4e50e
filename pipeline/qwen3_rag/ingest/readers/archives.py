"""Word and EPUB: zip archives that are converted to or contain HTML."""

import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import unquote
from xml.etree import ElementTree

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.files import File, imported
from qwen3_rag.ingest.parsed import Builder, Parsed
from qwen3_rag.ingest.readers.html import read_html

__all__ = ["epub", "word"]

UNPACKED = 4  # times the maximum file size: text compresses by about this factor
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


@contextmanager
def _archive(file: File, kind: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(BytesIO(file.bytes)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist() if member.filename.endswith(TEXT_PARTS))
            if unpacked > UNPACKED * file.largest:
                raise IngestError(
                    f"{file.path}: unpacks to {unpacked / 2**20:.0f} MiB of text; "
                    f"expected at most {UNPACKED * file.largest / 2**20:.0f} MiB"
                )
            yield archive
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, NotImplementedError, RuntimeError, EOFError) as error:
        raise IngestError(f"{file.path}: broken {kind}: {error}") from error


TEXT_PARTS = (".xml", ".html", ".xhtml", ".htm", ".opf", ".ncx", ".rels")


def word(file: File) -> Iterator[Parsed]:
    """Read a Word document (.docx) with Mammoth; headings come from paragraph styles."""
    mammoth = imported(lambda: __import__("mammoth"), "mammoth", "Word documents")
    with _archive(file, "Word document") as archive:
        title = ""
        if "docProps/core.xml" in archive.namelist():
            element = ElementTree.fromstring(archive.read("docProps/core.xml")).find(DUBLIN_CORE + "title")
            title = ((element.text if element is not None else "") or "").strip()
        # Mammoth would inline every image as base64.
        no_pictures = mammoth.images.img_element(lambda _: {"src": ""})
        page = mammoth.convert_to_html(BytesIO(file.bytes), convert_image=no_pictures).value
    builder = Builder(title=title[:200] or None)
    read_html(page, builder, chapter=True)
    parsed = builder.parsed(file.stem)
    if parsed.document.text:
        yield parsed


def epub(file: File) -> Iterator[Parsed]:
    """Read an EPUB book, its chapters in reading order."""
    with _archive(file, "EPUB") as archive:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        root = container.find(".//{*}rootfile")
        if root is None:
            raise IngestError(f"{file.path}: broken EPUB: META-INF/container.xml has no rootfile")
        place = root.get("full-path", "")
        package = ElementTree.fromstring(archive.read(place))
        title = package.find(f".//{DUBLIN_CORE}title")
        items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
        builder = Builder(title=((title.text or "").strip()[:200] or None) if title is not None else None)
        for reference in package.iterfind(".//{*}spine/{*}itemref"):
            item = items.get(reference.get("idref"))
            if item is None or "nav" in item.get("properties", "").split():
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(place), unquote(item.get("href", ""))))
            read_html(archive.read(name).decode("utf-8-sig", errors="replace"), builder, chapter=True)
    parsed = builder.parsed(file.stem)
    if parsed.document.text:
        yield parsed
