"""HTML, EPUB and Office files: parsed in another process, put together here."""

import re
from collections.abc import Iterator

from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.readers.events import parsed_elsewhere

__all__ = ["epub", "excel", "html", "powerpoint", "word"]

LARGEST_HTML = 10 << 20  # bytes; text written by people stays far below
CHARSET = re.compile(rb"""(?i)<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""")


def html(file: File) -> Iterator[Parsed]:
    """Read an HTML page; the title is its <title>, else the first heading, else the file name."""
    if len(file.bytes) > LARGEST_HTML:
        raise ContentError(file.path, f"too large: more than {LARGEST_HTML >> 20} MiB, the maximum for HTML")
    return parsed_elsewhere(file, "html:html", _decoded(file).encode())


def word(file: File) -> Iterator[Parsed]:
    """Read a Word document (.docx); headings come from paragraph styles."""
    return parsed_elsewhere(file, "archives:word", file.bytes)


def epub(file: File) -> Iterator[Parsed]:
    """Read an EPUB book, its chapters in reading order."""
    return parsed_elsewhere(file, "archives:epub", file.bytes)


def powerpoint(file: File) -> Iterator[Parsed]:
    """Read a presentation (.pptx), its slides as pages under their titles."""
    return parsed_elsewhere(file, "slides:powerpoint", file.bytes)


def excel(file: File) -> Iterator[Parsed]:
    """Read a workbook (.xlsx), its sheets as pages under their names."""
    return parsed_elsewhere(file, "sheets:excel", file.bytes, titled=False)


def _decoded(file: File) -> str:
    declared = CHARSET.search(file.head[:2048])
    if declared and file.encoding not in ("utf-8", "utf-8-sig", "utf-16"):
        try:
            return file.bytes.decode(declared.group(1).decode())
        except (LookupError, UnicodeDecodeError):
            pass
    return file.text
