"""A reader of one's own: the manual pages of a Unix system.

qwen3-rag sync /usr/share/man/man7 --store manuals --reader examples/manual_pages.py
"""

import subprocess
from collections.abc import Iterator

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import Builder, Parsed
from qwen3_rag.ingest.readers import reader

COMMAND = ["man", "--no-justification", "--no-hyphenation", "--local-file"]


SECTIONS = [f".{number}{part}" for number in range(1, 9) for part in ("", "ssl", "pm", "posix")]


@reader(*SECTIONS)
def manual_page(file: File) -> Iterator[Parsed]:
    """A page as `man` shows it; lines that are not indented are headings."""
    shown = subprocess.run([*COMMAND, str(file.path)], capture_output=True, check=True).stdout.decode()
    name, section = file.name.rsplit(".", 1)
    builder = Builder(title=f"{name}({section})")
    _head, *lines, _foot = shown.strip().splitlines()
    for block in "\n".join(lines).split("\n\n"):
        first, _, rest = block.strip("\n").partition("\n")
        if first and not first.startswith(" "):
            builder.heading(1, first.capitalize())
            block = rest
        builder.block("\n".join(line.strip() for line in block.splitlines()))
    yield builder.parsed(file.stem)
